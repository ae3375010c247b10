"""How similar the tokens of a list are to each other, and how much two lists overlap.

    coherence(L) = mean over pairs i != j in L of cos(w_i - c, w_j - c)
                 = (|sum u_i|^2 - sum |u_i|^2) / (k (k - 1)),   u_i = (w_i - c) / |w_i - c|

where `w` are the rows the list was read with. The second form needs one sum per list instead
of all pairs: `k d` operations, against `d V` for finding the list.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK_BYTES = 1 << 24


def coherence(
    ids: Int[Tensor, "lists k"],
    rows: Float[Tensor, "d_vocab d_model"],
    center: Float[Tensor, " d_model"],
) -> Float[Tensor, " lists"]:
    """The mean pairwise cosine of each list's centred rows, -1/(k-1) to 1.

    About 0 for random tokens; NaN for lists of one token. A row equal to the centre has no
    direction and counts as cosine 0 with all others.
    """
    k, d_model = ids.shape[1], rows.shape[1]
    at_once = max(1, _BLOCK_BYTES // (k * d_model * rows.element_size()))
    return torch.cat([_coherence(block, rows, center) for block in torch.split(ids, at_once)])


def _coherence(ids: Tensor, rows: Tensor, center: Tensor) -> Tensor:
    shift = rows[ids] - center
    length = shift.norm(dim=-1, keepdim=True)
    unit = shift / torch.where(length > 0, length, 1)
    pairs = unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))
    k = ids.shape[1]
    return pairs / (k * (k - 1)) if k > 1 else torch.full_like(pairs, float("nan"))


def overlap(one: Int[Tensor, "lists k"], other: Int[Tensor, "lists k"]) -> Float[Tensor, " lists"]:
    """The share of tokens that two lists have in common (0 to 1); no list has a token twice."""
    return (one[:, :, None] == other[:, None, :]).sum((1, 2)) / one.shape[1]
