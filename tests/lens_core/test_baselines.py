"""Query Lens with other conventions, as lenses of their own name."""

import dataclasses

import pytest
import torch

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import OperatorError, UsageError
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.lenses import LENSES, ON_REQUEST, lens_named
from lens_core.terms import Settings
from tests.lens_core.test_lens import FEATURE, LAYER, make_lens, of_one

EXACT, LINEARIZE = lens_named("query:exact"), lens_named("query:linearize")


@pytest.fixture(scope="module")
def lens(tiny, reference, word_tokenizer, operators):
    return make_lens(tiny, reference, word_tokenizer, operators)


def test_a_variant_is_query_lens_with_its_settings_whatever_is_asked(lens):
    exact = lens.signature(LAYER, FEATURE, Settings(convention="exact"))
    linear = lens.signature(LAYER, FEATURE, Settings(final_norm="linearize"))
    for asked in (Settings(), Settings(method="operator"), Settings("identity", "exact")):
        found = lens.signature(LAYER, FEATURE, asked, also=[EXACT, LINEARIZE])
        for got, expected in (
            (found.value.top["query:exact"], exact.value.query_lens),
            (found.key.top["query:exact"], exact.key.query_lens),
            (found.value.top["query:linearize"], linear.value.query_lens),
        ):
            assert got.ids == expected.ids
            assert got.scores == pytest.approx(expected.scores)
        assert found.key.top["query:linearize"].reason.endswith("has no key side")


def test_baselines_change_nothing_else_of_a_signature(lens):
    plain = lens.signature(LAYER, FEATURE, bottom=True)
    more = lens.signature(LAYER, FEATURE, also=[EXACT, LINEARIZE], bottom=True)
    for side in ("value", "key"):
        one, other = getattr(plain, side), getattr(more, side)
        for which in ("top", "bottom"):
            for each in LENSES:
                shown, again = getattr(one, which)[each.name], getattr(other, which)[each.name]
                assert shown.ids == again.ids
                assert shown.scores == pytest.approx(again.scores)
        assert dataclasses.replace(one, top=None, bottom=None) == dataclasses.replace(
            other, top=None, bottom=None
        )


def test_a_variant_maps_all_features_only_where_no_norm_is_in_front(lens):
    dictionary = lens.dictionary(LAYER)
    with pytest.raises(OperatorError, match="the final norm is linearised"):
        LINEARIZE.map(lens, "value", dictionary)
    with pytest.raises(OperatorError, match="a norm's Jacobian in front"):
        EXACT.map(lens, "key", dictionary)
    plain = dataclasses.replace(dictionary, read_norm="none", write_norm="none")
    for side in ("value", "key"):
        x = torch.ones(dictionary.d_model, dtype=torch.float64)
        query = lens_named("query").map(lens, side, plain)(x)
        assert torch.equal(EXACT.map(lens, side, plain)(x), query)


def test_both_keys_of_a_gated_neuron_stand_side_by_side(architecture, lens, tiny):
    names = ("gate", "up")
    also = [lens_named(f"query:{name}") for name in names]
    shown = lens.signature(LAYER, FEATURE, also=also)
    if architecture == "gpt2":
        assert shown.key.top["query:up"].reason.endswith("for the neurons of a gated MLP alone")
        return
    lists = []
    for name, each in zip(names, also, strict=True):
        config = DictionaryConfig(kind="neurons", key=name)
        chosen = load_dictionary(config, LAYER, tiny, dtype=tiny.dtype)
        shelf = DictionaryShelf([LAYER], lambda _, chosen=chosen: chosen)
        by_itself = QueryLens(lens.carrier, shelf, lens.vocabulary, k=10)
        wanted = by_itself.signature(LAYER, FEATURE).key.query_lens
        found = shown.key.top[each.name]
        assert found.ids == wanted.ids
        assert found.scores == pytest.approx(wanted.scores)
        assert shown.value.top[each.name].reason.endswith("has no value side")
        lists.append(found.ids)
        every = each.map(lens, "key", chosen)(each.vectors(lens, "key", lens.dictionary(LAYER)))
        one = each.carry(lens, "key", lens.dictionary(LAYER), FEATURE, Settings()).vector
        assert torch.allclose(every[FEATURE], one)
    assert lists[0] != lists[1]
    assert shown.key.top["query:gate"].ids == shown.key.query_lens.ids


@of_one
def test_nothing_searches_a_baseline(lens):
    for each in ON_REQUEST:
        with pytest.raises(UsageError, match="is made on request alone"):
            lens.search(3, lens=each.name, side="key")


@of_one
def test_a_feature_of_length_zero_has_no_baseline_either(lens):
    dictionary = lens.dictionary(LAYER)
    values = dictionary.values.clone()
    values[FEATURE] = 0
    shelf = DictionaryShelf(range(3), lambda _: dataclasses.replace(dictionary, values=values))
    none = QueryLens(lens.carrier, shelf, lens.vocabulary, k=10)
    found = none.signature(LAYER, FEATURE, also=list(ON_REQUEST)).value.top
    assert all(found[each.name].reason for each in ON_REQUEST)


def test_an_unknown_lens_is_told_all_names():
    with pytest.raises(UsageError, match=r"'lgit': the lenses are logit, .*query:exact.*tuned"):
        lens_named("lgit")
