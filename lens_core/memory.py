"""How many samples to take at once, and what running out of memory looks like."""

from __future__ import annotations

import psutil
import torch

# Past this many tokens a larger batch no longer makes a pass cheaper per token: on a CPU
# it only leaves the cache, on a GPU the matrix products are already full.
FULL_TOKENS = {"cpu": 1024, "mps": 4096, "cuda": 16384}
# What one pass may take of the memory that is free when it starts.
SHARE_OF_FREE = {"cpu": 0.4, "mps": 0.4, "cuda": 0.8}


def free_bytes(device: torch.device) -> int:
    """Memory that a new allocation on `device` can have now, in bytes."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return int(psutil.virtual_memory().available)


def samples_at_once(device: torch.device, length: int, bytes_per_sample: int) -> int:
    """Samples of `length` tokens that fill `device` without passing its memory budget."""
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
    """Give cached blocks back before trying again with a smaller batch."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
