"""Sparse dictionaries: what each feature reads (key), writes (value), and where.

    pre-activation  p_i(x) = k_i . x + b_i          activation  a(x) = encode(x)
    written         sum_i a_i v_i + b_dec

Keys are the columns of `W_enc`, values the rows of `W_dec` (paper, section 3.1;
SAELens's orientation), in the unprocessed basis of the checkpoint. Whatever format a
dictionary was saved in, here it is one frozen object: biases are folded so that the
formulas above hold, the two sites of the residual stream are named, and the norm between
the stream and the encoder (or between the decoder and the stream) is named but not
applied, because the paper's convention ignores it and the exact one differentiates it.

Three sources: SAELens releases, folders in SAELens's disk format, and the MLP
neurons of the model itself. A layer of GPT-2 small's 32k release takes one to two
seconds and 200 MB (twice that while it loads); neurons are views of the model's weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import DictionaryError
from lens_core.soundness import unsound

if TYPE_CHECKING:
    from lens_core.model import MLPWeights

ReadNorm = Literal["none", "center", "ln2", "ln2_no_gain", "layer_norm", "rescale"]
"""What lies between the stream at the read site and the encoder.

`none`: nothing. `center`: the mean over the coordinates is subtracted (the dictionary was
trained on a model with centred weights). `ln2`: the layer's own norm in front of its MLP.
`ln2_no_gain`: that norm without its gain and bias. `layer_norm`, `rescale`: SAELens's own
(`(x - mean) / (std + 1e-5)`; to length `sqrt(d)`).
"""

WriteNorm = Literal["none", "ln2_post"]
"""What lies between the decoder and the stream: nothing, or the MLP's post-norm."""

LAYER_NORM_EPS = 1e-5


@runtime_checkable
class DictionaryHost(Protocol):
    """What a dictionary needs of the model it belongs to; `ResidualModel` has it."""

    @property
    def name(self) -> str: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    def mlp_norm(self, layer: int) -> Callable[[Tensor], Tensor]: ...
    def mlp_post_norm(self, layer: int) -> Callable[[Tensor], Tensor] | None: ...
    def mlp_weights(self, layer: int) -> MLPWeights: ...


@dataclass(frozen=True, eq=False)
class FeatureDictionary:
    """One layer's dictionary.

    `encode` takes the encoder's input, which is a residual stream *after* the read norm
    (`read_function`), and gives the feature activations; it applies no norm itself. Values
    are in the units in front of the write norm, and of the normalised input where
    `read_norm` is `layer_norm` or `rescale` (SAELens multiplies a reconstruction by the
    token's scale again). `encoder_bias` includes `-b_dec W_enc` where the dictionary
    subtracts `b_dec` from its input; a bias is `None` where there is none. `sha256` depends on
    the content only, not on its file, name, device or dtype.
    """

    name: str
    kind: Literal["sae", "transcoder", "neurons"]
    layer: int
    keys: Float[Tensor, "n_features d_model"]
    values: Float[Tensor, "n_features d_model"]
    read_site: int
    write_site: int
    encoder_bias: Float[Tensor, " n_features"] | None
    decoder_bias: Float[Tensor, " d_model"] | None
    read_norm: ReadNorm
    write_norm: WriteNorm
    provenance: Mapping[str, str | int | float | bool]
    sha256: str
    encode: Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch n_features"]]

    @property
    def n_features(self) -> int:
        return self.keys.shape[0]

    @property
    def d_model(self) -> int:
        return self.keys.shape[1]

    def pre_activations(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch n_features"]:
        """`x keys^T + encoder_bias` for the encoder's input `x` (after the read norm)."""
        return affine(x, self.keys, self.encoder_bias)


def read_function(
    dictionary: FeatureDictionary, model: DictionaryHost
) -> Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch d_model"]]:
    """The read norm, from the stream at `read_site` to the input of `encode`; differentiable."""
    match dictionary.read_norm:
        case "none":
            return lambda h: h
        case "center":
            return lambda h: h - h.mean(-1, keepdim=True)
        case "ln2":
            return model.mlp_norm(dictionary.layer)
        case "ln2_no_gain":
            return _norm_without_gain(model, dictionary.layer)
        case "layer_norm":
            return sae_layer_norm
        case "rescale":
            return lambda h: h * h.shape[-1] ** 0.5 / h.norm(dim=-1, keepdim=True)


def write_function(
    dictionary: FeatureDictionary, model: DictionaryHost
) -> Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch d_model"]] | None:
    """The write norm: from the MLP's own output to the stream; `None` where there is none."""
    if dictionary.write_norm == "none":
        return None
    post_norm = model.mlp_post_norm(dictionary.layer)
    assert post_norm is not None, "write_norm comes from the model's own post-norm"
    return post_norm


def sae_layer_norm(h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """SAELens's `normalize_activations = "layer_norm"`: no gain, unbiased deviation."""
    centered = h - h.mean(-1, keepdim=True)
    return centered / (centered.std(-1, keepdim=True) + LAYER_NORM_EPS)


def affine(
    x: Float[Tensor, "*batch d_model"],
    keys: Float[Tensor, "n_features d_model"],
    bias: Float[Tensor, " n_features"] | None,
) -> Float[Tensor, "*batch n_features"]:
    product = x @ keys.T
    return product if bias is None else product + bias


def content_hash(
    tensors: Mapping[str, Tensor | None], facts: Mapping[str, str | int | float | bool]
) -> str:
    """Sha256 over what a dictionary computes; in float32, so that its dtype does not matter."""
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        if tensor is not None:
            digest.update(f"{name}:{tuple(tensor.shape)}:".encode())
            flat = tensor.detach().to("cpu", torch.float32).contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_unsound(name: str, tensors: Mapping[str, Tensor | None]) -> None:
    """Raise a `DictionaryError` that names the first tensor with unusable values."""
    named = [(label, tensor) for label, tensor in tensors.items() if tensor is not None]
    if wrong := unsound(named):
        raise DictionaryError(f"{name} holds {wrong}: get it again, or check how it was saved")


def ln2_module(model: DictionaryHost, layer: int) -> Any:
    """TransformerLens's norm in front of the MLP, whose parts only some dictionaries need."""
    return cast(Any, model).bridge.blocks[layer].ln2


def _norm_without_gain(model: DictionaryHost, layer: int) -> Callable[[Tensor], Tensor]:
    ln2 = ln2_module(model, layer)
    centers = not ln2.uses_rms_norm
    module = ln2.original_component
    # Hugging Face calls it `eps` or `variance_epsilon`, by architecture.
    eps = float(getattr(module, "eps", None) or module.variance_epsilon)

    def normalize(h: Tensor) -> Tensor:
        h = h - h.mean(-1, keepdim=True) if centers else h
        return h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)

    return normalize
