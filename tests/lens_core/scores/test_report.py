"""The table of scores of tiny models, against one feature at a time by definition."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lens_core.config import LensConfig
from lens_core.contexts.collect import collect_contexts
from lens_core.errors import LensFileError, OperatorError, UsageError
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.lenses import LENSES, LOGIT, lens_named
from lens_core.reference import ReferenceSample
from lens_core.scores import output_score, published
from lens_core.scores.report import Asked, demand_sample, input_scores, output_scores, rows_of
from lens_core.scores.rows import SCHEMA, frame, markdown
from lens_core.terms import SIDES
from tests.lens_core.contexts.test_collect import table_of
from tests.lens_core.test_activity import contexts_of
from tests.lens_core.test_steering import some_texts

K = 6

of_one = pytest.mark.parametrize("architecture", ["gpt2"], indirect=True, scope="session")
"""For what no architecture has a part in."""


@pytest.fixture
def corpus() -> ReferenceSample:
    tokens = torch.randint(0, 101, (90, 12), generator=torch.Generator().manual_seed(8))
    return ReferenceSample(tokens, "made here", skip_first=1, skip_last=1)


def layer_scores(lens, layer, corpus, file, asked):
    """Both protocols, by name."""
    found = input_scores(lens, layer, corpus, file, ("published", "in-order"), asked)
    return {each.protocol: each for each in found}


def collected(lens: QueryLens, corpus: ReferenceSample, cache: Path, layer: int) -> Path:
    lens.text = replace(lens.carrier.reference, skip_first=1, skip_last=1)
    (found,) = collect_contexts(lens, corpus, [layer], cache)
    return found.file


def test_scores_are_those_of_the_definition(lens, corpus, tmp_path):
    layer, asked = 1, Asked(lengths=(2, K))
    file = collected(lens, corpus, tmp_path, layer)
    scores = layer_scores(lens, layer, corpus, file, asked)
    table = table_of(lens, layer, corpus)
    numbered = replace(corpus, tokens=torch.arange(corpus.tokens.numel()).view(90, 12))
    places_of = [contexts_of(table, numbered, feature) for feature in range(table.shape[1])]
    enough = [feature for feature, places in enumerate(places_of) if len(places) >= 20]
    assert len(enough) > 0
    assert scores["in-order"].features.tolist() == enough
    assert scores["published"].left_out == table.shape[1] - len(enough)
    for at, feature in list(enumerate(enough))[::3]:
        places = places_of[feature]
        chosen = {
            "in-order": places[:20],
            "published": sorted(places, key=lambda each: (-each.activation, each.sample))[:20],
        }
        signature = lens.signature(layer, feature, length=K)
        for side in SIDES:
            for one in LENSES:
                ids = getattr(signature, side).top[one.name].ids
                for protocol, those in chosen.items():
                    tokens = [int(corpus.tokens[each.sample, each.position]) for each in those]
                    for k in (2, K):
                        expected = sum(token in ids[:k] for token in tokens) / 20
                        assert scores[protocol].scores[side, one.name, k][at] == expected


@of_one
def test_rows_say_n_left_out_interval_and_ceiling(lens, corpus, tmp_path):
    judged = []
    for layer in (0, 1):
        file = collected(lens, corpus, tmp_path, layer)
        judged += layer_scores(lens, layer, corpus, file, Asked()).values()
    rows = rows_of(judged)
    assert len(rows) == 3 * 2 * len(LENSES) * 2 * 4
    for row in rows:
        if row.layer is None:
            parts = [
                each for each in rows
                if each.layer is not None
                and replace(each, layer=None, n=0, left_out=0, mean=0, low=0, high=0, ceiling=0)
                == replace(row, n=0, left_out=0, mean=0, low=0, high=0, ceiling=0)
            ]  # fmt: skip
            assert row.mean == pytest.approx(sum(each.mean for each in parts) / 2)
            assert row.n == sum(each.n for each in parts)
            assert row.left_out == sum(each.left_out for each in parts)
        assert row.low <= row.mean <= row.high
        assert 0 <= row.ceiling <= 1
    assert frame(rows).columns == list(SCHEMA)
    text = markdown([row for row in rows if row.k == 25])
    assert len({line.count("|") for line in text.splitlines()}) == 1


@of_one
def test_a_sample_is_nested_and_more_features_only_add(lens, corpus, tmp_path):
    file = collected(lens, corpus, tmp_path, 0)
    few, more, every = (
        set(layer_scores(lens, 0, corpus, file, Asked(features=n))["published"].features.tolist())
        for n in (3, 7, None)
    )
    assert few < more <= every
    assert len(few) == 3


@of_one
def test_without_operators_a_sample_is_carried_one_by_one(lens, corpus, tmp_path):
    file = collected(lens, corpus, tmp_path, 1)
    with_operators = layer_scores(lens, 1, corpus, file, Asked(features=4))
    lens.carrier.operators = None
    with pytest.raises(OperatorError, match="qlens build"):
        demand_sample(lens, lens.dictionary(1), Asked())
    demand_sample(lens, lens.dictionary(1), Asked(lenses=(LOGIT,)))
    directly = layer_scores(lens, 1, corpus, file, Asked(features=4))
    for protocol, judged in directly.items():
        assert judged.scores.keys() == with_operators[protocol].scores.keys()
        for key, found in judged.scores.items():
            expected = with_operators[protocol].scores[key]
            assert found == pytest.approx(expected, abs=0.051)  # one near tie


@of_one
def test_lists_longer_than_the_vocabulary_are_refused(lens):
    with pytest.raises(UsageError, match="longer than the vocabulary of 101"):
        Asked(lengths=(102,)).check(lens.model.d_vocab)


@of_one
def test_a_feature_of_length_zero_has_no_score(lens, corpus, tmp_path):
    file = collected(lens, corpus, tmp_path, 1)
    before = layer_scores(lens, 1, corpus, file, Asked())
    dictionary = lens.dictionary(1)
    gone = int(before["published"].features[0])
    values = dictionary.values.clone()  # the weights are the model's own
    values[gone] = 0
    changed = replace(dictionary, values=values)
    lens.dictionaries = DictionaryShelf([1], lambda _layer: changed)
    after = layer_scores(lens, 1, corpus, file, Asked())
    assert after["published"].features.tolist() == before["published"].features.tolist()[1:]
    assert after["published"].left_out == before["published"].left_out + 1
    assert not any(
        math.isnan(each) for found in after["published"].scores.values() for each in found
    )


@pytest.mark.parametrize("protocol", ["paired", "published"])
def test_output_scores_are_of_the_tokens_that_steering_raises(
    architecture, lens, monkeypatch, protocol
):
    """By definition, from what was observed: a list's tokens among those raised."""
    targets = (1e-4, 2e-4) if protocol == "paired" else (1e-3, 1e-3)
    for module in (output_score, published):
        monkeypatch.setattr(module, "TARGETS", targets)
    monkeypatch.setattr(published, "WRITTEN", 3)
    texts, live = some_texts(), torch.ones(lens.dictionary(1).n_features, dtype=torch.bool)
    live[:5] = False
    judged = output_scores(lens, 1, live, texts, Asked(features=6), protocol=protocol)
    # Random weights of these models reach no divergence twice as large.
    assert len(judged.features) or (architecture in ("llama", "qwen3") and protocol == "paired")
    assert not set(judged.features.tolist()) & set(range(5))
    assert len(judged.features) + judged.left_out == 6
    observe = {"paired": output_score.observe, "published": published.observe_published}[protocol]
    observed = observe(lens, lens.dictionary(1), judged.features.tolist(), texts)
    for at, feature in enumerate(judged.features.tolist()):
        signature = lens.signature(1, feature, length=25)
        for side in SIDES:
            for one in LENSES:
                ids = getattr(signature, side).top[one.name].ids
                for k in (5, 25):
                    raised = set(observed.raised[at, :k].tolist())
                    assert judged.scores[side, one.name, k][at] == len(raised & set(ids[:k])) / k
    (row, *_) = rows_of([judged])
    assert (row.score, row.protocol, row.n) == ("output", protocol, len(judged.features))


