"""Numbers that can be computed with: of a model's weights, and of a dictionary's.

A weight that is not a number, or so large that its square overflows in float32 (in which
transformers computes norms, whatever the model's dtype), makes a model that answers with
zeros or not at all, and every lens on it with something that looks like an answer.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

LARGEST = torch.finfo(torch.float32).max ** 0.5
"""Above this the square of a weight is no number of float32 any more (1.8e19)."""


def unsound(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """What is wrong with the first tensor that is; `None` where all numbers can be used."""
    for name, tensor in named:
        if not tensor.numel() or not tensor.is_floating_point():
            continue
        low, high = (float(end) for end in torch.aminmax(tensor.detach()))
        largest = max(-low, high)
        if largest != largest:
            return f"NaN values in {name}"
        if largest == float("inf"):
            return f"infinite values in {name}"
        if largest > LARGEST:
            return f"values up to {largest:.0e} in {name}, whose squares overflow in float32"
    return None
