"""Dictionaries against SAELens's own `encode` and `decode`, and the models' own MLPs."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from torch import Tensor

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import (
    FeatureDictionary,
    read_function,
    write_function,
)
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import DictionaryError
from lens_core.model import ResidualModel
from tests.fixtures import tolerance
from tests.lens_core.toy_dictionaries import (
    MODEL,
    RESID,
    TRANSCODER,
    D,
    N,
    StandInModel,
    at,
    autoencoder,
    edit_cfg,
    load,
    metadata,
    randomized,
    saved,
    some_stream,
    transcoder,
)


@pytest.fixture
def h() -> Tensor:
    return some_stream()


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
    with pytest.raises(DictionaryError, match="NaN values in W_out"):
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
