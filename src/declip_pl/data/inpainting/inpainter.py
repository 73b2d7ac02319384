"""The chosen inpainter: what it is called, what it is made of, and one way to call it."""

import inspect
from pathlib import PurePath
from typing import Any

import numpy as np

from declip_pl.data.inpainting import classical, graph, pipeline
from declip_pl.data.inpainting.doors import INPAINTERS, Mask, Pixels, call, kind_of
from declip_pl.errors import UserError
from declip_pl.parts import Spec, as_text, code_of, read_spec, short
from declip_pl.privacy import all_without_folders

SHORT = {"onnx": "file", "diffusers": "model"}
"""What follows the colon in ``onnx:FILE`` and ``diffusers:MODEL``."""

OWN = (classical, graph, pipeline)
"""The modules whose inpainters are registered by being imported."""

_MORE = ("other", "prompt")


class Inpainter:
    """An inpainter that was chosen by name.

    Args:
        said: A registered word, ``onnx:FILE``, ``diffusers:MODEL``, a class path, or a mapping of
            ``class_path`` and ``init_args``.

    Raises:
        UserError: If there is none of that name, or it may not be used.

    Attributes:
        spec: As the registry has it.
        needs_photo: Whether it takes another photo of the same split.
        needs_prompt: Whether it takes a prompt.
    """

    def __init__(self, said: Spec) -> None:
        self.spec = _spec(said)
        name, init_args = read_spec(self.spec)
        self._part = INPAINTERS.find(name)
        if init_args and not isinstance(self._part, type):
            raise UserError(f"inpainter {name}: it is a function and takes no init_args")
        called = self._part.__call__ if isinstance(self._part, type) else self._part
        taken = inspect.signature(called).parameters
        self.needs_photo, self.needs_prompt = (name in taken for name in _MORE)
        self._built: Any = None

    def __str__(self) -> str:
        """Return the spec as one line, files without their folders."""
        name, init_args = read_spec(self.spec)
        said = all_without_folders(init_args)
        if name == "onnx" and "file" in said:  # its hash is on record, wherever it lies
            said["file"] = PurePath(said["file"]).name
        if name in SHORT and said.keys() == {SHORT[name]}:
            return f"{name}:{said[SHORT[name]]}"
        return as_text({"class_path": name, "init_args": said} if said else name)

    @property
    def name(self) -> str:
        """What the generator is called unless its user names it."""
        name, init_args = read_spec(self.spec)
        if name == "onnx":
            return PurePath(init_args.get("file", name)).stem
        if name == "diffusers":
            return PurePath(init_args.get("model", name)).name
        return short(self.spec)

    def identity(self) -> dict[str, str]:
        """Return what decides on the pixels, beside the spec.

        Raises:
            UserError: If it can't be used.
        """
        found = {"code": code} if (code := code_of(self._part)) else {}
        if hasattr(self._part, "identity"):
            found |= self._callable().identity()
        return found

    def versions(self) -> dict[str, str]:
        """Return the versions of what it needs beside NumPy and OpenCV."""
        return self._callable().versions() if hasattr(self._part, "versions") else {}

    def fill(
        self,
        photo: Pixels,
        mask: Mask,
        rng: np.random.Generator,
        other: Pixels | None = None,
        prompt: str | None = None,
    ) -> Pixels | None:
        """Fill a hole.

        Args:
            photo: The photo.
            mask: Where to fill.
            rng: Source of randomness.
            other: Another photo, for an inpainter that takes one.
            prompt: Text, for an inpainter that takes one.

        Returns:
            The whole picture as the inpainter gave it, or None if it gave none.

        Raises:
            UserError: If it fails or returns anything else.
        """
        more: dict[str, Any] = {"other": other} if self.needs_photo else {}
        more |= {"prompt": prompt} if self.needs_prompt else {}
        # Built within the call, so that what fails there is told in the same way.
        made = call(str(self), lambda: self._callable()(photo.copy(), mask.copy(), rng, **more))
        if made is None:
            return None
        if not (isinstance(made, np.ndarray) and made.dtype == np.uint8 and made.ndim == 3):  # noqa: PLR2004
            raise UserError(f"{self}: expected pixels [H, W, 3] uint8, found {kind_of(made)}")
        if made.shape != photo.shape:
            raise UserError(f"{self}: expected the shape {photo.shape}, found {made.shape}")
        return made

    def _callable(self) -> Any:
        if self._built is None:
            is_class = isinstance(self._part, type)
            self._built = INPAINTERS.make(self.spec) if is_class else self._part
        return self._built


def _spec(said: Spec) -> Spec:
    if isinstance(said, str):
        word, colon, rest = said.partition(":")
        if colon and word in SHORT:
            if not rest:
                raise UserError(f"--with {said}: expected {word}:{SHORT[word].upper()}")
            return {"class_path": word, "init_args": {SHORT[word]: rest}}
    return said
