"""The final norm in closed form, so that features can be ranked by one matrix-vector product.

    norm(x) = linear(x) / scale(x) + bias,   linear(x) = gain * (x, centred for a LayerNorm)

(docs/method.md, section 3.) LayerNorm and RMSNorm have this form; any other norm is refused.
The closed form is checked against the model's own module.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import ModelError
from lens_core.model import ResidualModel


@dataclass(frozen=True)
class FinalNorm:
    """The final norm in closed form: `gain * (x - centred mean) / sqrt(mean square + eps) + bias`.

    With a linear part and one scale per vector, a reverse search can rank every
    feature with one matrix-vector product.
    """

    centred: bool
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float

    def linear(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The part that is linear in `x`: everything except the division and the bias."""
        return self.gain * self._centre(x)

    def scale(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, " *batch"]:
        """What `linear(x)` is divided by."""
        return (self._centre(x).square().mean(-1) + self.eps).sqrt()

    def pulled(self, direction: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """`w` with `w . x = direction . linear(x)`."""
        return self._centre(self.gain * direction)

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


def final_norm_of(model: ResidualModel) -> FinalNorm:
    """The final norm of `model` in closed form, checked against the module itself.

    Raises:
        ModelError: it is neither a LayerNorm nor an RMSNorm.
    """
    module = model.bridge.ln_final.original_component
    ones = torch.ones(model.d_model, dtype=model.dtype, device=model.device)
    with torch.no_grad():
        if isinstance(module, torch.nn.LayerNorm):
            bias = module.bias
            gain = ones if module.weight is None else module.weight.detach()
            norm = FinalNorm(
                True,
                gain,
                bias.detach() if bias is not None and bool(bias.any()) else None,
                module.eps,
            )
        else:
            eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
            if eps is None:
                raise ModelError(
                    f"the final norm of {model.name} is neither a LayerNorm nor an RMSNorm"
                )
            # Gemma's gain is 1 + weight: ask the module, not its parameters.
            norm = FinalNorm(False, model.final_norm(ones) * (1 + eps) ** 0.5, None, float(eps))
        probe = torch.linspace(-1, 2, model.d_model, dtype=model.dtype, device=model.device)
        probe = probe * probe.roll(3)
        expected = model.final_norm(probe)
        got = norm.linear(probe) / norm.scale(probe)
        got = got if norm.bias is None else got + norm.bias
        if not torch.allclose(got, expected, rtol=1e-4, atol=1e-5):
            raise ModelError(
                f"the final norm of {model.name} is neither a LayerNorm nor an RMSNorm"
            )
    return norm
