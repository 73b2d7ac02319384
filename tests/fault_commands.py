"""The commands that faults are tried on, with data, an encoder and models to try them on."""

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch
from conftest import make_clip, make_photo, make_tree
from fault_trials import Command, Ended, Place, Reference, differences
from localizer_example import checkpoint_of
from PIL import Image

import declip_pl.ablation.command
import declip_pl.cross_eval.command
import declip_pl.data.inpainting.command
import declip_pl.inference.predict
import declip_pl.training.lightning_cli  # noqa: F401 - what a fork need not import
from declip_pl import cli
from declip_pl.data import feature_cache
from declip_pl.data.feature_cache import FeatureCache
from declip_pl.inference import saved_folder
from declip_pl.model.encoder import build_encoder
from declip_pl.training.task import LocalizationTask

COUNTS = {"train": 4, "valid": 2, "test": 3}

RECIPE = """
model: {{encoder: {home}/tiny-clip, layer: layer1, decoder: linear, image_size: 64}}
data: {{root: x, generator: x, batch_size: 2, num_workers: 0}}
trainer: {{max_epochs: 3, accelerator: cpu, enable_progress_bar: false, logger: false}}
"""

QUESTION = """
question: Does more training help?
recipe: tiny.yaml
grid: {trainer.max_epochs: [1, 2]}
fixed: {data.generator: ldm}
axis: epochs
"""


class Home:
    """What the commands read, and the commands.

    Args:
        folder: A new folder for it; trials take place in ``here`` inside.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = Place(folder / "here")
        make_tree(folder / "dolos", ("ldm",), COUNTS)
        for path in (folder / "dolos").rglob("*.png"):  # what is read of files just made isn't kept
            os.utime(path, (1_700_000_000, 1_700_000_000))
        make_clip(folder / "tiny-clip")
        (folder / "tiny.yaml").write_text(RECIPE.format(home=folder))
        (folder / "mine.yaml").write_text(QUESTION)
        rng = np.random.default_rng(5)
        for index in range(6):
            path = folder / f"photos/{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(make_photo(rng)[: 72 + index]).save(path)
        task = LocalizationTask(str(folder / "tiny-clip"), "layer1", "linear", 64)
        saved_folder.save(checkpoint_of(task), folder / "model")
        self._references: dict[str, Reference] = {}

    def command(self, name: str) -> Command:
        """Return one of the commands by its name."""
        data, recipe = f"--data={self.folder}/dolos", f"--config={self.folder}/tiny.yaml"
        photos, runs = f"{self.folder}/photos", ("outputs/train/**/*",)
        train = ["train", data, recipe, "--generator=ldm", "--resume"]
        words = {
            "train": train,
            "train with workers": [
                *train,
                "--data.num_workers=2",
                "--data.cache=false",
                "--trainer.max_epochs=1",
            ],
            "cross-eval": ["cross-eval", data, recipe],
            "evaluate": ["cross-eval", data, recipe],
            "ablate": ["ablate", f"{self.folder}/mine.yaml", data],
            "forge": ["forge", photos, "--with=telea", "--output=made", "--workers=1"],
            "predict": ["predict", photos, f"--model={self.folder}/model", "--output=out"],
        }
        results = {
            "train": runs,
            "train with workers": runs,
            "cache": ("features/**/*.safetensors",),
            "cross-eval": (*runs, "outputs/cross_eval/**/*"),
            "evaluate": ("outputs/cross_eval/**/*",),
            "ablate": (*runs, "outputs/ablate/**/*"),
            "forge": ("made/**/*",),
            "predict": ("out/**/*",),
        }
        if name == "cache":
            return Command(name, self.encode, results[name])
        more = ["--resume"] if name == "predict" else []
        run = partial(cli.main, [*words[name], *more])
        return Command(name, run, results[name], self.trained() if name == "evaluate" else None)

    def forge_by_two(self) -> None:
        """Run ``forge`` with two processes."""
        words = ["forge", f"{self.folder}/photos", "--with=telea", "--output=made", "--workers=2"]
        cli.main(words)

    def reference(self, name: str) -> Reference:
        """Return what a command does and leaves that nothing happens to."""
        if name not in self._references:
            self._references[name] = self.place.reference(self.command(name))
            shutil.copytree(self.place.here, self.folder / "finished" / name)
        return self._references[name]

    def finished(self, name: str) -> Path:
        """Return a folder with what a command leaves that nothing happens to."""
        self.reference(name)
        return self.folder / "finished" / name

    def fault_of(self, name: str, ended: Ended | None = None) -> str:
        """Run a command again and return what is wrong with what then comes out.

        Args:
            name: The command.
            ended: How it ended before: if well, it is not run again.
        """
        command = self.command(name)
        if ended is None or ended.status:
            again = self.place.run(command)
            if again.status:
                return f"run again it ends with {again.status}: {again.said[-2000:]}"
        return differences(self.place.content(command), self.reference(name).content)

    def trained(self) -> Path:
        """Return a folder with trained models."""
        folder = self.folder / "trained"
        if not folder.exists():
            shutil.copytree(self.finished("train") / "outputs", folder / "outputs")
        return folder

    def encode(self) -> None:
        """Build the feature cache of all training photos, three in a shard."""
        feature_cache.SHARD = 3
        photos = sorted((self.folder / "dolos").rglob("train/*.png"))
        encoder = build_encoder(str(self.folder / "tiny-clip"), "layer1", 64)
        FeatureCache(encoder).fetch(photos, torch.device("cpu"))
