"""Nearest features, against torch's own cosine similarity."""

import dataclasses

import pytest
import torch

import lens_core.neighbours
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.model import ResidualModel
from lens_core.neighbours import cosines_with, neighbours
from tests.models import tiny_hf


@pytest.fixture(scope="module")
def dictionary():
    model = ResidualModel.from_hf(tiny_hf("llama"), None, "llama")
    return load_dictionary(DictionaryConfig(kind="neurons"), 1, model, dtype=model.dtype)


@pytest.mark.parametrize("side", ["value", "key"])
@pytest.mark.parametrize("rows_at_once", [7, 8192])
def test_neighbours_are_the_largest_cosines_of_the_layer(
    dictionary, side, rows_at_once, monkeypatch
):
    monkeypatch.setattr(lens_core.neighbours, "_ROWS_AT_ONCE", rows_at_once)
    vectors = dictionary.values if side == "value" else dictionary.keys
    expected = torch.cosine_similarity(vectors, vectors[3][None], dim=1)
    order = [i for i in expected.argsort(descending=True).tolist() if i != 3]
    ids, cosines = neighbours(dictionary, 3, side, 8)
    assert ids.tolist() == order[:8]
    torch.testing.assert_close(cosines, expected[ids])


def test_a_copy_of_a_feature_is_its_nearest_and_equal_ones_come_in_their_order(dictionary):
    keys = dictionary.keys.clone()
    keys[5] = keys[2] * 3
    keys[1] = keys[2] * 0.5
    ids, cosines = neighbours(dataclasses.replace(dictionary, keys=keys), 2, "key", 3)
    assert sorted(ids.tolist()[:2]) == [1, 5]
    torch.testing.assert_close(cosines[:2], torch.ones(2, dtype=keys.dtype))


def test_a_feature_of_length_zero_is_near_to_nothing(dictionary):
    keys = dictionary.keys.clone()
    keys[4] = 0
    silent = dataclasses.replace(dictionary, keys=keys)
    ids, cosines = neighbours(silent, 4, "key", 3)
    assert (ids.tolist(), cosines.tolist()) == ([], [])
    assert cosines_with(keys, keys[0]).isnan().tolist() == [k == 4 for k in range(len(keys))]
    everyone, _ = neighbours(silent, 0, "key", len(keys))
    assert sorted(everyone.tolist()) == [k for k in range(len(keys)) if k not in (0, 4)]


def test_a_dictionary_has_no_more_neighbours_than_other_features(dictionary):
    few = dataclasses.replace(dictionary, values=dictionary.values[:3], keys=dictionary.keys[:3])
    ids, _ = neighbours(few, 0, "value", 25)
    assert sorted(ids.tolist()) == [1, 2]
