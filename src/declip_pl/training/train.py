"""``declip-pl train`` and ``declip-pl test``: what Lightning is asked to do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from declip_pl.data.layout import ALL, FORGERIES
from declip_pl.data.layouts.dolos import Source
from declip_pl.data.mini import MINI, build_mini
from declip_pl.files import relative
from declip_pl.model.checkpoint import CONFIG_FILE, Checkpoint, read_checkpoint, run_of
from declip_pl.model.description import Seed, TrainedOn
from declip_pl.model.devices import find_device
from declip_pl.training.lightning_cli import DeclipCLI
from declip_pl.training.recipe import Options, choose_config, choose_data
from declip_pl.training.recipe_file import as_argument, read_recipe
from declip_pl.training.run_folder import CONFIG


def train(
    options: Options,
    generator: str = "ldm",
    seed: Seed | None = None,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    further: tuple[str, ...] = (),
) -> None:
    """Train a localizer on one generator's images and test it on their test split.

    Uses Dolos with the paper's recipe where there is one, and otherwise builds the stand-in mini
    and takes the quick recipe. Says in one line what it took and why. Options that it does not know
    go to fit, such as --trainer.max_epochs 3.

    Args:
        options: What to train on and how.
        generator: Generator(s) to train on: one of the data set's, several joined by +, all,
            all-but-NAME, or none to train on forgeries alone.
        seed: Random seed, in place of the recipe's.
        name: Name of the run's folder in outputs/train.
        resume: Continue an interrupted run.
        overwrite: Replace a run of the same name.
        further: Options of fit.
    """
    brief = "--run.brief=true" in further
    arguments = fit_arguments(options, generator, seed, name, resume, overwrite, brief)
    DeclipCLI([*arguments, *further])


def fit_arguments(
    options: Options,
    generator: str = "ldm",
    seed: Seed | None = None,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    brief: bool = False,
) -> list[str]:
    """Choose data and recipe; return the arguments of ``declip-pl fit`` for :func:`train`.

    Says what was chosen and why, unless ``brief``: then another command has said it. Of several
    processes of one training the first says it.
    """
    device = on_device(options.device)
    place, why_data = choose_data(options.data, options.source)
    root, options = place.root, replace(options, layout=place.layout or options.layout)
    if root == MINI:
        build_mini(MINI)
    chosen, why_config = choose_config(options.config, root)
    if not (brief or rank_zero_only.rank):  # type: ignore[attr-defined]
        print(f"data: {place} ({why_data}); recipe: {relative(chosen)} ({why_config})")
    given: dict[str, Any] = {"config": chosen, "data.root": root, "data.generator": generator}
    given |= options.given(read_recipe(chosen)) | {"seed_everything": seed, "run.name": name}
    given |= {"run.resume": str(resume).lower(), "run.overwrite": str(overwrite).lower()}
    given |= device
    return ["fit", *_as_arguments(given)]


def test(
    model: str,
    data: str | None = None,
    generator: str | None = None,
    source: Source | None = None,
    polarity: str | None = None,
    perturbation: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    device: str | None = None,
    encoder: str | None = None,
    further: tuple[str, ...] = (),
) -> None:
    """Repeat the test that ends a training, with Lightning's options; evaluate does more.

    Options that it does not know go to Lightning, such as --data.batch_size 16.

    Args:
        model: A run's folder, a checkpoint, a saved folder, a hub id, or starter.
        data: The data set's folder or file, or LAYOUT:PATH; by default the one that a run was
            trained on.
        generator: Whose test photos, as in train; by default what the model was trained on.
        source: Part of Dolos: celebahq or ffhq.
        polarity: Which grey value of the masks means fake, black or white.
        perturbation: Changes of the photos: none, blur, jitter, jpeg, all, or a list in YAML.
        output: Folder for the results; by default the run's own, or outputs/test/NAME for a model
            that lies in no run.
        overwrite: Replace the results of an earlier test.
        device: Where it runs, such as cpu, cuda or cuda:1; by default a GPU where there is one.
        encoder: Folder or hub id of the same frozen encoder, in place of the one on record.
        further: Options of Lightning.
    """
    checkpoint = read_checkpoint(model)
    run = run_of(checkpoint.path)
    config = run / CONFIG if run else None
    given: dict[str, Any] = {"config": config if config and config.is_file() else None}
    given |= _described(checkpoint) | ({"model.encoder": encoder} if encoder else {})
    if data or source or not given["config"]:
        place = choose_data(data, source)[0]
        given |= {"data.root": place.root, "data.layout": place.layout}
        if place.layout:  # then the polarity on record is of another layout
            polarity = polarity or "null"
    if generator or not given["config"]:
        given["data.generator"] = generator or _own_test(checkpoint.trained_on)
    given |= {"data.polarity": polarity, "data.perturbation": perturbation}
    given |= {"ckpt_path": checkpoint.path, "run.overwrite": str(overwrite).lower()}
    given |= on_device(device)
    if (checkpoint.path / CONFIG_FILE).is_file():
        given["run.name"] = Path(checkpoint.name).name
    DeclipCLI(["test", *_as_arguments(given), *further], output and output.expanduser())


def on_device(device: str | None) -> dict[str, Any]:
    """Return the options of Lightning's trainer for a device as torch calls it.

    Raises:
        UserError: If this machine has no such device.
    """
    if device is None:
        return {}
    found = find_device(device)
    devices = "1" if found.index is None else f"[{found.index}]"
    return {"trainer.accelerator": found.type, "trainer.devices": devices}


def _own_test(trained_on: TrainedOn | None) -> str:
    """Return whose test photos a model is tested on unasked."""
    seen = trained_on.generators if trained_on else (FORGERIES,)
    return ALL if seen == (FORGERIES,) else "+".join(seen)


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    names = ("encoder", "layer", "decoder", "image_size", "pooling", "supervision")
    return {f"model.{name}": getattr(checkpoint, name) for name in names}


def _as_arguments(given: dict[str, Any]) -> list[str]:
    return [f"--{name}={as_argument(value)}" for name, value in given.items() if value is not None]