def test_baselines_are_rows_of_the_same_table(architecture, lens, corpus, tmp_path):
    """One sample of features, judged alike by lenses that operators carry and others."""
    layer, names = 1, ["query", "query:linearize", "zero-out", "token-change:5", "tuned"]
    if architecture != "gpt2":
        names += ["query:gate", "query:up"]
    tiny = lens.model
    draw = torch.Generator().manual_seed(3)
    made = {f"{at}.weight": torch.randn(24, 24, generator=draw) / 9 for at in range(tiny.n_layers)}
    save_file(made, tmp_path / "tuned.safetensors")
    lens.config = LensConfig(k=5, tuned=str(tmp_path / "tuned.safetensors"))
    file = collected(lens, corpus, tmp_path / "cache", layer)
    asked = Asked(tuple(map(lens_named, names)), (K,), features=3)
    demand_sample(lens, lens.dictionary(layer), asked)
    found = layer_scores(lens, layer, corpus, file, asked)
    rows = rows_of(list(found.values()))
    assert {row.n for row in rows} == {3}
    lines = {(row.lens, row.side) for row in rows}
    assert lines == {
        (name, side) for name in names for side in SIDES if side in lens_named(name).readouts
    }
    also = [lens_named(name) for name in names[1:]]
    table = table_of(lens, layer, corpus)
    numbered = replace(corpus, tokens=torch.arange(corpus.tokens.numel()).view(90, 12))
    for at, feature in enumerate(found["published"].features.tolist()):
        places = contexts_of(table, numbered, feature)
        strongest = sorted(places, key=lambda each: (-each.activation, each.sample))[:20]
        tokens = [int(corpus.tokens[each.sample, each.position]) for each in strongest]
        signature = lens.signature(layer, feature, length=K, also=also)
        for name, side in lines:
            ids = getattr(signature, side).top[name].ids
            expected = sum(token in ids for token in tokens) / 20
            assert found["published"].scores[side, name, K][at] == pytest.approx(expected)


@of_one
def test_a_baseline_without_lists_or_sample_is_told_before_a_run(lens, tmp_path):
    dictionary = lens.dictionary(1)
    for name, said in (
        ("zero-out", "carries features one by one here: score a sample"),
        ("query:linearize", "(the final norm is linearised): score a sample"),
        ("tuned", "no list to score: Tuned Lens needs its parameters"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            demand_sample(lens, dictionary, Asked((lens_named(name),)))
    save_file({"0.weight": torch.zeros(3, 3)}, tmp_path / "x.safetensors")
    lens.config = LensConfig(k=5, tuned=str(tmp_path / "x.safetensors"))
    with pytest.raises(LensFileError, match="does not fit"):
        demand_sample(lens, dictionary, Asked((lens_named("tuned"),)))
