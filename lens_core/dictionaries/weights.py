"""SAELens's weights, folded so that keys, values and biases have one meaning.

    b_i <- b_i - b_dec . k_i                                    b_dec is subtracted from the input
    k_i <- |v_i| k_i,  b_i <- |v_i| b_i,  v_i <- v_i / |v_i|    TopK that rescales by |v_i|

so that `p = x keys^T + bias` is the pre-activation, `a = activation(p)` what SAELens's
`encode` gives, and `a values + b_dec` what its `decode` gives. A gated dictionary's
pre-activation is its gate's: the magnitude path reads the same direction, `exp(r_i) k_i`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Rows per product in float64, so that a wide dictionary is not copied as a whole.
_ROWS = 8192


def folded(cfg: Any, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The folded weights and biases; see the module's formulas.

    Folding is done in float64, so that a dictionary has the same hash in every precision.
    """
    keys, values = parameters["W_enc"].T.contiguous(), parameters["W_dec"]
    bias = parameters["b_gate" if "b_gate" in parameters else "b_enc"]
    if cfg.apply_b_dec_to_input and bool(parameters["b_dec"].any()):
        taken_off = parameters["b_dec"].double()
        bias = bias.double() - torch.cat(
            [rows.double() @ taken_off for rows in torch.split(keys, _ROWS)]
        )
    if getattr(cfg, "rescale_acts_by_decoder_norm", False):
        length = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)
        bias = bias.double() * length
        keys, values = _scaled(keys, length), _scaled(values, length.where(length > 0, 1).pow(-1))
    tensors = {
        "keys": keys,
        "values": values,
        "encoder_bias": bias,
        "decoder_bias": parameters["b_dec"],
    }
    if "threshold" in parameters:
        tensors["threshold"] = parameters["threshold"]
    if "r_mag" in parameters:
        # exp(r) (p - b_gate) + b_mag = exp(r) p + (b_mag - exp(r) b_gate)
        scale = parameters["r_mag"].double().exp()
        tensors["magnitude"] = scale
        tensors["magnitude_bias"] = (
            parameters["b_mag"].double() - scale * parameters["b_gate"].double()
        )
    return tensors


def _scaled(rows: Tensor, factors: Tensor) -> Tensor:
    parts = zip(torch.split(rows, _ROWS), torch.split(factors, _ROWS), strict=True)
    return torch.cat([(part.double() * factor[:, None]).to(rows.dtype) for part, factor in parts])


def activation(tensors: Mapping[str, Tensor], k: int | None) -> Callable[[Tensor], Tensor]:
    """The function from pre-activations to activations."""

    def topk(pre: Tensor) -> Tensor:
        best = pre.topk(k or 0, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter(-1, best.indices, best.values.relu())

    def gated(pre: Tensor) -> Tensor:
        return (pre > 0) * torch.relu(pre * tensors["magnitude"] + tensors["magnitude_bias"])

    def jumprelu(pre: Tensor) -> Tensor:
        return torch.relu(pre) * (pre > tensors["threshold"])

    if k is not None:
        return topk
    if "magnitude" in tensors:
        return gated
    return jumprelu if "threshold" in tensors else torch.relu
