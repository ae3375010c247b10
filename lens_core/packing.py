"""Many continuations of one text in one row: each sees the text and itself, not the others.

    text text text a b c d        a, b, c, d all stand behind the text, at the same position

One row of so many tokens costs little more than one of them alone, whose text would have to be run
again for each. The model's own forward pass is given the mask and the positions, and what its
attention then receives is recorded as for plain rows (`lens_core.model`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


class Packed(NamedTuple):
    """A row of `shared` tokens of a text, then of `apart` continuations of one token each."""

    shared: int
    apart: int

    @property
    def length(self) -> int:
        return self.shared + self.apart

    @property
    def positions(self) -> Int64[Tensor, "one length"]:
        """The position of every token."""
        return torch.tensor([*range(self.shared), *[self.shared] * self.apart])[None]

    @property
    def sees(self) -> Bool[Tensor, "length length"]:
        """Whether each token (row) sees another."""
        found = torch.ones(self.length, self.length, dtype=torch.bool).tril()
        found[self.shared :, self.shared :] = torch.eye(self.apart, dtype=torch.bool)
        return found


def forward_inputs(row: Packed, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """The arguments of a Hugging Face model's forward pass for such rows."""
    mask = torch.zeros(row.length, row.length, dtype=dtype)
    mask.masked_fill_(~row.sees, torch.finfo(dtype).min)
    return {
        "attention_mask": mask[None, None].to(device),
        "position_ids": row.positions.to(device),
    }
