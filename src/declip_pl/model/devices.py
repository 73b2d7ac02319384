"""Where networks run: what ``--device`` names."""

import torch

from declip_pl.errors import UserError


def find_device(name: str | None = None) -> torch.device:
    """Return a device of this machine.

    Args:
        name: As torch calls it, such as ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; by default a GPU
            where there is one.

    Raises:
        UserError: If there is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).split("\n", 1)[0]
        raise UserError(f"the device {name!r} can't be used: {why}") from error
    return device
