"""From a vector of the residual stream to a score for every token of the vocabulary.

    unembed                 final_norm(t) W_U + b_U                      the output end
    embed                   E k                                          the input end, plain
    embed_centered_cosine   (E - c) / |E - c| . t                        the input end, Query Lens

(paper, section 3.3; `c` is the mean embedding of the *reference's* tokens.) The
final norm is applied to the averaged vector, as the paper's code does; a vector
that already went through the final norm's Jacobian token by token is read with
`W_U` alone, since a derivative has no bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_core.errors import ModelError
from lens_core.model import ResidualModel

# Vectors whose product with the vocabulary takes as long as reading the vocabulary.
_FEW = 6


@dataclass(frozen=True)
class FinalNorm:
    """The final norm in closed form: `gain * (x - centred mean) / sqrt(mean square + eps) + bias`.

    Splitting it into a linear part and one scale per vector is what lets a reverse
    search rank every feature with one matrix-vector product.
    """

    centred: bool
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float

    def linear(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The part that is linear in `x`: everything but the division and the bias."""
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
                raise ModelError(f"the final norm of {model.name} is no LayerNorm or RMSNorm")
            # Gemma's gain is 1 + weight: ask the module, not its parameters.
            norm = FinalNorm(False, model.final_norm(ones) * (1 + eps) ** 0.5, None, float(eps))
        probe = torch.linspace(-1, 2, model.d_model, dtype=model.dtype, device=model.device)
        probe = probe * probe.roll(3)
        expected = model.final_norm(probe)
        got = norm.linear(probe) / norm.scale(probe)
        got = got if norm.bias is None else got + norm.bias
        if not torch.allclose(got, expected, rtol=1e-4, atol=1e-5):
            raise ModelError(f"the final norm of {model.name} is no LayerNorm or RMSNorm")
    return norm


def centered_cosine_rows(
    embedding: Float[Tensor, "d_vocab d_model"], center: Float[Tensor, " d_model"]
) -> Float[Tensor, "d_vocab d_model"]:
    """Unit shifts from the reference's mean embedding to each token's; zero where there is none.

    A row equal to the centre has no direction, and scores 0 rather than NaN.
    """
    shift = embedding - center
    length = shift.norm(dim=-1, keepdim=True)
    return shift / torch.where(length > 0, length, 1)


def embed_centered_cosine(
    direction: Float[Tensor, "*batch d_model"], rows: Float[Tensor, "d_vocab d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """How well replacing the current token by each vocabulary token realises `direction`.

    Query Lens's input-end readout (paper, section 3.3), with `rows` from
    `centered_cosine_rows`. The size of `direction` scales every score alike and cannot
    change the ranking; divided by it, the score is a cosine.
    """
    return _product(direction, rows)


def embed(
    direction: Float[Tensor, "*batch d_model"], embedding: Float[Tensor, "d_vocab d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """Logit Lens's input-end readout: the plain product with every token embedding."""
    return _product(direction, embedding)


def unembed(
    vector: Float[Tensor, "*batch d_model"], model: ResidualModel, *, normed: bool = False
) -> Float[Tensor, "*batch d_vocab"]:
    """Output-end readout; `normed` vectors went through the final norm's Jacobian already."""
    if normed:
        return _product(vector, model.W_U.T)
    with torch.no_grad():
        logits = _product(model.final_norm(vector), model.W_U.T)
        return logits if model.b_U is None else logits + model.b_U


def _product(
    vectors: Float[Tensor, "*batch d_model"], rows: Float[Tensor, "d_vocab d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """`vectors @ rows.T`, for a few vectors on a CPU the other way round.

    Reading the vocabulary is then all it costs, and BLAS does not copy it first: 14 ms
    against 31 for four vectors at GPT-2's shape (one thread).
    """
    if vectors.ndim == 2 and 1 < len(vectors) <= _FEW and vectors.device.type == "cpu":
        return (rows @ vectors.T).T.contiguous()
    return vectors @ rows.T


def top_k(
    scores: Float[Tensor, " d_vocab"], k: int, *, largest: bool = True
) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """The `k` best tokens, best first; equal scores in the order of their ids.

    Raises:
        ModelError: a score is NaN, so that there is no order.
    """
    if bool(scores.isnan().any()):
        raise ModelError("the scores are not numbers: the feature or the model overflows")
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
