"""``declip-pl train``: choose data and recipe for what this machine has, then fit."""

import os
from pathlib import Path

from declip_pl.data.layout import SOURCES, source_root
from declip_pl.data.mini import build_mini
from declip_pl.errors import UserError

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"
DOLOS, MINI = Path("data/dolos_data"), Path("data/mini")


def choose_data(data: str | None) -> tuple[Path, str]:
    """Return the data set to use and why.

    The first of: ``data``, ``$DECLIP_DATA``, ``data/dolos_data`` if it exists, ``data/mini``.

    Args:
        data: A folder in Dolos' layout, or None.
    """
    named = data or os.environ.get("DECLIP_DATA")
    if named:
        return Path(named), "DATA names it" if data else "DECLIP_DATA names it"
    if DOLOS.is_dir():
        return DOLOS, f"{DOLOS} exists"
    return MINI, f"no DATA, no DECLIP_DATA and no {DOLOS}; a stand-in, not Dolos"


def choose_config(config: str | None, root: Path, source: str | None) -> tuple[Path, str]:
    """Return the experiment file to use and why.

    Dolos proper (a folder of sources such as ``celebahq``) gets the paper's recipe; anything
    smaller in its layout the quick one, which also runs without a GPU.

    Args:
        config: An experiment file, or None.
        root: The chosen data.
        source: Part of Dolos.

    Raises:
        UserError: If the file does not exist.
    """
    if config:
        if not Path(config).is_file():
            raise UserError(f"there is no experiment file {config}; see {EXPERIMENTS}")
        return Path(config), "CONFIG names it"
    if source_root(root, source) != root or root.name in SOURCES:
        return EXPERIMENTS / "paper.yaml", "the paper's recipe for Dolos"
    return EXPERIMENTS / "quickstart.yaml", "the quick recipe, as this is not Dolos"


def train_arguments(
    generator: str = "ldm",
    data: str | None = None,
    config: str | None = None,
    source: str | None = None,
    convention: str | None = None,
    encoder: str | None = None,
    decoder: str | None = None,
    layer: str | None = None,
    supervision: str | None = None,
    seed: int | None = None,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Train a localizer on one generator's images and test it on their test split.

    Uses Dolos with the paper's recipe where there is one, and otherwise builds the stand-in
    ``mini`` and takes the quick recipe. Says in one line what it took and why.

    Args:
        generator: Generator(s) to train on: a folder under ``fake/``, several joined by ``+``,
            ``all``, or ``all-but-NAME``.
        data: Folder in Dolos' layout.
        config: Experiment file (see ``experiments/``).
        source: Part of Dolos: ``celebahq`` or ``ffhq``.
        convention: Whose mask polarity the data follow, in place of Dolos' (black = fake).
        encoder: Frozen encoder, in place of the recipe's.
        decoder: Decoder, in place of the recipe's.
        layer: Feature layer, in place of the recipe's.
        supervision: ``full`` (masks) or ``weak`` (image labels), in place of the recipe's.
        seed: Random seed, in place of the recipe's.
        name: Name of the run's folder in ``outputs/train``.
        resume: Continue an interrupted run.
        overwrite: Replace a run of the same name.

    Returns:
        The arguments of ``declip-pl fit`` that do this.
    """
    root, why_data = choose_data(data)
    if root == MINI:
        build_mini(MINI)
    chosen, why_config = choose_config(config, root, source)
    print(f"data: {root} ({why_data}); recipe: {_relative(chosen)} ({why_config})")
    options = {
        "config": chosen,
        "data.root": root,
        "data.generator": generator,
        "data.source": source,
        "data.convention": convention,
        "model.encoder": encoder,
        "model.decoder": decoder,
        "model.layer": layer,
        "model.supervision": supervision,
        "seed_everything": seed,
        "run.name": name,
        "run.resume": str(resume).lower(),
        "run.overwrite": str(overwrite).lower(),
    }
    given = {key: value for key, value in options.items() if value is not None}
    return ["fit", *(f"--{key}={value}" for key, value in given.items())]


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
