"""``declip-pl forge``: the data of one generator, made of any photos."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Interval

from declip_pl import __version__
from declip_pl.data.forgeries.regions import SHAPES
from declip_pl.data.inpainting.folder import ForgedFolder
from declip_pl.data.inpainting.holes import choose_holes
from declip_pl.data.inpainting.inpainter import Inpainter
from declip_pl.data.inpainting.photos import Photo, find_photos
from declip_pl.data.inpainting.picture import Plan
from declip_pl.data.inpainting.record import About, FileFormat, Outside, Settings
from declip_pl.data.inpainting.report import contact_sheet, in_words
from declip_pl.data.layout import check_generator
from declip_pl.data.masks import Polarity
from declip_pl.data.partners import partners
from declip_pl.errors import UserError
from declip_pl.files import atomic_path, write_text
from declip_pl.model.description import Seed
from declip_pl.parts import Spec, read_spec

LOSSY = {".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".jp2", ".j2k", ".jpx"}
"""Suffixes of photos that were compressed with losses."""

Factor = Annotated[float, Interval(gt=0, le=1)]


@dataclass(frozen=True)
class Options:
    """How photos are forged.

    Args:
        name: What the generator is called; by default after the inpainter.
        masks: Shapes joined by +, some of ellipse, box, polygon and stroke; or a folder of masks, a
            data set in Dolos' layout, or a source of your own.
        area: Bounds on the share of the photo that drawn shapes cover.
        polarity: Which grey value means fake in a folder of masks, black or white.
        outside: What is outside the mask: paste (the photo's pixels), regenerated (the whole
            picture as the inpainter gave it) or both (a pair of generators with the same masks).
        prompts: File of prompts, one a line, of which each photo gets one.
        size: Px of the longer side to which larger photos are made smaller first.
        resize: Factor by which pictures are made smaller at the end, real and fake alike.
        format: Of the files, real and fake alike, jpeg or png.
        quality: Of JPEG files, a number or bounds from which each photo draws one.
        seed: Decides, with each photo, on mask, prompt, quality and fill.
    """

    name: str | None = None
    masks: str = "+".join(SHAPES)
    area: str = "0.03-0.25"
    polarity: Polarity = "black"
    outside: Outside = "paste"
    prompts: Path | None = None
    size: Annotated[int, Interval(ge=64)] | None = None
    resize: Factor = 1.0
    format: FileFormat = "jpeg"
    quality: str = "95"
    seed: Seed = 0


def forge(
    photos: Path,
    with_: Spec,
    options: Options,
    output: Path = Path("data/forged"),
    workers: Annotated[int, Interval(ge=1, le=1024)] | None = None,
) -> None:
    """Make a generator's data of any photos: masks, fakes and reals in Dolos' layout.

    Args:
        photos: Folder of untouched photos; its train/, valid/ and test/ are the splits, where it
            has any of them.
        with_: The inpainter: telea, navier-stokes, laplace, exemplar, fourier, poisson, copy-move,
            onnx:FILE, diffusers:MODEL, or one of your own.
        options: See above.
        output: Folder of the data. Several generators may be forged into one.
        workers: Processes; by default one for each core, of diffusers one. The pictures do not
            depend on it.

    Raises:
        UserError: If real and fake would differ beside the fill, something can't be read, or the
            inpainter fails.
    """
    if photos.resolve().is_relative_to(output.resolve()):
        raise UserError(f"--output {output} holds the photos: name another folder")
    inpainter = Inpainter(with_)
    found = find_photos(photos, skip=output)
    plan = _plan(output, inpainter, options, found)
    abouts = _abouts(plan, inpainter)
    versions = {"declip-pl": __version__, "numpy": np.__version__, "opencv": cv2.__version__}
    versions |= inpainter.versions()
    others = partners(found) if inpainter.needs_photo else [None] * len(found)
    tasks = list(zip(found, others, strict=True))
    if workers is None:
        workers = 1 if read_spec(inpainter.spec)[0] == "diffusers" else os.cpu_count() or 1
    manifest = ForgedFolder(plan, abouts, versions).complete(tasks, workers)
    said = in_words(plan, manifest)
    stem = options.name or inpainter.name
    write_text(output / f"forge-{stem}.txt", f"{said}\n")
    sheet = output / f"forge-{stem}.png"
    if any(manifest.generators[name].fakes for name in abouts):
        with atomic_path(sheet) as temporary:
            contact_sheet(plan, manifest).save(
                temporary, "PNG", compress_level=1
            )  # a third of the time
    print(f"{said}\ndata: {output} (look at {sheet.name})")


def bounds(said: str, least: float, most: float, what: str) -> tuple[float, float]:
    """Return the numbers in ``A-B``, or of ``A`` twice.

    Raises:
        UserError: If it is anything else, or not within bounds.
    """
    match = re.fullmatch(r"([\d.]+)(?:-([\d.]+))?", said)
    try:
        low, high = (float(part or match[1]) for part in match.groups()) if match else (0.0, 0.0)
    except ValueError:  # two points in a number
        match = None
    if not (match and least <= low <= high <= most):
        raise UserError(f"{what} {said}: expected a number or two, A-B, from {least:g} to {most:g}")
    return low, high


def _plan(root: Path, inpainter: Inpainter, options: Options, photos: list[Photo]) -> Plan:
    name = options.name or inpainter.name
    kinds = ("paste", "regenerated") if options.outside == "both" else (options.outside,)
    generators = {kind: f"{name}-{kind}" if len(kinds) > 1 else name for kind in kinds}
    for generator in generators.values():
        check_generator(generator, "--name")
    lossy = next((p.path for p in photos if p.path.suffix.lower() in LOSSY), None)
    if options.format == "png" and options.outside != "paste" and lossy:
        raise UserError(
            f"--outside {options.outside} with --format png: {lossy} was compressed with losses, "
            "of which real photos would keep the traces and regenerated ones would not; say "
            "--format jpeg"
        )
    low, high = bounds(options.quality, 1, 100, "--quality")
    area = bounds(options.area, 0.0001, 0.9, "--area")
    settings = Settings(
        options.seed, options.size, options.resize, options.format, (round(low), round(high))
    )
    holes = choose_holes(options.masks, area, options.polarity, photos)
    prompts = _prompts(options.prompts, inpainter)
    return Plan(root, settings, inpainter.spec, holes, prompts, generators)


def _abouts(plan: Plan, inpainter: Inpainter) -> dict[str, About]:
    identity = inpainter.identity()
    masks = plan.holes.identity()
    text = "\n".join(plan.prompts)
    prompts = hashlib.sha256(text.encode()).hexdigest() if plan.prompts else None
    return {
        generator: About(str(inpainter), identity, kind, masks, prompts)
        for kind, generator in plan.generators.items()
    }


def _prompts(file: Path | None, inpainter: Inpainter) -> tuple[str, ...]:
    if file is None:
        return ("",) if inpainter.needs_prompt else ()
    if not inpainter.needs_prompt:
        raise UserError(f"--prompts {file}: {inpainter} takes no prompt")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts {file} can't be read ({error})") from error
    if not (found := tuple(filter(None, (line.strip() for line in lines)))):
        raise UserError(f"--prompts {file}: expected a prompt on each line, found none")
    return found
