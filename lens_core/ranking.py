"""The order of tokens by score: equal scores are in the order of their ids.

`torch.topk` returns ties in any order; here a list is the same on every device and every time.
`blocked_topk` gives the same lists for many vectors at once.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.errors import ModelError


def top_k(
    scores: Float[Tensor, " d_vocab"], k: int, *, largest: bool = True
) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """The `k` best tokens, best first; equal scores in the order of their ids.

    Raises:
        ModelError: a score is NaN, so that there is no order.
    """
    if bool(scores.isnan().any()):
        raise ModelError("the scores are NaN: the feature or the model overflows")
    signed = scores if largest else -scores
    k = min(k, len(scores))
    # topk leaves ties in any order: take everything down to the k-th score, then order it.
    threshold = signed.topk(k).values[-1]
    candidates = (signed >= threshold).nonzero().squeeze(-1)
    order = signed[candidates].sort(descending=True, stable=True).indices[:k]
    ids = candidates[order]
    return ids, scores[ids]


def ranks(scores: Float[Tensor, " d_vocab"]) -> Int[Tensor, " d_vocab"]:
    """The rank (0 is best) of every token; equal scores in the order of their ids."""
    order = scores.sort(descending=True, stable=True).indices
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def outermost(
    readings: Float[Tensor, "lists d_vocab"], k: int, *, lowest: bool = False
) -> Int[Tensor, "lists k"]:
    """The ids of the `k` best tokens of each reading, or of the `k` worst, most extreme first.

    Equal scores are in the order of their ids, reversed for the worst.
    """
    found, ids = readings.topk(min(k + 1, readings.shape[1]), largest=not lowest)
    ids = ids[:, :k]
    # A tie, of which topk takes any, or a NaN, which equals nothing.
    clear = found[:, 1:] < found[:, :-1] if not lowest else found[:, 1:] > found[:, :-1]
    for row in (~clear.all(1)).nonzero().flatten().tolist():
        scores = readings[row]
        if lowest:
            ids[row] = len(scores) - 1 - top_k(scores.flip(0), k, largest=False)[0]
        else:
            ids[row] = top_k(scores, k)[0]
    return ids
