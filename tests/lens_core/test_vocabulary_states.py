"""States of the vocabulary, and the key lenses that read them, against the model run by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lens_core.vocabulary_states as module
from lens_core.dictionaries.feature_dictionary import read_function
from lens_core.errors import DamagedError, ModelError, OperatorError, StoreError
from lens_core.left_contexts import LENGTH, left_contexts
from lens_core.lens import QueryLens
from lens_core.lenses import FIRST_ORDER, lens_named
from lens_core.packing import Packed
from lens_core.reference import ReferenceSample
from lens_core.scores.lists import top_lists
from lens_core.storage.maintenance import cache_verify
from lens_core.terms import Settings
from lens_core.vocabulary_states import VocabularyStates
from tests.lens_core.test_lens import FEATURE, LAYER, make_lens, of_one

FORWARD, JOINED = lens_named("forward"), lens_named("forward+first-order")
CONTEXTS = ((4, 9), (50,), (7, 8, 2))
HALF = 2.0**-11
"""Half a unit in the last place of float16, relative to a row's largest entry."""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_PART", 40)
    monkeypatch.setattr(module, "_ROW", 12)


@pytest.fixture
def states(tiny, tmp_path: Path) -> VocabularyStates:
    return VocabularyStates(tmp_path, tiny, CONTEXTS)


def with_states(tiny, reference, tokenizer, operators, states) -> QueryLens:
    plain = make_lens(tiny, reference, tokenizer, operators)
    return QueryLens(plain.carrier, plain.dictionaries, plain.vocabulary, k=10, states=states)


