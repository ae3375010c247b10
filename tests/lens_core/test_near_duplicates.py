"""Near-duplicates, against the cosines of all vectors, each carried by itself."""

import dataclasses

import pytest
import torch

from lens_core import near_duplicates as module
from lens_core.errors import OperatorError
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.near_duplicates import near_duplicates
from lens_core.resemblance import Resembling
from lens_core.terms import SIDES, Settings
from tests.lens_core.test_lens import make_lens, of_one

N_FEATURES = 40
ZERO = 3


@pytest.fixture(scope="module")
def lens(tiny, reference, word_tokenizer, operators):
    """A layer of random features: 3 has no value, 5 is 2 in another size, 6 its opposite."""
    plain = make_lens(tiny, reference, word_tokenizer, operators)

    def features(layer):
        dictionary = plain.dictionary(layer)
        draw = torch.Generator().manual_seed(layer)
        made = {}
        for side in SIDES:
            shape = N_FEATURES, dictionary.keys.shape[1]
            made[side] = torch.randn(shape, generator=draw, dtype=dictionary.keys.dtype)
            made[side][5] = made[side][2] * 4  # exactly parallel, in any precision
            made[side][6] = -made[side][2]
        made["value"][ZERO] = 0
        return dataclasses.replace(
            dictionary, keys=made["key"], values=made["value"], encoder_bias=None,
            sha256=f"random {layer}",
        )  # fmt: skip

    shelf = DictionaryShelf(range(tiny.n_layers), features)
    return QueryLens(plain.carrier, shelf, plain.vocabulary)


@pytest.fixture(scope="module")
def carried_alone(lens):
    """The vectors of every layer by side, carried one by one."""
    return [
        {
            side: [
                lens.carrier.carry(side, dictionary, at, Settings(method="operator")).vector
                for at in range(N_FEATURES)
            ]
            for side in SIDES
        }
        for dictionary in map(lens.dictionary, lens.dictionaries.layers)
    ]


def brute_force(carried, feature, likeness):
    """(feature, value, key) by falling cosine, from vectors that were carried one by one."""

    def cosine(side, at):
        one, other = (carried[side][each].double() for each in (feature, at))
        return float(one @ other / one.norm() / other.norm())

    rows = []
    for at in range(N_FEATURES):
        value, key = cosine("value", at), cosine("key", at)
        counts = {"value": value, "key": key, "both": min(value, key)}[likeness]
        is_known = counts == counts and (likeness == "key" or value == value)
        if at != feature and is_known:
            rows.append((counts, at, value, key))
    return sorted(rows, key=lambda row: (-round(row[0], 9), row[1]))


def _untied(features):
    """Without the difference between 2 and 5, whose cosines are equal but for rounding."""
    return [2 if at == 5 else at for at in features]


@pytest.mark.parametrize("rows_at_once", [7, 8192])
@pytest.mark.parametrize("likeness", ["both", "value", "key"])
@pytest.mark.parametrize("feature", [2, 11])
def test_the_nearest_are_those_of_all_pairs(
    lens, carried_alone, feature, likeness, rows_at_once, monkeypatch
):
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows_at_once)
    for layer, carried in enumerate(carried_alone):
        expected = brute_force(carried, feature, likeness)
        found = near_duplicates(lens, lens.dictionary(layer), feature, likeness, 12)
        assert _untied(found.features.tolist()) == _untied([at for _, at, *_ in expected[:12]])
        for side, place in (("value", 2), ("key", 3)):
            wanted = torch.tensor([row[place] for row in expected[:12]], dtype=torch.float64)
            torch.testing.assert_close(
                found.cosines[side].double(), wanted, atol=1e-9, rtol=0, equal_nan=True
            )
        assert found.of == len(expected)
        assert found.has_direction


def test_a_feature_in_another_size_is_a_duplicate_and_its_opposite_comes_last(lens):
    found = near_duplicates(lens, lens.dictionary(1), 2, "both", N_FEATURES)
    assert found.features[0] == 5
    assert found.features[-1] == 6
    assert all(float(each[0]) == pytest.approx(1) for each in found.cosines.values())
    assert all(float(each.abs().max()) <= 1 for each in found.cosines.values())


@of_one
def test_a_feature_without_length_is_like_none_on_that_side(lens):
    dictionary = lens.dictionary(1)
    for likeness in ("both", "value"):
        found = near_duplicates(lens, dictionary, ZERO, likeness, 5)
        assert (found.features.tolist(), found.of, found.has_direction) == ([], 0, False)
        assert ZERO not in near_duplicates(lens, dictionary, 2, likeness, N_FEATURES).features
    by_key = near_duplicates(lens, dictionary, ZERO, "key", 5)
    assert by_key.has_direction
    assert len(by_key.features) == 5
    assert by_key.cosines["value"].isnan().all()
    assert ZERO in near_duplicates(lens, dictionary, 2, "key", N_FEATURES).features


@of_one
def test_lengths_are_computed_once_with_progress_that_can_stop_them(lens, monkeypatch):
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 10)
    dictionary = dataclasses.replace(lens.dictionary(0), sha256="not seen before")

    class StopError(Exception):
        pass

    def stop(done, total):
        if done >= 20:
            raise StopError

    with pytest.raises(StopError):
        near_duplicates(lens, dictionary, 2, "key", 5, stop)
    seen = []
    first = near_duplicates(lens, dictionary, 2, "key", 5, lambda *of: seen.append(of))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {2 * N_FEATURES}
    again = near_duplicates(lens, dictionary, 2, "key", 5)
    assert again.features.tolist() == first.features.tolist()


@of_one
def test_without_operators_the_reason_is_told(lens, tiny, reference, word_tokenizer):
    bare = make_lens(tiny, reference, word_tokenizer, None)
    with pytest.raises(OperatorError, match="run `qlens build`"):
        near_duplicates(bare, bare.dictionary(0), 0, "both", 5)


def test_the_cosines_that_count_are_those_of_the_likeness():
    value, key = (0.9, 0.5), (0.7, 0.8)
    counts = {
        likeness: Resembling(0, 1, likeness, (4, 2), value, key, 2).cosines
        for likeness in ("both", "value", "key")
    }
    assert counts == {"both": (0.7, 0.5), "value": value, "key": key}
    assert Resembling(0, 1, "key", (4,), (None,), (0.5,), 1).cosines == (0.5,)
