"""How much memory is free for what is preloaded."""

import psutil
import torch


def free_memory(device: torch.device) -> int:
    """Return how many bytes of a device's memory (the machine's, for ``cpu``) are free."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # torch keeps what the encoder took
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)
