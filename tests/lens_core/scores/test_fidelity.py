"""Fidelity against one feature, one part of the reference and one set of tokens at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_core.carry import Carrier
from lens_core.errors import OperatorError, UsageError
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.lenses import FIRST_ORDER, LOGIT, QUERY
from lens_core.reference import ReferenceSample
from lens_core.scores.fidelity import FIDELITY_PROTOCOLS, fidelity, thirds, three_way
from lens_core.scores.report import Asked, fidelity_scores, rows_of
from lens_core.storage.results import ResultCache
from lens_core.terms import SIDES, Settings
from tests.lens_core.test_steering import some_texts

FEW, LENGTHS = 3, (2, 5)
DIRECT = Settings(method="direct")


def jaccard_of(*lists: list[int]) -> float:
    sets = [set(each) for each in lists]
    return len(set.intersection(*sets)) / len(set.union(*sets))


def found_by(lens: QueryLens, protocol: str, layer: int = 1, n: int | None = FEW):
    (found,) = fidelity(lens, lens.dictionary(layer), [protocol], LENGTHS, n, lambda *_: None)
    return found


@given(st.lists(st.permutations(range(7)), min_size=3, max_size=3), st.integers(1, 7))
def test_three_sets_are_compared_by_definition(orders, k):
    lists = [torch.tensor([order[:k]]) for order in orders]
    expected = jaccard_of(*(order[:k] for order in orders))
    assert three_way(lists).tolist() == pytest.approx([expected])
    lists[1] = torch.full((1, k), -1)
    assert three_way(lists).isnan().all()


def test_variances_are_those_of_signatures(lens):
    found = found_by(lens, "variance")
    assert len(found.features) == FEW
    for at, feature in enumerate(found.features.tolist()):
        signature = lens.signature(1, feature, DIRECT)
        for side in SIDES:
            expected = getattr(signature, side).relative_variance
            assert float(found.found[side, QUERY.name, None][at]) == pytest.approx(expected)
            first = lens.carrier.carry(
                side, lens.dictionary(1), feature, replace(DIRECT, transition="first-order")
            )
            got = float(found.found[side, FIRST_ORDER.name, None][at])
            assert got == pytest.approx(first.relative_variance)
            assert 0 <= got <= 1


def test_thirds_are_disjoint_lists_of_their_own(lens):
    found = found_by(lens, "thirds")
    parts = thirds(lens.carrier.reference)
    assert [part.samples for part in parts] == [1, 2, 2]
    assert torch.equal(torch.cat([part.tokens for part in parts]), lens.carrier.reference.tokens)
    for at, feature in enumerate(found.features.tolist()):
        for side in SIDES:
            for one in (QUERY, FIRST_ORDER):
                settings = replace(DIRECT, transition=one.transition)
                lists = []
                for part in parts:
                    carrier = Carrier(lens.model, part, None, None)
                    vector = carrier.carry(side, lens.dictionary(1), feature, settings).vector
                    scores = lens.readout(one.readouts[side]).scores(vector[None])[0]
                    lists.append(scores.argsort(descending=True).tolist())
                for k in LENGTHS:
                    expected = jaccard_of(*(each[:k] for each in lists))
                    assert float(found.found[side, one.name, k][at]) == pytest.approx(expected)


def test_halves_are_those_of_the_operators_and_need_them(lens):
    found = found_by(lens, "halves", n=None)
    assert len(found.features) == lens.dictionary(1).n_features
    for feature in (0, 7):
        signature = lens.signature(1, feature)
        for side in SIDES:
            expected = getattr(signature, side).stability
            assert float(found.found[side, QUERY.name, lens.k][feature]) == pytest.approx(expected)
    lens.carrier.operators = None
    with pytest.raises(OperatorError, match="qlens build"):
        found_by(lens, "halves")


def test_lenses_are_compared_by_their_lists(lens):
    found = found_by(lens, "lenses")
    for at, feature in enumerate(found.features.tolist()):
        signature = lens.signature(1, feature)
        for side in SIDES:
            tops = getattr(signature, side).top
            for k in LENGTHS:
                expected = jaccard_of(
                    *(list(tops[one.name].ids[:k]) for one in (LOGIT, QUERY, FIRST_ORDER))
                )
                got = found.found[side, "all", k][at]
                assert float(got) == pytest.approx(expected)


def test_rows_have_no_ceiling_and_features_without_a_direction_no_number(lens):
    dictionary = lens.dictionary(1)
    values = dictionary.values.clone()
    zero = int(found_by(lens, "variance").features[1])
    values[zero] = 0
    changed = replace(dictionary, values=values, sha256="changed")
    lens.dictionaries = DictionaryShelf([1], lambda _layer: changed)
    judged = fidelity_scores(lens, 1, FIDELITY_PROTOCOLS, Asked(lengths=(5,), features=FEW))
    assert [each.protocol for each in judged] == list(FIDELITY_PROTOCOLS)
    for each in judged:
        assert zero not in each.features.tolist()
        assert (len(each.features), each.left_out) == (FEW - 1, 1)
    rows = rows_of(judged)
    assert {row.k for row in rows if row.protocol == "variance"} == {None}
    for row in rows:
        assert (row.score, row.n) == ("fidelity", FEW - 1)
        assert math.isnan(row.ceiling)
        assert math.isnan(row.share)
        assert 0 <= row.low <= row.mean <= row.high <= 1


@pytest.mark.parametrize("architecture", ["gpt2"], indirect=True, scope="session")
def test_what_was_walked_is_kept_and_short_texts_have_thirds_too(
    lens,
    tmp_path,
    monkeypatch,
):
    texts = some_texts()
    parts = thirds(texts)
    assert torch.equal(torch.cat([part.ends for part in parts]), texts.ends)
    carrier = Carrier(lens.model, texts, None, ResultCache(tmp_path / "results"))
    tools = QueryLens(carrier, lens.dictionaries, lens.vocabulary, k=5)
    before = {name: found_by(tools, name).found for name in ("variance", "thirds")}
    monkeypatch.setattr("lens_core.walk.Walk.carried", None)  # would be called to walk again
    for name, found in before.items():
        again = found_by(tools, name).found
        assert again.keys() == found.keys()
        assert all(torch.equal(again[key], found[key]) for key in found)


def test_a_reference_of_two_samples_has_no_thirds():
    with pytest.raises(UsageError, match=r"raise \[reference\].samples"):
        thirds(ReferenceSample(torch.zeros(2, 4, dtype=torch.int64), "test"))
