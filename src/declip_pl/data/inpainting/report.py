"""What was made, in words and as a contact sheet to look at."""

from collections import Counter

import numpy as np
from PIL import Image, ImageDraw

from declip_pl.data.forgeries.sheet import TILE, tile
from declip_pl.data.images import read_photo
from declip_pl.data.inpainting.picture import Plan
from declip_pl.data.inpainting.record import Made, Manifest
from declip_pl.data.layout import SPLITS
from declip_pl.data.masks import mostly_fake, read_mask

ROWS, PAIRS = 8, 3
"""Rows of the sheet, and photos in each."""

_BAR = 16


def in_words(plan: Plan, manifest: Manifest) -> str:
    """Return what was made by each generator of a plan, how much is masked and what changed."""
    lines = []
    for generator in plan.generators.values():
        made = manifest.generators[generator]
        splits = Counter(key.partition("/")[0] for key in made.fakes)
        counts = ", ".join(f"{split} {splits[split]}" for split in SPLITS)
        lines.append(f"{generator}: {len(made.fakes)} fakes ({counts}) by {made.about.inpainter}")
        for why, count in Counter(made.left_out.values()).most_common():
            lines.append(f"  left out: {count} photos ({why})")
        if made.fakes:
            lines += [f"  {line}" for line in (*_masks(made), _changes(made))]
        lines += [
            f"  there is no {split} photo: add photos, or sort them into "
            f"{'/, '.join(SPLITS)}/ yourself"
            for split in SPLITS
            if not splits[split]
        ]
    s = plan.settings
    low, high = s.quality
    quality = f", quality {low if low == high else f'{low} to {high}'}, 4:4:4"
    lines.append(f"files: {s.format.upper()}{quality if s.format == 'jpeg' else ''}, real and fake")
    return "\n".join(lines)


def contact_sheet(plan: Plan, manifest: Manifest) -> Image.Image:
    """Draw some photos, evenly spread over all, beside what was made of each.

    Args:
        plan: How they were made.
        manifest: What was made.

    Returns:
        Rows of three photos; each with its mask outlined, then its fakes as they are.
    """
    names = list(plan.generators.values())
    keys = list(manifest.generators[names[0]].fakes)
    count = min(len(keys), ROWS * PAIRS)
    chosen = [keys[index * len(keys) // count] for index in range(count)]
    across = TILE * (1 + len(names))
    height = TILE + _BAR
    sheet = Image.new("RGB", (PAIRS * across, -(-count // PAIRS) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, key in enumerate(chosen):
        left, top = index % PAIRS * across, index // PAIRS * height
        mask = read_mask(plan.mask(names[0], key), "black")
        pictures = [tile(read_photo(plan.real(key)), mask)]
        pictures += [tile(read_photo(plan.image(name, key))) for name in names]
        for place, (picture, title) in enumerate(zip(pictures, (key, *names), strict=True)):
            sheet.paste(picture, (left + place * TILE, top + _BAR))
            shown = title[:40].encode("utf-8", "replace").decode()  # names need not be UTF-8
            draw.text((left + place * TILE + 4, top + 2), shown, fill="black")
    return sheet


def _masks(made: Made) -> list[str]:
    fakes = list(made.fakes.values())
    areas = np.array([forged.area for forged in fakes])
    found = 100 * np.quantile(areas, [0, 0.25, 0.5, 0.75, 1])
    least, *quartiles, most = [f"{value:.1f}" for value in found]
    pieces = np.array([forged.pieces for forged in fakes])
    lines = [
        f"masks: {least} to {most} % of the photo, quartiles {', '.join(quartiles)} %",
        f"  {_kinds(made)}; {pieces.mean():.1f} pieces on average, at most {pieces.max()}",
    ]
    if finding := mostly_fake("masks", float(areas.mean()), "black"):
        lines.append(f"  {finding.partition(' if ')[0]}: look whether they are inverted")
    return lines


def _kinds(made: Made) -> str:
    """Return in words what the masks are of."""
    drawn = [forged.drawn for forged in made.fakes.values()]
    if "shapes" in made.about.masks:
        counts = Counter(kind for kinds in drawn for kind in kinds.split("+"))
        shares = [f"{kind} in {100 * n / len(drawn):.0f} %" for kind, n in counts.most_common()]
        return ", ".join(shares)
    if "own" in made.about.masks:
        return f"by {made.about.masks['own']}"
    return f"{len(set(drawn))} different names of files"


def _changes(made: Made) -> str:
    inside, outside = (
        float(np.mean([getattr(forged, where) for forged in made.fakes.values()]))
        for where in ("inside", "outside")
    )
    kept = "the photo's are pasted over it" if made.about.outside == "paste" else "it stays"
    return (
        f"the inpainter changed pixels by {inside:.1f} levels on average inside the masks, by "
        f"{outside:.2f} outside: {kept}"
    )
