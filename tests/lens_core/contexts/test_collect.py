"""Contexts in a corpus, against one pass per sample; interrupted, resumed, damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lens_core import firing, tally
from lens_core.activity import FeatureActivity, Place
from lens_core.contexts import collect
from lens_core.contexts.collect import Collected, collect_contexts
from lens_core.contexts.files import TOKENS, ContextShelf, LayerContexts
from lens_core.dictionaries.feature_dictionary import read_function
from lens_core.errors import QlensWarning, StoreError
from lens_core.firing import sample_activations
from lens_core.lens import QueryLens
from lens_core.reference import ReferenceSample
from lens_core.storage.files import build_lock
from lens_core.storage.maintenance import cache_clear, cache_info, cache_verify
from tests.lens_core.test_activity import assert_same, sorted_out

of_one = pytest.mark.parametrize("architecture", ["gpt2"], indirect=True, scope="session")


@pytest.fixture
def corpus() -> ReferenceSample:
    """Seven samples of random tokens."""
    tokens = torch.randint(0, 101, (7, 20), generator=torch.Generator().manual_seed(8))
    return ReferenceSample(tokens, "made here", skip_first=1, skip_last=2)


def table_of(lens: QueryLens, layer: int, corpus: ReferenceSample) -> Tensor:
    """Activations at every token of the corpus, from one pass per sample."""
    dictionary = lens.dictionary(layer)
    read = read_function(dictionary, lens.model)
    with torch.no_grad():
        streams = [lens.model.sites(row[None])[dictionary.read_site][0] for row in corpus.tokens]
        return dictionary.encode(read(torch.cat(streams)))


def shelved(lens: QueryLens, cache: Path) -> ContextShelf:
    return ContextShelf(cache, lens.model, lens.carrier.reference)


def found_in(lens: QueryLens, cache: Path, layer: int) -> LayerContexts:
    found = shelved(lens, cache).get(lens.dictionary(layer))
    assert found is not None
    return found


def test_contexts_are_those_of_one_pass_per_sample(
    lens: QueryLens, corpus: ReferenceSample, tmp_path: Path
) -> None:
    layers = lens.dictionaries.layers
    collected = collect_contexts(lens, corpus, layers, tmp_path)

    assert [each.layer for each in collected] == list(layers)
    numbered = ReferenceSample(torch.arange(140).view(7, 20), "numbers", 1, 2)
    for each in collected:
        found = found_in(lens, tmp_path, each.layer)
        table = table_of(lens, each.layer, corpus)
        assert_close(found.activity, sorted_out(table, numbered, 20))
        assert found.corpus.sha256 == corpus.sha256
        assert each.silent == int((found.activity.density == 0).sum())
        assert each.density == pytest.approx(float(found.activity.density.mean()))
        for feature in range(0, each.features, 7):
            places = [*found.activity.strongest(feature)]
            places += [p for quarter in found.activity.quarters(feature, 3) for p in quarter]
            assert bool(places) == bool(found.activity.density[feature] > 0)
            assert all(close_to(table, feature, place) for place in places)


def test_the_activations_in_a_sample_are_those_of_one_pass(
    lens: QueryLens, corpus: ReferenceSample
) -> None:
    dictionary = lens.dictionary(1)
    table = table_of(lens, 1, corpus).view(7, 20, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(firing, "BLOCK_BYTES", 4 * dictionary.n_features * 7)
        for feature in (0, 5):
            found = sample_activations(lens.model, dictionary, corpus.tokens[[6, 2]], feature)
            expected = table[[6, 2], :, feature].float()
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def close_to(table: Tensor, feature: int, place: Place) -> bool:
    exact = float(table[20 * place.sample + place.position, feature])
    return place.activation == pytest.approx(exact, rel=1e-5)


def assert_close(found: FeatureActivity, expected: FeatureActivity) -> None:
    """The same up to the rounding of passes over another number of samples."""
    for name, wanted in vars(expected).items():
        got = getattr(found, name)
        if isinstance(wanted, Tensor):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7, msg=name)
        else:
            assert got == wanted


@of_one
def test_one_pass_of_the_model_serves_all_layers(
    lens: QueryLens, corpus: ReferenceSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int | None]] = []
    sites = lens.model.sites

    def counted(tokens: Tensor, last: int | None = None) -> list[Tensor]:
        asked.append((len(tokens), last))
        return sites(tokens, last)

    monkeypatch.setattr(lens.model, "sites", counted)
    told: list[tuple[int, int]] = []
    collect_contexts(lens, corpus, [0, 1], tmp_path, progress=lambda *each: told.append(each))

    last = lens.dictionary(1).read_site
    assert asked == [(2, last)] * 3 + [(1, last)]
    assert told == [(34, 119), (68, 119), (102, 119), (119, 119)]
    assert last < lens.model.n_blocks  # no pass further than needed


@of_one
def test_layers_that_do_not_fit_together_are_read_one_after_another(
    lens: QueryLens, corpus: ReferenceSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = collect_contexts(lens, corpus, [0, 1, 2], tmp_path / "together")
    monkeypatch.setattr(collect, "free_bytes", lambda _device: 0)
    told: list[tuple[int, int]] = []
    apart = collect_contexts(
        lens, corpus, [0, 1, 2], tmp_path / "apart", progress=lambda *each: told.append(each)
    )

    assert contents(apart) == contents(together)
    assert {total for _, total in told} == {3 * 119}
    assert told[-1] == (357, 357)


@of_one
def test_what_is_there_is_not_read_again(
    lens: QueryLens, corpus: ReferenceSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = collect_contexts(lens, corpus, [1], tmp_path)
    before = contents(first)
    monkeypatch.setattr(lens.model, "sites", None)

    assert collect_contexts(lens, corpus, [1], tmp_path) == first
    assert contents(first) == before


class StopError(Exception):
    """Ends a run."""


@of_one
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_a_run_that_ended_early_goes_on_and_gives_the_same_files(
    lens: QueryLens,
    corpus: ReferenceSample,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: int,
) -> None:
    monkeypatch.setattr(collect, "KEEP_AFTER", 0.0)
    monkeypatch.setattr(collect, "_WRITINGS", 0)
    whole = collect_contexts(lens, corpus, [0, 2], tmp_path / "whole")
    cache = tmp_path / "stopped"
    written: list[Path] = []
    write = collect.write_reading

    def stopping(path: Path, reading: object) -> None:
        if len(written) == 2 * passes - 1:  # layer 0 is written a pass further than layer 2
            raise StopError
        write(path, reading)
        written.append(path)

    monkeypatch.setattr(collect, "write_reading", stopping)
    with pytest.raises(StopError):
        collect_contexts(lens, corpus, [0, 2], cache)
    monkeypatch.setattr(collect, "write_reading", write)
    assert shelved(lens, cache).get(lens.dictionary(0)) is None

    told: list[tuple[int, int]] = []
    resumed = collect_contexts(
        lens, corpus, [0, 2], cache, progress=lambda *each: told.append(each)
    )
    assert contents(resumed) == contents(whole)
    assert told[-1] == (119 - 34 * (passes - 1),) * 2


@of_one
def test_a_full_memory_halves_the_passes_and_loses_nothing(
    lens: QueryLens, corpus: ReferenceSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = collect_contexts(lens, corpus, [0], tmp_path / "plenty")
    sites = lens.model.sites

    def scarce(tokens: Tensor, last: int | None = None) -> list[Tensor]:
        if len(tokens) > 1:
            raise torch.OutOfMemoryError
        return sites(tokens, last)

    monkeypatch.setattr(lens.model, "sites", scarce)
    collect_contexts(lens, corpus, [0], tmp_path / "scarce")
    found = found_in(lens, tmp_path / "scarce", 0).activity
    assert_close(found, found_in(lens, tmp_path / "plenty", 0).activity)
    assert expected[0].density == pytest.approx(float(found.density.mean()))


@of_one
def test_the_longest_finished_corpus_is_used_and_only_with_its_own_reference(
    lens: QueryLens, corpus: ReferenceSample, tmp_path: Path
) -> None:
    dictionary = lens.dictionary(1)
    shelf = shelved(lens, tmp_path)
    assert shelf.get(dictionary) is None
    short = ReferenceSample(corpus.tokens[:3], "short", 1, 2)
    for text in (short, corpus):
        collect_contexts(lens, text, [1], tmp_path)
        found = shelf.get(dictionary)
        assert found is not None
        assert (found.corpus.origin, found.activity.n_tokens) == (text.origin, text.n_tokens)
        assert shelf.get(dictionary) is found
    assert shelf.get(lens.dictionary(0)) is None
    other = ReferenceSample(lens.carrier.reference.tokens[:2], "other")
    assert ContextShelf(tmp_path, lens.model, other).get(dictionary) is None


@of_one
def test_a_colleagues_contexts_are_used(
    lens: QueryLens, corpus: ReferenceSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect_contexts(lens, corpus, [1], tmp_path / "theirs")
    monkeypatch.setenv("QLENS_SHARED_CACHE", str(tmp_path / "theirs"))

    found = found_in(lens, tmp_path / "ours", 1)
    assert found.corpus.origin == "made here"
    assert not (tmp_path / "ours").exists()


@of_one
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_file_is_named_never_used_and_made_again(
    lens: QueryLens, corpus: ReferenceSample, tmp_path: Path, which: int
) -> None:
    (made,) = collect_contexts(lens, corpus, [1], tmp_path)
    before = contents([made])
    path = (made.file, made.file.with_name(TOKENS))[which]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shelf = shelved(lens, tmp_path)
    with pytest.warns(QlensWarning, match=r"is damaged.*run `qlens contexts` again"):
        assert shelf.get(lens.dictionary(1)) is None
    assert shelf.get(lens.dictionary(1)) is None  # and warns no more, which would be an error
    assert [each.path for each in cache_verify(tmp_path)] == [path]

    assert collect_contexts(lens, corpus, [1], tmp_path) == [made]
    assert contents([made]) == before
    assert cache_verify(tmp_path) == []
    assert shelf.get(lens.dictionary(1)) is not None


@of_one
def test_the_cache_knows_its_contexts(
    lens: QueryLens, corpus: ReferenceSample, tmp_path: Path
) -> None:
    collect_contexts(lens, corpus, [0, 1], tmp_path)
    assert cache_info(tmp_path)["contexts"].entries == 1
    with build_lock(next((tmp_path / "contexts").iterdir())):
        for refused in (
            lambda: cache_clear(tmp_path, ["contexts"]),
            lambda: collect_contexts(lens, corpus, [0], tmp_path),
        ):
            with pytest.raises(StoreError, match="is building"):
                refused()
    assert cache_clear(tmp_path, ["contexts"]) > 1000
    assert os.listdir(tmp_path / "contexts") == []


@of_one
def test_contexts_of_the_reference_are_found_in_the_same_way(
    lens: QueryLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "BLOCK_BYTES", 1000)
    reference = lens.carrier.reference
    numbered = ReferenceSample(torch.arange(100).view(5, 20), "numbers", 1, 2)
    table = table_of(lens, 1, reference)

    assert_close(lens.activity(1), sorted_out(table, numbered, 20))
    assert_same(lens.activity(1), lens.activity(1))


def contents(collected: list[Collected]) -> list[bytes]:
    return [each.file.read_bytes() for each in collected]