def run_alone(tiny, site: int) -> torch.Tensor:
    """Each token behind each context by the model's own forward pass: layers end at even sites."""
    total = torch.zeros(tiny.d_vocab, tiny.d_model, dtype=tiny.dtype)
    for context in CONTEXTS:
        for token in range(tiny.d_vocab):
            ids = torch.tensor([[*context, token]])
            found = tiny.bridge.original_model(
                input_ids=ids, output_hidden_states=True, use_cache=False
            )
            total[token] += found.hidden_states[site // 2][0, -1]
    return total / len(CONTEXTS)


def test_they_are_the_models_own_hidden_states(tiny, states) -> None:
    assert not states.has(2)
    assert states.build([2, 4]) == -(-tiny.d_vocab // 40)
    for site in (2, 4):
        expected, found = run_alone(tiny, site), states.at(site)
        assert found.shape == (tiny.d_vocab, tiny.d_model)
        error = (found - expected).abs().amax(1) / expected.abs().amax(1)
        # Hugging Face's norms and softmax compute in float32 even in a float64 model.
        assert float(error.max()) < HALF + 1e-5


def test_the_lists_are_those_of_the_definitions(
    tiny, reference, word_tokenizer, operators, states
) -> None:
    lens = with_states(tiny, reference, word_tokenizer, operators, states)
    dictionary = lens.dictionary(LAYER)
    before = lens.signature(LAYER, FEATURE, also=[FORWARD, JOINED])
    for each in (FORWARD, JOINED):
        assert "run `qlens build CONFIG --lens forward`" in before.key.top[each.name].reason
        assert before.value.top[each.name].reason.endswith("has no value side")
    states.build([dictionary.read_site])
    read = read_function(dictionary, tiny)(states.at(dictionary.read_site))
    rows = read - read.mean(0)
    expected = {}
    for feature in range(dictionary.n_features):
        forward = rows / rows.norm(dim=1, keepdim=True) @ dictionary.keys[feature]
        carried = FIRST_ORDER.carry(lens, "key", dictionary, feature, Settings()).vector
        first = lens.readout("embed_centered_cosine").scores(carried[None])[0]
        both = sum((each - each.mean()) / each.std(correction=0) for each in (forward, first))
        expected[feature] = {"forward": forward, "forward+first-order": both}
    found = lens.signature(LAYER, FEATURE, also=[FORWARD, JOINED]).key.top
    for name, scores in expected[FEATURE].items():
        best = scores.topk(10)
        assert list(found[name].ids) == best.indices.tolist()
        assert found[name].scores == pytest.approx(best.values.tolist(), rel=1e-5)
    # All features at once, by the blocked product.
    every = torch.arange(dictionary.n_features)
    for each in (FORWARD, JOINED):
        ids = top_lists(lens, each, "key", dictionary, every, 10)
        for feature, scores in expected.items():
            assert ids[feature].tolist() == scores[each.name].topk(10).indices.tolist()


def test_a_model_that_cannot_be_packed_takes_one_token_a_row(tiny, states, tmp_path, monkeypatch):
    states.build([3])
    assert all(states._packed(context) is not None for context in CONTEXTS)
    # As in attention with a mask of its own: every token sees all before it.
    plain = torch.ones(12, 12, dtype=torch.bool).tril()
    monkeypatch.setattr(Packed, "sees", property(lambda self: plain))
    monkeypatch.setattr(tiny, "_contexts", {})
    again = VocabularyStates(tmp_path / "again", tiny, CONTEXTS)
    again.build([3])
    assert all(again._packed(context) is None for context in CONTEXTS)
    assert torch.allclose(again.at(3), states.at(3), rtol=2 * HALF, atol=1e-3)


@of_one
def test_a_site_that_is_there_is_not_computed_again_for_another(tiny, states) -> None:
    states.build([3])
    before = {path: path.stat().st_mtime_ns for path in states.directory.glob("*.safetensors")}
    computed = []
    compute = states._computed
    states._computed = lambda part, sites, tick: (
        computed.append(sites) or compute(part, sites, tick)
    )
    assert states.build([3, 5]) == len(before)
    assert computed == [[5]] * len(before)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@of_one
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(
    tiny, states, tmp_path: Path
) -> None:
    states.build([3])
    whole = {path.name: path.read_bytes() for path in states.directory.glob("*.safetensors")}
    again = VocabularyStates(tmp_path / "again", tiny, CONTEXTS)

    def stop(done: int, _total: int) -> None:
        if done > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again.build([3], progress=stop)
    kept = list(again.directory.glob("*.safetensors"))
    assert len(kept) == 1
    told: list[tuple[int, int]] = []
    assert again.build([3], progress=lambda done, of: told.append((done, of))) == len(whole) - 1
    assert told[-1] == (tiny.d_vocab - 40, tiny.d_vocab - 40)
    assert {path.name: path.read_bytes() for path in again.directory.glob("*.safetensors")} == whole
    assert again.build([3]) == 0


@of_one
def test_shards_make_the_whole_and_a_shared_cache_is_read(
    tiny, states, tmp_path: Path, monkeypatch
) -> None:
    states.build([3], (2, 2))
    assert not states.has(3)
    with pytest.raises(OperatorError, match=r"run `qlens build CONFIG --lens forward` first"):
        states.at(3)
    states.build([3], (1, 2))
    monkeypatch.setenv("QLENS_SHARED_CACHE", str(tmp_path))
    other = VocabularyStates(tmp_path / "mine", tiny, CONTEXTS)
    assert torch.equal(other.at(3), states.at(3))
    assert other.build([3]) == 0
    assert not other.directory.exists()


@of_one
def test_other_contexts_are_other_states(tiny, states, tmp_path: Path) -> None:
    others = VocabularyStates(tmp_path, tiny, CONTEXTS[:2])
    assert others.fingerprint != states.fingerprint


@of_one
def test_less_at_once_when_memory_runs_out_gives_the_same(tiny, states, tmp_path, monkeypatch):
    states.build([2])
    behind, sizes = VocabularyStates._behind, []

    def scarce(self, rows, sites, packed):
        sizes.append(len(rows))
        if len(rows) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return behind(self, rows, sites, packed)

    monkeypatch.setattr(VocabularyStates, "_behind", scarce)
    again = VocabularyStates(tmp_path / "again", tiny, CONTEXTS)
    again.build([2])
    assert max(sizes) > 1
    assert torch.allclose(again.at(2), states.at(2), rtol=2 * HALF, atol=1e-6)

    def never(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(VocabularyStates, "_behind", never)
    with pytest.raises(MemoryError):
        VocabularyStates(tmp_path / "none", tiny, CONTEXTS).build([2])


@of_one
def test_damage_is_found_and_a_state_that_is_not_finite_is_not_written(
    tiny, states, tmp_path: Path, monkeypatch
) -> None:
    states.build([2])
    path = sorted(states.directory.glob("*.safetensors"))[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert [each.path for each in cache_verify(tmp_path, repair=True)] == [path]
    assert not states.has(2)
    assert states.build([2]) == 1
    path.write_bytes(b"nothing")
    with pytest.raises(StoreError):
        states.at(2)
    source = sorted(states.directory.glob("*.safetensors"))[-1]
    path.write_bytes(source.read_bytes())
    with pytest.raises(DamagedError, match="not what its name says"):
        states.at(2)

    def overflowing(_self, rows, _sites, packed):
        return torch.full((1, len(rows), packed.apart, tiny.d_model), float("nan"))

    monkeypatch.setattr(VocabularyStates, "_behind", overflowing)
    with pytest.raises(ModelError, match="not finite"):
        VocabularyStates(tmp_path / "nan", tiny, CONTEXTS).build([2])


def test_left_contexts_are_beginnings_of_samples_and_none_twice(reference) -> None:
    found = left_contexts(reference)
    assert found == [tuple(row[:LENGTH]) for row in reference.tokens.tolist()]
    twice = ReferenceSample(reference.tokens[:1].expand(20, -1), "twice")
    assert left_contexts(twice) == found[:1]
    many = ReferenceSample(torch.arange(90).view(30, 3), "many", ends=torch.tensor([1] * 30))
    assert left_contexts(many)[1] == (9, 10)
    assert len(left_contexts(many)) == 8
