"""Packed rows against plain rows, one for each continuation."""

from __future__ import annotations

import pytest
import torch

from lens_core.packing import Packed


@pytest.mark.parametrize("text", [(4, 9, 30), (7,)])
def test_a_continuation_in_a_packed_row_is_as_by_itself(tiny, text) -> None:
    ids = torch.tensor([3, 50, 77, 9, 50])
    packed = Packed(len(text), len(ids))
    row = torch.cat([torch.tensor(text), ids])[None].expand(2, -1)
    together = tiny.sites(row, packed=packed)
    for at, token in enumerate(ids.tolist()):
        alone = tiny.sites(torch.tensor([[*text, token]]))
        for site, (one, other) in enumerate(zip(together, alone, strict=True)):
            for sample in range(2):
                # Hugging Face's norms and softmax compute in float32 even in a float64 model.
                assert torch.allclose(
                    one[sample, len(text) + at], other[0, -1], rtol=1e-5, atol=1e-6
                ), site
    plain = tiny.sites(row)[-1][0, -1]
    assert not torch.allclose(together[-1][0, -1], plain, rtol=1e-3)
