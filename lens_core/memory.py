"""How many samples to process at once, and how to detect running out of memory."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakSet

import psutil
import torch

# Beyond this many tokens a larger batch makes a pass no cheaper per token: on a CPU it no longer
# fits the cache, on a GPU the matrix products already fill the device.
FULL_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 16384}
# The part of free memory that one pass may use.
SHARE_OF_FREE = {"cpu": 0.4, "mps": 0.4, "cuda": 0.8}


class Holder(Protocol):
    """Holds memory that it can do without."""

    def release(self) -> None:
        """Give it back."""


give_way: WeakSet[Holder] = WeakSet()
"""Holders that release their memory when an allocation fails."""


def free_bytes(device: torch.device) -> int:
    """Bytes of memory available for new allocations on `device`."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return int(psutil.virtual_memory().available)


def samples_at_once(device: torch.device, length: int, bytes_per_sample: int) -> int:
    """How many samples of `length` tokens to process at once within the memory budget."""
    kind = device.type if device.type in FULL_TOKENS else "cpu"
    fits = int(free_bytes(device) * SHARE_OF_FREE[kind] // max(1, bytes_per_sample))
    return max(1, min(fits, -(-FULL_TOKENS[kind] // length)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: CUDA's own class, or the CPU allocator's RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )


def release(device: torch.device) -> None:
    """Release cached memory and what holders can do without, before trying again with less."""
    for holder in list(give_way):
        holder.release()
    if device.type == "cuda":
        torch.cuda.empty_cache()
