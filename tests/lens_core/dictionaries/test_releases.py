"""Releases: their layers, a hub's cache, and hubs that fail."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
import requests
import sae_lens
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.dictionaries.formats import available_layers
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import ConfigError, DictionaryError, QlensWarning
from tests.lens_core.fake_hub import TOKEN, Respond, cached, hub_error
from tests.lens_core.toy_dictionaries import (
    MODEL,
    RESID,
    Bomb,
    D,
    N,
    StandInModel,
    at,
    autoencoder,
    saved,
    some_stream,
)


@pytest.fixture
def h() -> Tensor:
    return some_stream()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(autoencoder(), tmp_path / "sae")


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

    from lens_core.dictionaries.releases import release_info

    directory = get_pretrained_saes_directory()
    assert len(directory) > 100
    for name in list(directory)[::7]:
        ours, theirs = release_info(name), directory[name]
        assert ours is not None
        assert (ours.repository, ours.model) == (theirs.repo_id, theirs.model)
        assert (ours.format, ours.folders) == (theirs.conversion_func, theirs.saes_map)


def test_listing_layers_imports_no_torch() -> None:
    code = (
        "import sys; from lens_core.dictionaries.formats import available_layers;"
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
    from lens_core.dictionaries.layers import at_layer, matching

    names = [at_layer(pattern, layer) for layer in layers]
    decoys = ["l", "l-1", "l01", "1/b2", "a.3.x", "xl3"]
    assert matching(pattern, [*names, *decoys]) == tuple(sorted(layers))


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

MINE = release("me/my-saes", "layer_{layer}", layers=(1,))


def test_a_cached_release_loads_offline(hub_cache: Path, h: Tensor) -> None:
    sae = autoencoder("topk", k=3)
    saved(sae, cached(hub_cache, "me/my-saes", "layer_1"))
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


def test_a_half_fetched_release_says_what_would_have_to_be_fetched(hub_cache: Path) -> None:
    place = saved(autoencoder(), cached(hub_cache, "me/my-saes", "layer_1"))
    (place / "sae_weights.safetensors").unlink()
    with pytest.raises(
        DictionaryError,
        match=r"qlens would fetch layer_1 from \S+/me/my-saes; for a folder on this machine set",
    ):
        load_dictionary(MINE, 1, MODEL)


def test_a_damaged_file_in_the_cache_is_one_line(hub_cache: Path) -> None:
    place = saved(autoencoder(), cached(hub_cache, "me/my-saes", "layer_1"))
    file = place / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        DictionaryError, match="me/my-saes/layer_1 cannot be read: the safetensors file is damaged"
    ):
        load_dictionary(MINE, 1, MODEL)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "GatedRepo", ["gated", "HF_TOKEN", "https://huggingface.co/me/my-saes"]),
        (403, "GatedRepo", ["gated", "HF_TOKEN", "https://huggingface.co/me/my-saes"]),
        (401, "RepoNotFound", ["no public repository", "HF_TOKEN"]),
        (404, "RepoNotFound", ["no public repository", "[dictionary].release"]),
        (404, "EntryNotFound", ["has no layer_1", "[dictionary].id"]),
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
    assert (
        "cannot reach the Hugging Face hub to fetch layer_1 from https://huggingface.co/me/my-saes"
        in message
    )
    assert "\n" not in message
    assert "hf_" not in message


def test_a_cached_release_loads_when_the_hub_cannot_be_reached(
    hub_cache: Path, hub: Callable[[Respond], None]
) -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("unreachable")

    hub(fail)
    saved(autoencoder(), cached(hub_cache, "me/my-saes", "layer_1"))
    assert load_dictionary(MINE, 1, MODEL).n_features == N


def test_a_release_of_another_model_is_refused_before_anything_is_fetched(hub_cache: Path) -> None:
    with pytest.raises(DictionaryError, match=r"has no blocks\.40\.hook_resid_post"):
        load_dictionary(GPT2, 40, StandInModel(n_layers=64))


def gemma_scope(hub_cache: Path, folder: str, **config: Any) -> dict[str, Tensor]:
    """Tiny files in the format of Gemma Scope 2."""
    place = cached(hub_cache, "google/gemma-scope-2-270m-pt", folder)
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
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "get", lambda *a, **k: pytest.fail("asked the network"))
    tensors = gemma_scope(hub_cache, "resid_post_all/layer_1_width_16k_l0_small")
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
    hub_cache: Path,
) -> None:
    gemma_scope(
        hub_cache, "transcoder_all/layer_1_width_16k_l0_small_affine", affine_connection=True,
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


def test_the_scale_of_a_release_is_folded_as_saelens_does(hub_cache: Path, h: Tensor) -> None:
    repository, folder = "fnlp/Llama3_1-8B-Base-LXR-8x", "Llama3_1-8B-Base-L1R-8x"
    place = cached(hub_cache, repository, folder)
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


def qwen_scope(hub_cache: Path, content: Any) -> DictionaryConfig:
    place = cached(hub_cache, "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", ".")
    torch.save(content, place / "layer1.sae.pt")
    return release("qwen-scope-3-1.7b-base-w32k-l50", "layer{layer}")


def test_a_release_of_torch_files_is_read_as_weights_only(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = StandInModel(name="Qwen/Qwen3-1.7B-Base", d_model=2048)
    boom = hub_cache.parent / "boom"
    config = qwen_scope(hub_cache, {"W_enc": Bomb(boom)})
    with pytest.raises(DictionaryError, match="a pickle that holds more than tensors"):
        load_dictionary(config, 1, model, offline=True)
    assert not boom.exists()
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(DictionaryError, match="unset it"):
        load_dictionary(config, 1, model, offline=True)
    assert not boom.exists()


def test_a_cross_layer_transcoder_is_refused_before_it_is_fetched(hub_cache: Path) -> None:
    config = release("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_{layer}", "transcoder")
    with pytest.raises(DictionaryError, match="cross-layer transcoder"):
        load_dictionary(config, 1, MODEL)


def test_a_release_of_an_architecture_without_a_place_here_is_refused_by_name(
    hub_cache: Path,
) -> None:
    place = cached(hub_cache, "canrager/temporalSAEs", "llama-3.1-8B/layer_15/temporal")
    (place / "conf.yaml").write_text(
        "{llm: {dimin: 12}, data: {dtype: float32}, sae: {exp_factor: 2, n_heads: 1, "
        "n_attn_layers: 1, bottleneck_factor: 1, sae_diff_type: topk, kval_topk: 2, "
        "tied_weights: true, scaling_factor: 1.0}}"
    )
    config = release("temporal-sae-llama-3.1-8b", "blocks.15.hook_resid_post")
    with pytest.raises(DictionaryError, match="architecture temporal"):
        load_dictionary(config, 15, StandInModel(n_layers=32))
