"""What fires on a text, against SAELens's own encode and the model's own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

import lens_core.firing as firing_module
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import DictionaryError, LensError, UsageError
from lens_core.firing import firing, prompt_tokens
from lens_core.model import ResidualModel
from tests.models import D_VOCAB

LAYER, N = 1, 30
CONTEXT = 64
TOKENS = torch.tensor([7, 3, 99, 3, 41, 8, 8, 60, 12, 5, 77])


def saved_sae(model: ResidualModel, architecture: str, folder: Path) -> Any:
    """A random SAELens SAE for layer 1, on disk."""
    metadata = sae_lens.saes.sae.SAEMetadata(
        model_name=model.name, hook_name=f"blocks.{LAYER}.hook_resid_post"
    )
    more = {"k": 4} if architecture == "topk" else {}
    sae_class, config_class = sae_lens.registry.get_sae_class(architecture)
    # Inference has a configuration of its own for an architecture that training shares.
    sae = sae_class(
        config_class(
            d_in=model.d_model, d_sae=N, dtype="float64", metadata=metadata, **more
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(4)
    for name, parameter in sae.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if name == "threshold":
            parameter.data.abs_()
    sae.save_model(folder)
    return sae


def loaded(model: ResidualModel, folder: Path) -> FeatureDictionary:
    config = DictionaryConfig(kind="sae", path=folder)
    return load_dictionary(config, LAYER, model, dtype=torch.float64)


def own_stream(model: ResidualModel, tokens: Tensor) -> Tensor:
    """What Hugging Face's own forward pass says the stream behind layer 1 is."""
    out = model.bridge.original_model(input_ids=tokens[None], output_hidden_states=True)
    states: Tensor = out.hidden_states[LAYER + 1][0]
    return states.detach()


def looked_up(table: Tensor, d_model: int) -> FeatureDictionary:
    """A dictionary that gives row after row of `table`, whatever it reads."""
    rows = iter(table)

    def encode(x: Tensor) -> Tensor:
        return torch.stack([next(rows) for _ in x])

    return dictionary_of(encode, table.shape[1], d_model)


def dictionary_of(
    encode: Callable[[Tensor], Tensor], n_features: int, d_model: int
) -> FeatureDictionary:
    empty = torch.zeros(n_features, d_model, dtype=torch.float64)
    return FeatureDictionary(
        name="made here", kind="sae", layer=0, keys=empty, values=empty, read_site=1, write_site=1,
        encoder_bias=None, decoder_bias=None, read_norm="none", write_norm="none", provenance={},
        sha256="0" * 64, encode=encode,
    )  # fmt: skip


@pytest.mark.parametrize("architecture_of_sae", ["standard", "topk", "jumprelu"])
def test_activations_on_a_text_are_saelens_s_own(
    tiny: ResidualModel, architecture_of_sae: str, tmp_path: Path
) -> None:
    sae = saved_sae(tiny, architecture_of_sae, tmp_path)
    expected = sae.encode(own_stream(tiny, TOKENS)).detach()
    found = firing(tiny, loaded(tiny, tmp_path), TOKENS, top=5, feature=17)

    assert found.activations is not None
    torch.testing.assert_close(found.activations.double(), expected[:, 17], rtol=1e-3, atol=1e-4)
    best = expected.topk(5, dim=-1)
    torch.testing.assert_close(
        found.top_activations.double(), best.values.relu(), rtol=1e-3, atol=1e-4
    )
    fired = best.values > 1e-3
    assert fired.any()
    assert torch.equal(found.top_features[fired], best.indices[fired])


