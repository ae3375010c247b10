"""The cosines of two features, against vectors that are carried by differentiating the stream."""

import dataclasses

import pytest
import torch

from lens_core.feature_map import site_of, vectors_of
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.pair_cosines import pair_cosines
from lens_core.resemblance import SideCosines
from lens_core.terms import SIDES, Settings
from tests.fixtures import tolerance
from tests.lens_core.test_lens import bare_lens, lens, make_lens, of_one  # noqa: F401 (fixtures)
from tests.oracles import last_writers_of_a_key, last_writers_of_a_value

PAIRS = [((1, 7), (1, 3)), ((1, 7), (0, 3)), ((0, 2), (2, 5)), ((1, 7), (1, 7))]


@pytest.fixture(scope="module")
def carried(tiny, reference):
    """What differentiating the stream carries a feature to; each is computed once."""
    found = {}

    def of(side, dictionary, feature, off):
        key = side, dictionary.layer, feature, off
        if key not in found:
            vector, site = vectors_of(side, dictionary)[feature], site_of(side, dictionary)
            writers = last_writers_of_a_value if side == "value" else last_writers_of_a_key
            found[key] = vector + writers(tiny, reference, vector, site, off).sum(0)
        return found[key]

    return of


def cosine(one, other):
    return float(torch.cosine_similarity(one.double(), other.double(), dim=0))


@pytest.mark.parametrize("off", [frozenset(), frozenset({1, 4})], ids=["all-on", "some-off"])
@pytest.mark.parametrize(("one", "other"), PAIRS)
@pytest.mark.parametrize("has_operators", [True, False])
def test_cosines_are_those_of_vectors_carried_one_by_one(
    reference, lens, bare_lens, carried, has_operators, one, other, off  # noqa: F811
):  # fmt: skip
    tools = lens if has_operators else bare_lens
    pair = [(tools.dictionary(*each), each[1]) for each in (one, other)]

    found, n_tokens = pair_cosines(tools, *pair, Settings(off=off))

    assert n_tokens == reference.n_tokens
    for side in SIDES:
        raw = [vectors_of(side, dictionary)[feature] for dictionary, feature in pair]
        there = [carried(side, *each, off) for each in pair]
        assert found[side].raw == pytest.approx(cosine(*raw), abs=1e-6)
        assert found[side].carried == pytest.approx(
            cosine(*there), abs=10 * tolerance(raw[0].dtype)
        )


@of_one
def test_with_nothing_carried_both_are_the_raw_cosine(lens):  # noqa: F811
    pair = [(lens.dictionary(1), 7), (lens.dictionary(2), 3)]

    found, _ = pair_cosines(lens, *pair, Settings("identity"))

    for side in SIDES:
        assert found[side].carried == pytest.approx(found[side].raw, abs=1e-12)


@of_one
def test_a_part_of_the_reference_is_named(reference, bare_lens):  # noqa: F811
    pair = [(bare_lens.dictionary(1), 11), (bare_lens.dictionary(2), 12)]

    _, n_tokens = pair_cosines(bare_lens, *pair, Settings(tokens=1))

    assert 0 < n_tokens < reference.n_tokens


@of_one
def test_a_vector_of_length_zero_has_no_cosine(tiny, reference, word_tokenizer):
    plain = make_lens(tiny, reference, word_tokenizer)

    def without(layer):
        dictionary = plain.dictionary(layer)
        values = dictionary.values.clone()
        values[3] = 0
        return dataclasses.replace(dictionary, values=values, sha256="one is zero")

    tools = QueryLens(plain.carrier, DictionaryShelf(range(3), without), plain.vocabulary)
    pair = [(tools.dictionary(1), 7), (tools.dictionary(1), 3)]

    found, _ = pair_cosines(tools, *pair, Settings())

    assert found["value"] == SideCosines(None, None)
    assert found["key"].raw is not None
    assert found["key"].carried is not None
