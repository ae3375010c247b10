"""The `cfg.json` that every version of SAELens wrote, and folders that are in another format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from safetensors.torch import load_file, save_file

from lens_core.dictionaries.formats import (
    available_layers,
    check_files,
    features_without_loading,
)
from lens_core.dictionaries.saelens_cfg import SaeCfg
from lens_core.errors import DictionaryError, LensError
from tests.lens_core.toy_dictionaries import (
    MODEL,
    RESID,
    TRANSCODER,
    D,
    N,
    at,
    autoencoder,
    load,
    refused,
    saved,
    some_stream,
    transcoder,
)

# As versions 5, 3 and the first ones wrote it.
V5 = {
    "architecture": "standard", "d_in": D, "d_sae": N, "activation_fn_str": "relu",
    "apply_b_dec_to_input": True, "finetuning_scaling_factor": False, "context_size": 64,
    "model_name": "gpt2-small", "hook_name": RESID, "hook_layer": 1, "hook_head_index": None,
    "prepend_bos": True, "dataset_path": "x/y", "dataset_trust_remote_code": True,
    "normalize_activations": "none", "dtype": "float32", "device": "cuda",
    "sae_lens_training_version": "5.3.0", "activation_fn_kwargs": {}, "neuronpedia_id": None,
    "model_from_pretrained_kwargs": {"center_writing_weights": False},
}  # fmt: skip
V3 = {
    **{k: v for k, v in V5.items() if k not in ("activation_fn_str", "architecture")},
    "activation_fn": "relu", "sae_lens_version": "3.5.0", "dtype": "torch.float32",
}  # fmt: skip
FIRST = {
    **{k: v for k, v in V3.items() if k not in ("hook_name", "hook_head_index")},
    "hook_point": RESID, "hook_point_layer": 1, "hook_point_head_index": None,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(autoencoder(dtype="float32"), tmp_path / "sae")


def _write(folder: Path, cfg: dict[str, Any]) -> Path:
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


@pytest.mark.parametrize("cfg", [V5, V3, FIRST], ids=["v5", "v3", "first"])
def test_every_version_is_read_as_saelens_reads_it(cfg: dict[str, Any], folder: Path) -> None:
    _write(folder, cfg)
    theirs = sae_lens.SAE.load_from_disk(folder, dtype="float64")
    said = SaeCfg.of(cfg)

    assert said.reads == theirs.cfg.metadata.hook_name == RESID
    assert said.model == theirs.cfg.metadata.model_name
    assert said.architecture == theirs.cfg.architecture()
    assert available_layers(at(folder), 4) == (1,)
    assert features_without_loading(at(folder), 1) == N
    check_files(at(folder), 1, MODEL.name, D)
    ours = load(folder)
    assert (ours.layer, ours.read_site) == (1, 4)
    torch.testing.assert_close(ours.encode(some_stream()), theirs.encode(some_stream()))


@pytest.mark.parametrize(
    ("named", "known"),
    [
        ("gpt2-small/8-res-jb", "gpt2-small/8-res-jb"),
        ("gpt2-small", None),
        ("gpt2-small/8-res-jb/5", None),
        ("gpt2-small/\x1b]8;;", None),
        (8, None),
        (None, None),
    ],
)
def test_a_name_on_neuronpedia_is_kept_if_it_can_be_one(
    named: object, known: str | None, folder: Path
) -> None:
    for cfg in (V5 | {"neuronpedia_id": named}, V5 | {"metadata": {"neuronpedia_id": named}}):
        assert SaeCfg.of(cfg).neuronpedia == known
    _write(folder, V5 | {"neuronpedia_id": named})
    assert load(folder).provenance.get("neuronpedia") == known


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hook_name": None}, 'must hold hook_name, such as "blocks.8.hook_resid_post"'),
        ({"hook_name": 3}, "is of 3, which names no layer"),
        ({"hook_name": "blocks.1.attn.hook_z"}, "single attention heads (blocks.1.attn.hook_z)"),
        ({"hook_head_index": 2}, "single attention heads"),
        ({"hook_name": "blocks.2.hook_resid_post"}, "asked for as layer 1 but reads blocks.2"),
        ({"normalize_activations": True}, "fold it with SAELens's fold_activation_norm_scaling"),
        ({"activation_fn_str": "tanh-relu"}, "qlens reads relu, topk and jumprelu"),
        ({"architecture": "batchtopk"}, "save_inference_model"),
        ({"architecture": "topk", "activation_fn_kwargs": 3}, "cannot be read"),
        ({"d_in": 99}, "width 99 does not fit model width 12"),
        ({"d_in": None}, "cannot be read"),
        ({"metadata": "x"}, "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_one_line_about_it(
    change: dict[str, Any], says: str, folder: Path
) -> None:
    message = refused(_write(folder, V5 | change))

    assert says in message
    for word in ("Error", "NoneType", "__init__", "unexpected keyword", "object", "Errno"):
        assert word not in message
    with_a_check = says != "cannot be read"
    if with_a_check:
        with pytest.raises(DictionaryError) as caught:
            check_files(at(folder, layers=(1,)), 1, MODEL.name, D)
        assert str(caught.value) == message


def test_a_metadata_without_a_hook_is_fixed_by_adding_one(folder: Path) -> None:
    cfg = {"architecture": "standard", "d_in": D, "d_sae": N, "dtype": "float32", "device": "cpu",
           "apply_b_dec_to_input": True, "normalize_activations": "none",
           "reshape_activations": "none", "metadata": {}}  # fmt: skip
    assert "its cfg.json must hold hook_name" in refused(_write(folder, cfg))
    with pytest.raises(DictionaryError, match=r"its cfg\.json must hold hook_name"):
        available_layers(at(folder), 4)

    told = {"hook_name": RESID, "model_name": "gpt2"}
    for fixed in (cfg | {"metadata": told}, cfg | told):
        assert load(_write(folder, fixed)).layer == 1


def test_a_transcoders_module_goes_before_its_hook_for_the_layer_too(tmp_path: Path) -> None:
    modules = {"hf_hook_name": "model.layers.1.mlp.input", "hf_hook_name_out": None}
    folder = saved(transcoder(metadata=TRANSCODER | modules), tmp_path)
    assert available_layers(at(folder, "transcoder"), 4) == (1,)
    assert load(folder, "transcoder").provenance["hook_read"] == "model.layers.1.mlp.input"


# Weights.


def _scaled(folder: Path, factor: float, flag: bool) -> Path:
    file = folder / "sae_weights.safetensors"
    save_file(load_file(file) | {"scaling_factor": torch.full((N,), factor)}, file)
    return _write(folder, V5 | {"finetuning_scaling_factor": flag})


@pytest.mark.parametrize("flag", [True, False])
def test_a_scaling_factor_says_how_to_fold_it_and_one_of_ones_is_nothing(
    flag: bool, folder: Path
) -> None:
    message = refused(_scaled(folder, 2.0, flag))
    assert "multiply each row of W_dec by it" in message
    assert "set finetuning_scaling_factor to false" in message
    with pytest.raises(DictionaryError, match="multiply each row"):
        check_files(at(folder), 1, MODEL.name, D)
    load(_scaled(folder, 1.0, flag))


def test_the_fold_that_the_message_names_is_what_the_factor_meant(folder: Path) -> None:
    plain = load(folder)
    file = folder / "sae_weights.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"W_dec": tensors["W_dec"] * 2.0}, file)

    folded = load(folder)

    torch.testing.assert_close(folded.values, plain.values * 2)
    torch.testing.assert_close(folded.encode(some_stream()), plain.encode(some_stream()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_numbers_of_no_use_are_found_without_a_model(value: float, folder: Path) -> None:
    file = folder / "sae_weights.safetensors"
    tensors = load_file(file)
    tensors["W_dec"][3, 2] = value
    save_file(tensors, file)
    with pytest.raises(DictionaryError, match="in W_dec"):
        check_files(at(folder), 1, MODEL.name, D)
    assert "in W_dec" in refused(folder)


# Other tools.


def _dictionary_learning(folder: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(N, D)}, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"layer": 1}}))


def _sparsify(folder: Path) -> None:
    save_file({"W_dec": torch.zeros(N, D)}, folder / "sae.safetensors")
    _write(folder, {"num_latents": N, "k": 4, "d_in": D, "expansion_factor": 2})


def _gemma_scope(folder: Path) -> None:
    (folder / "params.npz").write_bytes(b"")


def _circuit_tracer(folder: Path) -> None:
    (folder / "config.yaml").write_text("model_kind: transcoder_set\n")
    save_file({"W_enc": torch.zeros(N, D)}, folder / "layer_1.safetensors")


@pytest.mark.parametrize(
    ("write", "tool", "way"),
    [
        (_dictionary_learning, "dictionary_learning", "W_enc = encoder.weight^T"),
        (_sparsify, "sparsify", "architecture topk and its k"),
        (_gemma_scope, "Gemma Scope", "[dictionary].release and id"),
        (_circuit_tracer, "circuit-tracer", "W_enc transposed"),
    ],
)
def test_another_tools_format_is_named_with_a_way_forward(
    write: Any, tool: str, way: str, tmp_path: Path
) -> None:
    folder = tmp_path / "layer_1"
    folder.mkdir()
    write(folder)

    said = [refused(folder)]
    for pattern in (folder, tmp_path / "layer_{layer}"):
        with pytest.raises(LensError) as caught:
            check_files(at(pattern), 1, MODEL.name, D)
        said.append(str(caught.value))
    with pytest.raises(DictionaryError) as listed:
        available_layers(at(folder), 4)

    assert {*said, str(listed.value)} == {said[0]}
    assert said[0].startswith(f"{folder} is in the format of ")
    assert tool in said[0]
    assert way in said[0]


def test_the_releases_that_are_named_as_a_way_forward_exist() -> None:
    from lens_core.dictionaries import releases

    for name in ("gemma-scope-2b-pt-res-canonical", "gemma-scope-2-1b-pt-res-all"):
        assert releases.release_info(name) is not None


def test_the_conversion_that_is_named_gives_what_the_tool_computes(folder: Path) -> None:
    """Of sparsify: the top k of the encoder's output; its decoder's rows are the values."""
    generator = torch.Generator().manual_seed(1)
    encoder = torch.randn(N, D, generator=generator)
    bias, w_dec, b_dec = (torch.randn(*n, generator=generator) for n in ((N,), (N, D), (D,)))
    x = torch.randn(7, D, generator=generator)
    theirs = torch.nn.functional.linear(x - b_dec, encoder, bias).relu().topk(4)
    save_file(
        {"W_enc": encoder.T.contiguous(), "b_enc": bias, "W_dec": w_dec, "b_dec": b_dec},
        folder / "sae_weights.safetensors",
    )
    topk = V5 | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}

    ours = load(_write(folder, topk))

    found = ours.encode(x.double()).topk(4)
    assert torch.equal(found.indices, theirs.indices)
    torch.testing.assert_close(found.values.float(), theirs.values)
    torch.testing.assert_close(ours.values.float(), w_dec)


def test_files_where_folders_are_expected_are_said_to_be_files(tmp_path: Path) -> None:
    (tmp_path / "layer_1.safetensors").write_bytes(b"")
    with pytest.raises(DictionaryError, match="only files: it takes folders"):
        available_layers(at(tmp_path / "layer_{layer}.safetensors"), 4)
    assert "is not a folder, but a file" in refused(tmp_path / "layer_1.safetensors")


def test_a_folder_without_a_configuration_says_what_is_expected(folder: Path) -> None:
    (folder / "cfg.json").unlink()
    assert "takes a folder that SAELens saved (cfg.json and sae_weights" in refused(folder)
    shutil.rmtree(folder)
    assert "is not a folder" in refused(folder)
