"""``declip-pl data``, ``cache`` and ``weights``: what is on this machine."""

from pathlib import Path

from declip_pl.data import cache_folders
from declip_pl.data.check import check_data, counted, present
from declip_pl.data.forgeries.folder import ForgeryFolder
from declip_pl.data.forgeries.sheet import contact_sheet
from declip_pl.data.forgeries.sources import Forgeries, Versions, layout_of, split_folders
from declip_pl.data.index import DataIndex
from declip_pl.data.layout import (
    ALL,
    REAL,
    SPLITS,
    build_layout,
    has_reals,
    mask_rule,
    mask_rule_key,
    select_generators,
)
from declip_pl.data.layouts.dolos import Source, source_root
from declip_pl.data.masks import Polarity
from declip_pl.data.mini import MINI, build_mini
from declip_pl.data.place import Place, read_place
from declip_pl.errors import UserError
from declip_pl.files import atomic_path
from declip_pl.model.description import Seed
from declip_pl.model.weights import resolve
from declip_pl.parts import Spec


def check(
    root: str,
    source: Source | None = None,
    layout: Spec = "dolos",
    polarity: Polarity | None = None,
    generator: str = ALL,
) -> None:
    """Decode every file of a data set and list all that is wrong with it.

    Whatever earlier runs have read of it is read again, and noted for later ones.

    A set may lack splits: with a test split alone it can be tested on. Of a published set the
    numbers of photos are compared with those that it should have.

    Args:
        root: The data set: a folder or file, or LAYOUT:PATH (declip-pl data info).
        source: Part of Dolos, where root holds several.
        layout: How it is laid out, where root does not say so.
        polarity: Which grey value of the masks means fake, in place of the layout's.
        generator: Which generators, as in declip-pl train.

    Raises:
        UserError: If anything would spoil training.
    """
    place = _place(root, source)
    layout = place.layout or layout
    data = build_layout(layout, place.root)
    names = select_generators(data, generator)
    names += [REAL] if any(has_reals(data, split) for split in SPLITS) else []
    wanted, lacks = present(data, names)
    rule, index = mask_rule(data, polarity), DataIndex(data.root, anew=True)
    report = check_data(data, wanted, rule, index, mask_rule_key(rule, layout))
    index.save()
    report.warnings += lacks + counted(data)
    report.raise_errors()
    print(report)
    if not report.warnings:
        print("nothing wrong")


def _place(named: str, source: Source | None) -> Place:
    place = read_place(named)
    return Place(source_root(place.root, source), place.layout) if source else place


def mini(root: Path = MINI) -> None:
    """Build mini, the stand-in for machines without Dolos.

    Args:
        root: Folder to build.
    """
    if not build_mini(root):
        print(f"{root} is complete already, nothing to do")


def forgeries(
    root: str,
    photos: str | None = None,
    versions: Versions = 4,
    seed: Seed = 0,
    source: Source | None = None,
    layout: Spec = "dolos",
    output: Path = Path("forgeries.png"),
) -> None:
    """Make the forgeries that training would see, and a picture of some of them.

    Args:
        root: The data set, whose own untouched photos are forged: a folder or file, or LAYOUT:PATH;
            none where there is none.
        photos: Folders of further untouched photos, joined by commas.
        versions: Forgeries of each photo.
        seed: Decides on the forgeries.
        source: Part of Dolos, where root holds several.
        layout: How it is laid out, where root does not say so.
        output: File of the picture: forged regions outlined, what was done below.

    Raises:
        UserError: If there is no photo to forge, or one can't be read.
    """
    options = Forgeries(split_folders(photos or ""), versions, seed)
    place = _place(root, source)
    data = layout_of(place.root, place.layout or layout, options)
    folder = ForgeryFolder(data, options)
    made = folder.manifest.forgeries
    folder.index.save()
    with atomic_path(output) as temporary:
        contact_sheet(folder).save(temporary, "PNG")
    counts = ", ".join(f"{count} of {name}" for name, count in folder.manifest.photos.items())
    print(f"forgeries: {len(made)} of {len(folder.sources)} photos ({counts}) in {folder.folder}")
    print(f"some of them: {output}")


def weights(encoder: str = "openai/clip-vit-base-patch16") -> None:
    """Fetch an encoder's frozen weights once and say where they come from.

    Args:
        encoder: A hub id or a local folder.
    """
    print(f"weights of {encoder}: {resolve(encoder).source}")


def cache_ls() -> None:
    """List the cached features: photos, size on disk, and which encoder they come from."""
    found = [cache_folders.describe(folder) for folder in cache_folders.caches()]
    print("\n".join(found) or "no features are cached")
    print(f"folder: {cache_folders.features_folder()} (DECLIP_FEATURES names another)")


def cache_check(delete: bool = False) -> None:
    """Read all cached features and name the damaged ones.

    Commands that need photos of a damaged shard encode them again; this is for finding out before.

    Args:
        delete: Delete damaged features.

    Raises:
        UserError: If some are damaged and not to be deleted, or a process is writing there.
    """
    count = 0
    for folder in cache_folders.caches():
        damaged = cache_folders.damaged_shards(folder)
        for shard in damaged:
            print(f"{shard.path} is damaged ({shard.fault})")
        if delete and damaged:
            cache_folders.delete_shards(folder, damaged)
        count += len(damaged)
    found = f"{count or 'no'} damaged shard{'' if count == 1 else 's'}"
    if count and not delete:
        raise UserError(f"{found}; delete them: declip-pl cache check --delete")
    print(f"{found}{', deleted' if count else ''}")


def cache_prune(name: str) -> None:
    """Delete cached features; what is needed again is encoded again.

    Args:
        name: A cache's name, as declip-pl cache ls shows it, or all.

    Raises:
        UserError: If there is no such cache, or a process is writing it.
    """
    chosen = [folder for folder in cache_folders.caches() if name in (folder.name, ALL)]
    if not chosen and name != ALL:
        raise UserError(f"no features are cached under {name!r}; see declip-pl cache ls")
    for folder in chosen:
        print(f"deleting {cache_folders.describe(folder)}")
        cache_folders.delete(folder)