def test_the_strongest_of_a_token_are_what_sorting_gives_and_silence_is_no_feature(
    tiny: ResidualModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    # Few distinct values, so that equal activations are the rule.
    table = torch.randint(-1, 4, (len(TOKENS), 9), generator=generator).double()
    table[4] = 0
    monkeypatch.setattr(firing_module, "BLOCK_BYTES", 4 * 9 * 2)
    found = firing(tiny, looked_up(table, tiny.d_model), TOKENS, top=7, feature=2)

    assert found.activations is not None
    assert found.activations.tolist() == table[:, 2].tolist()
    for row, features, activations in zip(
        table.tolist(), found.top_features.tolist(), found.top_activations.tolist(), strict=True
    ):
        ranked = sorted((-value, at) for at, value in enumerate(row) if value > 0)[:7]
        missing = 7 - len(ranked)
        # Which of equal ones stand at the edge of the list is nobody's promise.
        assert activations == [-value for value, _ in ranked] + [0.0] * missing
        assert features[len(ranked) :] == [-1] * missing
        assert [row[at] for at in features[: len(ranked)]] == activations[: len(ranked)]
        pairs = list(zip([-each for each in activations[: len(ranked)]], features, strict=False))
        assert pairs == sorted(pairs)


def test_what_is_asked_for_beyond_the_dictionary_is_all_of_it(tiny: ResidualModel) -> None:
    found = firing(
        tiny, looked_up(torch.ones(2, 3).double(), tiny.d_model), torch.tensor([1, 2]), top=99
    )
    assert found.top_features.tolist() == [[0, 1, 2]] * 2
    assert found.activations is None


def test_the_encoder_gets_no_more_tokens_than_the_block_allows(
    tiny: ResidualModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def encode(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x[:, :3]

    monkeypatch.setattr(firing_module, "BLOCK_BYTES", 4 * 3 * 4)
    firing(tiny, dictionary_of(encode, 3, tiny.d_model), TOKENS)
    assert sizes == [4, 4, 3]


def test_lengths_share_the_model_s_masks_and_no_later_token_is_seen(tiny: ResidualModel) -> None:
    read = dictionary_of(lambda x: x.clone(), tiny.d_model, tiny.d_model)
    tiny._contexts.clear()
    for length in range(1, len(TOKENS) + 1):
        found = firing(tiny, read, TOKENS[:length], top=tiny.d_model, feature=1)
        assert found.activations is not None
        expected = tiny.sites(TOKENS[None], last=1)[1][0, :length, 1]
        torch.testing.assert_close(found.activations.double(), expected, rtol=1e-4, atol=1e-5)
    assert set(tiny._contexts) == {16, len(TOKENS)}


def test_a_text_as_long_as_the_context_is_read_and_a_longer_one_refused_in_one_line(
    tiny: ResidualModel,
) -> None:
    read = dictionary_of(lambda x: x.clone(), tiny.d_model, tiny.d_model)
    found = firing(tiny, read, torch.arange(CONTEXT), top=1)
    assert len(found.top_features) == CONTEXT
    with pytest.raises(
        UsageError, match=rf"has 65 tokens and .* reads {CONTEXT} at most"
    ) as caught:
        firing(tiny, read, torch.arange(CONTEXT + 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", ["too little before", "too little at the time"])
def test_a_text_that_memory_cannot_hold_is_one_line(
    tiny: ResidualModel, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    if case == "too little before":
        monkeypatch.setattr(firing_module, "free_bytes", lambda _device: 1000)
    monkeypatch.setattr(tiny, "sites", full)
    with pytest.raises(UsageError, match="11 tokens does not fit into the memory of cpu"):
        firing(tiny, looked_up(torch.ones(11, 3).double(), tiny.d_model), TOKENS)


@pytest.mark.parametrize("bad", [-1, D_VOCAB])
def test_a_token_of_another_model_is_refused(tiny: ResidualModel, bad: int) -> None:
    read = dictionary_of(lambda x: x, tiny.d_model, tiny.d_model)
    with pytest.raises(UsageError, match=rf"token id {bad} is not in the vocabulary"):
        firing(tiny, read, torch.tensor([3, bad]))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"top": 0}, "at least 1"), ({"feature": 3}, "0 to 2"), ({"feature": -1}, "out of range")],
)
def test_what_no_dictionary_has_is_refused(
    tiny: ResidualModel, options: dict[str, int], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        firing(tiny, dictionary_of(lambda x: x[:, :3], 3, tiny.d_model), TOKENS, **options)


def test_activations_that_are_not_finite_name_the_dictionary(tiny: ResidualModel) -> None:
    table = torch.ones(len(TOKENS), 3).double()
    table[6, 1] = float("nan")
    with pytest.raises(DictionaryError, match=r"made here .*not finite"):
        firing(tiny, looked_up(table, tiny.d_model), TOKENS)


def test_a_text_is_tokenised_as_a_document_of_the_reference(
    word_tokenizer: PreTrainedTokenizerBase,
) -> None:
    plain = prompt_tokens("w7 w3 w99", word_tokenizer, prepend_bos=False)
    assert plain.tolist() == [7, 3, 99]
    assert prompt_tokens("w7 w3", word_tokenizer, prepend_bos=True).tolist() == [0, 7, 3]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("", "no tokens"), ("w7 \udc9b", "character 4 .*half of one"), ("\ud83d", "half of one")],
)
def test_a_text_that_has_no_tokens_or_half_a_character_is_refused_in_one_line(
    word_tokenizer: PreTrainedTokenizerBase, text: str, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        prompt_tokens(text, word_tokenizer, prepend_bos=True)
    assert str(caught.value).isprintable()


def test_without_a_tokenizer_there_is_no_text() -> None:
    with pytest.raises(LensError, match="has no tokenizer"):
        prompt_tokens("w7", None, prepend_bos=False)
