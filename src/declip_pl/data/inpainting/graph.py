"""Inpainters as ONNX graphs with an image and a mask as inputs, run by onnxruntime."""

from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from declip_pl.data.inpainting.doors import INPAINTERS, Mask, Pixels
from declip_pl.data.masks import Polarity
from declip_pl.errors import UserError
from declip_pl.files import expanded, sha256

Range = Literal["0..1", "-1..1", "0..255"]

MULTIPLE = 8
"""Photos are padded to sides that are multiples of so many px, which most graphs need."""

PROBE = 256
"""Px, a side of the picture that tells which grey value of the mask means hole."""

SAME = 1.0
"""Levels by which two fills may differ on average and be the same but for rounding."""

FAR = 40.0
"""Levels by which the picture outside the hole may differ from the photo on average."""

_SCALES: dict[str, tuple[float, float]] = {
    "0..1": (255.0, 0.0),
    "-1..1": (127.5, 1.0),
    "0..255": (1.0, 0.0),
}
"""Range to (levels a unit, zero): value = level / levels - zero."""


class _Input(NamedTuple):
    name: str
    type: str
    shape: tuple[Any, ...]


@INPAINTERS.register("onnx")
class OnnxInpainter:
    """An ONNX graph ``image [1, 3, H, W], mask [1, 1, H, W] -> picture [1, 3, H, W]``.

    Inputs are uint8 or float32; masks are 0 and 255 in uint8, 0 and 1 in float32. A graph of a
    fixed size gets the photo resized, and its picture is resized back. It runs on the CPU, in one
    thread, so that the result does not depend on the machine's cores.

    Args:
        file: The graph.
        hole: Which grey value of its mask input means hole. By default it is found out: what the
            photo shows in the middle of the hole must not matter.
        levels: Range of a float32 image input.
        result: Range of a float32 result; by default that of the image input.
    """

    def __init__(
        self,
        file: str,
        hole: Polarity | None = None,
        levels: Range | None = None,
        result: Range | None = None,
    ) -> None:
        self.file: str = expanded(file)
        for said in (levels, result):
            if said not in (None, *_SCALES):
                raise UserError(f"onnx: expected one of {', '.join(_SCALES)}, found {said!r}")
        if hole not in (None, "black", "white"):
            raise UserError(f"onnx: expected hole to be black or white, found {hole!r}")
        self._said, self._levels, self._result = hole, levels, result

    def __call__(self, photo: Pixels, mask: Mask, rng: np.random.Generator) -> Pixels:
        """Return the picture that the graph makes."""
        del rng
        return self._run(photo, mask, self.hole)

    def identity(self) -> dict[str, str]:
        """Return what decides on the pixels.

        Raises:
            UserError: If the graph can't be used.
        """
        return {
            "sha256": sha256(Path(self.file)),
            "hole": self.hole,
            "levels": str(self._levels),
            "result": str(self._result),
        }

    def versions(self) -> dict[str, str]:
        """Return the versions of what runs it."""
        return {"onnxruntime": version("onnxruntime")}

    @cached_property
    def hole(self) -> Polarity:
        """Which grey value of the mask input means hole.

        Raises:
            UserError: If it can't be found out, or the picture outside the hole is another one.
        """
        photo, other, mask, core = _probe()
        candidates: tuple[Polarity, ...] = (self._said,) if self._said else ("white", "black")
        made = {hole: self._run(photo, mask, hole) for hole in candidates}
        far = {hole: _difference(picture, photo, ~mask) for hole, picture in made.items()}
        if min(far.values()) > FAR:
            raise UserError(
                f"{self.file}: outside the hole its picture differs from the photo by "
                f"{min(far.values()):.0f} levels on average: the range of its values is another "
                "one (or the polarity of its mask); say "
                f"{self._advice('levels: 0..1, result: 0..255, hole: white')}"
            )
        if self._said:
            return self._said
        found = [
            hole
            for hole in candidates
            if far[hole] <= FAR
            and _difference(made[hole], self._run(other, mask, hole), core) < SAME
        ]
        if len(found) != 1:
            raise UserError(
                f"{self.file}: can't tell whether black or white means hole in its mask input; say "
                f"{self._advice('hole: black')}"
            )
        return found[0]

    @cached_property
    def _session(self) -> Any:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise UserError("onnx: needs onnxruntime (pip install 'declip-pl[forge]')") from error
        if not Path(self.file).is_file():
            raise UserError(f"onnx: there is no file {self.file}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                self.file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes, which it does not document
            raise UserError(f"{self.file} is no graph that onnxruntime runs ({error})") from error

    @cached_property
    def _inputs(self) -> tuple[_Input, _Input]:
        """The image's input and the mask's.

        Raises:
            UserError: If the graph has others.
        """
        found = [_Input(i.name, i.type, tuple(i.shape)) for i in self._session.get_inputs()]
        masks = [i for i in found if len(i.shape) == 4 and i.shape[1] == 1]  # noqa: PLR2004
        images = [i for i in found if len(i.shape) == 4 and i.shape[1] == 3]  # noqa: PLR2004
        usable = {i.type for i in found} <= {"tensor(uint8)", "tensor(float)"}
        if not (len(found) == 2 and len(masks) == len(images) == 1 and usable):  # noqa: PLR2004
            said = ", ".join(f"{i.name} {i.type} {list(i.shape)}" for i in found)
            raise UserError(
                f"{self.file}: expected two inputs, an image [1, 3, H, W] and a mask "
                f"[1, 1, H, W], uint8 or float32; found {said}"
            )
        if images[0].type == "tensor(float)" and self._levels is None:
            raise UserError(
                f"{self.file}: its image input is float32; say of which range: "
                f"{self._advice('levels: 0..1')}"
            )
        return images[0], masks[0]

    def _run(self, photo: Pixels, mask: Mask, hole: Polarity) -> Pixels:
        image_input, mask_input = self._inputs
        height, width = photo.shape[:2]
        fixed = [side for side in image_input.shape[2:] if isinstance(side, int)]
        if len(fixed) == 2:  # noqa: PLR2004
            size = (fixed[1], fixed[0])
            image = np.asarray(cv2.resize(photo, size, interpolation=cv2.INTER_AREA), np.uint8)
            shown = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        else:
            more = ((0, -height % MULTIPLE), (0, -width % MULTIPLE))
            image, shown = np.pad(photo, (*more, (0, 0)), mode="edge"), np.pad(mask, more)
        white = np.asarray(shown if hole == "white" else ~shown)[None, None]
        feed = {
            image_input.name: self._values(image.transpose(2, 0, 1)[None], image_input.type),
            mask_input.name: white.astype(np.float32)
            if mask_input.type == "tensor(float)"
            else white.astype(np.uint8) * 255,
        }
        try:
            found = self._session.run(None, feed)[0]
        except Exception as error:  # onnxruntime's own classes, which it does not document
            raise UserError(f"{self.file} can't fill {width} x {height} px ({error})") from error
        if found.shape != (1, *image.transpose(2, 0, 1).shape):
            raise UserError(f"{self.file}: expected a picture [1, 3, H, W], found {found.shape}")
        picture = self._pixels(found[0].transpose(1, 2, 0))
        if len(fixed) == 2:  # noqa: PLR2004
            back = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
            return np.asarray(back, np.uint8)
        return picture[:height, :width]

    def _values(self, image: Pixels, kind: str) -> NDArray[Any]:
        if kind == "tensor(uint8)":
            return np.ascontiguousarray(image)
        levels, zero = _SCALES[str(self._levels)]
        return (image / np.float32(levels) - np.float32(zero)).astype(np.float32)

    def _pixels(self, values: NDArray[Any]) -> Pixels:
        if values.dtype == np.uint8:
            return np.ascontiguousarray(values)
        levels, zero = _SCALES[self._result or self._levels or "0..255"]
        return ((values + zero) * levels).round().clip(0, 255).astype(np.uint8)

    def _advice(self, arguments: str) -> str:
        return (
            f"--with '{{class_path: onnx, init_args: {{file: {self.file}, {arguments}}}}}' "
            "(as it is with this graph)"
        )


def _probe() -> tuple[Pixels, Pixels, Mask, Mask]:
    """Return two pictures that differ in the core of a hole only, the hole and its core.

    Near its border a hole is often blended with the photo.
    """
    rng = np.random.default_rng(0)
    photo, other = (
        np.asarray(cv2.resize(small, (PROBE, PROBE), interpolation=cv2.INTER_CUBIC), np.uint8)
        for small in rng.integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    )
    mask, core = np.zeros((2, PROBE, PROBE), bool)
    mask[PROBE // 4 : 3 * PROBE // 4, PROBE // 4 : 3 * PROBE // 4] = True
    core[3 * PROBE // 8 : 5 * PROBE // 8, 3 * PROBE // 8 : 5 * PROBE // 8] = True
    return photo, np.where(core[..., None], other, photo), mask, core


def _difference(first: Pixels, second: Pixels, where: Mask) -> float:
    return float(np.abs(first[where].astype(np.int16) - second[where]).mean())
