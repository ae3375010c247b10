"""How many samples to process at once, and how to detect running out of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar
from weakref import WeakSet

import psutil
import torch

# Beyond this many tokens a larger batch makes a pass no cheaper per token: on a CPU it no longer
# fits the cache, on a GPU the matrix products already fill the device.
FULL_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 16384}
# The part of free memory that one pass may use.
SHARE_OF_FREE = {"cpu": 0.4, "mps": 0.4, "cuda": 0.8}

_Part = TypeVar("_Part")


@dataclass
class Parts:
    """Rows `at_once` together; fewer, and from then on, once memory runs out."""

    at_once: int
    device: torch.device

    def each(self, n: int, of: Callable[[slice], _Part]) -> list[_Part]:
        """What `of` gives for consecutive parts of `n` rows; a part that fails begins again."""
        found: list[_Part] = []
        start = 0
        while start < n:
            stop = min(n, start + self.at_once)
            try:
                found.append(of(slice(start, stop)))
            except Exception as error:
                if stop - start == 1 or not is_out_of_memory(error):
                    raise
                self.at_once = (stop - start) // 2
                release(self.device)
                continue
            start = stop
        return found


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
