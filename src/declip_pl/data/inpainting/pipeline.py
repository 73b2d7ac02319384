"""Inpainters of diffusers: pipelines from the hub or from a folder."""

import hashlib
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from declip_pl.data.inpainting.doors import INPAINTERS, Mask, Pixels
from declip_pl.errors import UserError
from declip_pl.files import expanded, sha256

MULTIPLE = 16
"""Photos are padded to sides that are multiples of so many px: latents of 8 px, in pairs."""


@INPAINTERS.register("diffusers")
class DiffusersInpainter:
    """An inpainting pipeline of diffusers; its weights are read as safetensors alone.

    It runs on a GPU where there is one. Photos that its safety checker refuses are left out.

    Args:
        model: A hub id or a folder.
        steps: Denoising steps; by default the pipeline's.
        guidance: Strength of the prompt; by default the pipeline's.
        strength: Share of the noise that is put over the photo, in (0, 1]; by default the
            pipeline's.
        dtype: Of the weights, a name in torch; by default float16 on a GPU, else float32.
    """

    def __init__(
        self,
        model: str,
        steps: int | None = None,
        guidance: float | None = None,
        strength: float | None = None,
        dtype: str | None = None,
    ) -> None:
        self.model = model
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dtype = dtype or ("float16" if self._device == "cuda" else "float32")
        if not isinstance(getattr(torch, self._dtype, None), torch.dtype):
            raise UserError(f"diffusers: torch has no type of numbers {self._dtype!r}")
        said = {"num_inference_steps": steps, "guidance_scale": guidance, "strength": strength}
        self._settings = {name: value for name, value in said.items() if value is not None}

    def __call__(
        self, photo: Pixels, mask: Mask, rng: np.random.Generator, prompt: str
    ) -> Pixels | None:
        """Return the picture that the pipeline makes; None if its safety checker refuses it."""
        height, width = photo.shape[:2]
        more = ((0, -height % MULTIPLE), (0, -width % MULTIPLE))
        padded, hole = np.pad(photo, (*more, (0, 0)), mode="edge"), np.pad(mask, more)
        made = self._pipeline(
            prompt=prompt,
            image=Image.fromarray(padded),
            mask_image=Image.fromarray(hole.astype(np.uint8) * 255),  # white = to be filled
            height=padded.shape[0],
            width=padded.shape[1],
            generator=torch.Generator("cpu").manual_seed(int(rng.integers(2**63))),
            **self._settings,
        )
        if any(getattr(made, "nsfw_content_detected", None) or ()):
            return None
        picture = np.asarray(made.images[0].convert("RGB"))
        return np.ascontiguousarray(picture[:height, :width])

    def identity(self) -> dict[str, str]:
        """Return what decides on the pixels: the commit on the hub, or a SHA-256 of all files.

        Raises:
            UserError: If there is no such model.
        """
        settings = {name: str(value) for name, value in self._settings.items()}
        folder = self._folder
        if folder.parent.name == "snapshots":
            return {"commit": folder.name, "dtype": self._dtype, **settings}
        digest = hashlib.sha256()
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
        return {"sha256": digest.hexdigest(), "dtype": self._dtype, **settings}

    def versions(self) -> dict[str, str]:
        """Return the versions of what runs it."""
        return {"diffusers": version("diffusers"), "torch": torch.__version__}

    @cached_property
    def _folder(self) -> Path:
        """Where the model is, on this machine."""
        diffusers = _diffusers()
        folder = Path(expanded(self.model))
        if folder.is_dir():
            return folder.resolve()
        try:
            return Path(diffusers.DiffusionPipeline.download(self.model, use_safetensors=True))
        except Exception as error:  # of the hub's client, of requests, of diffusers
            raise UserError(
                f"diffusers: {self.model} is no folder and can't be fetched ({error})"
            ) from error

    @cached_property
    def _pipeline(self) -> Any:
        diffusers = _diffusers()
        try:
            made = diffusers.AutoPipelineForInpainting.from_pretrained(
                self._folder, dtype=getattr(torch, self._dtype), use_safetensors=True
            )
        except Exception as error:  # whatever its many parts raise
            raise UserError(f"diffusers: can't load {self.model} to inpaint ({error})") from error
        made.set_progress_bar_config(disable=True)
        return made.to(self._device)


def _diffusers() -> Any:
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise UserError("diffusers: is missing (pip install 'declip-pl[forge]')") from error
    return diffusers
