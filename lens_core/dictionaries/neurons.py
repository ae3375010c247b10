"""MLP neurons as a dictionary: every model has them, and no training is needed.

    ungated:  a = act(x W_in + b_in)                       keys: columns of W_in
    gated:    a = act(x W_gate + b_gate) * (x W_in + b_in) keys: columns of W_gate or W_in
    values: rows of W_out;   MLP(x) = a W_out + b_out

Neurons read after the norm in front of the MLP and write before the post-norm, where the
architecture has one. A gated MLP has two keys. The default here is the gate's, which decides
whether a neuron is on; the code of the paper's authors reads the up projection
(`[dictionary].key = "up"`). The two lists may have no token in common. `encode` is the
neuron's activation as the model computes it, so that activations times values add up to
the MLP's output.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lens_core.config import DictionaryConfig

_WHICH_KEY = {
    None: "input projection (W_in)",
    "gate": 'gate projection (key = "up": the up projection, as in the authors\' code)',
    "up": 'up projection, as in the authors\' code (key = "gate": the gate projection)',
}

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lens_core.dictionaries.feature_dictionary import (
        DictionaryHost,
        FeatureDictionary,
        WriteNorm,
    )


def layers(config: DictionaryConfig, n_layers: int | None) -> tuple[int, ...] | None:
    """Every layer of the model."""
    return None if n_layers is None else tuple(range(n_layers))


def n_features(config: DictionaryConfig, layer: int) -> int | None:
    """Unknown without the model."""
    return None


def folders(config: DictionaryConfig) -> tuple[Path, ...]:
    """None: neurons have no files of their own."""
    return ()


def repository(config: DictionaryConfig) -> str | None:
    """None: neurons are the model's own."""
    return None


def check(config: DictionaryConfig, layer: int, model: str, d_model: int) -> None:
    """Nothing to check: neurons have no files of their own."""


def load(
    config: DictionaryConfig,
    layer: int,
    model: DictionaryHost,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    offline: bool,
) -> FeatureDictionary:
    """The MLP neurons of `layer`; `config.key` chooses between a gated MLP's two projections."""
    from lens_core.dictionaries.feature_dictionary import (
        FeatureDictionary,
        affine,
        content_hash,
        refuse_unsound,
    )

    mlp = model.mlp_weights(layer)
    name = f"neurons/mlp.{layer}"
    tensors = {
        "W_in": mlp.W_in, "b_in": mlp.b_in, "W_gate": mlp.W_gate, "b_gate": mlp.b_gate,
        "W_out": mlp.W_out, "b_out": mlp.b_out,
    }  # fmt: skip
    refuse_unsound(f"{name} of {model.name}", tensors)
    placed = {
        label: None if tensor is None else tensor.detach().to(device, dtype)
        for label, tensor in tensors.items()
    }
    W_in, W_out, W_gate = placed["W_in"], placed["W_out"], placed["W_gate"]
    assert W_in is not None
    assert W_out is not None
    up, up_bias = W_in.T, placed["b_in"]
    gate, gate_bias = (None if W_gate is None else W_gate.T), placed["b_gate"]
    activation: Callable[[Tensor], Tensor] = mlp.activation

    def encode(x: Tensor) -> Tensor:
        raised = affine(x, up, up_bias)
        return (
            activation(raised) if gate is None else activation(affine(x, gate, gate_bias)) * raised
        )

    reads_gate = gate is not None and config.key == "gate"
    keys, bias = (gate, gate_bias) if reads_gate and gate is not None else (up, up_bias)
    projection = "W_gate" if reads_gate else "W_in"
    post_norm = model.mlp_post_norm(layer) is not None
    write_norm: WriteNorm = "ln2_post" if post_norm else "none"
    read_site, write_site = 2 * layer + 1, 2 * layer + 2
    facts: dict[str, str | int | float | bool] = {
        "kind": "neurons", "activation": type(activation).__name__, "key": projection,
        "read_site": read_site, "write_site": write_site,
        "read_norm": "ln2", "write_norm": write_norm,
    }  # fmt: skip
    return FeatureDictionary(
        name=name,
        kind="neurons",
        layer=layer,
        keys=keys,
        values=W_out,
        read_site=read_site,
        write_site=write_site,
        encoder_bias=bias,
        decoder_bias=placed["b_out"],
        read_norm="ln2",
        write_norm=write_norm,
        provenance={
            "source": "neurons",
            "model": model.name,
            "key": _WHICH_KEY[None if gate is None else config.key],
            "gated": gate is not None,
            "activation": type(activation).__name__,
            "reads": "the MLP's input, behind ln2",
            "writes": "in front of the MLP's post-norm" if post_norm else "straight to the stream",
        },
        sha256=content_hash(tensors, facts),
        encode=encode,
    )
