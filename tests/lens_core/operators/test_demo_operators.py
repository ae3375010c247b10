"""Operators that come with qlens: matched by content, correct to float16, with clear limits."""

import dataclasses

import pytest
import torch

from lens_core.carry import SIDES, Carrier, Settings
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import OperatorError, StoreError
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.operators.demo import shipped_operators
from lens_core.operators.write_demo import write_shipped
from lens_core.vocabulary import Vocabulary
from tests.oracles import relative

LAYERS = (0, 1)
# float16 keeps 11 bits, and a sum of d_model rounded products keeps about as many.
FLOAT16 = 2e-3


@pytest.fixture(scope="module")
def built(operators):
    return operators


def residual_shelf(model, layers=LAYERS):
    """Neurons declared to read where they write, like SAEs on `resid_post`."""

    def load(layer):
        found = load_dictionary(DictionaryConfig(kind="neurons"), layer, model, dtype=model.dtype)
        return dataclasses.replace(
            found, read_site=found.write_site, read_norm="none", write_norm="none"
        )

    return DictionaryShelf(layers, load)


def lens_with(model, reference, tokenizer, operators, layers=LAYERS):
    carrier = Carrier(model, reference, operators, None)
    vocabulary = Vocabulary(tokenizer, model.d_vocab)
    return QueryLens(carrier, residual_shelf(model, layers), vocabulary, k=10)


def sums_by_half(built, sites):
    plan = built.plan
    tokens = plan.tokens.sum(1)
    halves = {
        side: [
            torch.stack([built.halves(side, site)[half] for site in sites]).double() * tokens[half]
            for half in range(2)
        ]
        for side in SIDES
    }
    responses = torch.stack([built.response(k) for k in range(built.n_blocks)]).double()
    halves["response"] = [responses * tokens.sum(), torch.zeros_like(responses)]
    return halves


@pytest.fixture(scope="module")
def folder(tiny, reference, word_tokenizer, built, tmp_path_factory):
    directory = tmp_path_factory.mktemp("shipped")
    lens = lens_with(tiny, reference, word_tokenizer, built)
    write_shipped(lens, sums_by_half(built, [2 * layer + 2 for layer in LAYERS]), directory)
    return directory


def opened(model, reference, folder):
    return shipped_operators(
        model.fingerprint, reference.sha256, device="cpu", dtype=model.dtype, directory=folder
    )


@pytest.fixture(scope="module")
def shipped_lens(tiny, reference, word_tokenizer, folder):
    return lens_with(tiny, reference, word_tokenizer, opened(tiny, reference, folder))


@pytest.fixture(scope="module")
def built_lens(tiny, reference, word_tokenizer, built):
    return lens_with(tiny, reference, word_tokenizer, built)


def test_every_matrix_is_the_built_one_to_float16(tiny, reference, folder, built):
    shipped = opened(tiny, reference, folder)
    for layer in LAYERS:
        site = 2 * layer + 2
        assert relative(shipped.value(site), built.value(site)) < FLOAT16
        assert relative(shipped.key(site), built.key(site)) < FLOAT16
        for side in SIDES:
            assert (
                relative(shipped.first_order(side, site), built.first_order(side, site)) < FLOAT16
            )


def test_a_signature_is_that_of_built_operators_with_their_stability(shipped_lens, built_lens):
    for feature in range(5):
        ours = shipped_lens.signature(LAYERS[0], feature)
        theirs = built_lens.signature(LAYERS[0], feature)
        assert ours.method == theirs.method == "operator"
        for side in SIDES:
            one, other = getattr(ours, side), getattr(theirs, side)
            assert one.stability == pytest.approx(other.stability, abs=1e-6)
            assert one.transported_norm == pytest.approx(other.transported_norm, rel=FLOAT16)
            assert one.logit_lens.ids == other.logit_lens.ids
            assert one.logit_lens.scores == pytest.approx(other.logit_lens.scores)
            best, as_good = (torch.tensor(each.query_lens.scores) for each in (one, other))
            assert relative(best, as_good) < FLOAT16


def test_search_scores_are_those_that_the_signature_shows(shipped_lens):
    compared = 0
    for side in SIDES:
        hits = shipped_lens.search(17, side=side, n=8)
        for layer, feature, score in hits.select("layer", "feature", "score").iter_rows():
            shown = getattr(shipped_lens.signature(layer, feature), side).query_lens
            scores = shown.scores if side == "value" else shown.unit_scores
            if 17 in shown.ids:
                assert scores[shown.ids.index(17)] == pytest.approx(score, rel=1e-5, abs=1e-6)
                compared += 1
    assert compared > 4


def test_shares_of_blocks_are_those_of_built_operators_and_add_up(shipped_lens, built_lens):
    for side in SIDES:
        for settings in (Settings(), Settings("first-order")):
            split, rows = shipped_lens.paths(side, LAYERS[0], 3, settings)
            built_split, built_rows = built_lens.paths(side, LAYERS[0], 3, settings)
            assert split == built_split
            inside = [row for row in rows if row.block != "bias"]
            assert sum(row.share for row in inside) == pytest.approx(1, abs=1e-6)
            for row, built_row in zip(rows, built_rows, strict=True):
                assert row.block == built_row.block
                assert row.share == pytest.approx(built_row.share, abs=0.02)


def test_blocks_off_go_the_direct_way(shipped_lens, built_lens):
    last = shipped_lens.model.n_blocks - 1
    for transition in ("first-order", "full"):
        settings = Settings(transition, off=frozenset({0, last}))
        ours, theirs = (
            each.signature(LAYERS[0], 2, settings) for each in (shipped_lens, built_lens)
        )
        assert ours.method == "direct"
        assert ours.value.transported_norm == pytest.approx(theirs.value.transported_norm, rel=1e-5)


def test_other_weights_or_another_reference_find_nothing(tiny, reference, folder):
    def find(model="", sample=""):
        return shipped_operators(
            model or tiny.fingerprint, sample or reference.sha256,
            device="cpu", dtype=tiny.dtype, directory=folder,
        )  # fmt: skip

    assert find() is not None
    assert find(model="0" * 64) is None
    assert find(sample="0" * 64) is None


def test_a_layer_that_they_do_not_reach_is_answered_directly(
    tiny, reference, word_tokenizer, folder
):
    operators = opened(tiny, reference, folder)
    lens = lens_with(tiny, reference, word_tokenizer, operators, layers=(2,))
    assert lens.signature(2, 1).method == "direct"
    with pytest.raises(OperatorError, match="qlens build"):
        lens.signature(2, 1, Settings(method="operator"))
    with pytest.raises(OperatorError, match="qlens build"):
        lens.search(17)


@pytest.mark.parametrize("name", ["operators.safetensors", "features.safetensors"])
def test_a_damaged_file_is_one_line_that_names_the_fix(
    name, tiny, reference, word_tokenizer, folder, tmp_path
):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[-7] ^= 1
    (tmp_path / name).write_bytes(content)

    def look():
        operators = opened(tiny, reference, tmp_path)
        return lens_with(tiny, reference, word_tokenizer, operators).signature(LAYERS[0], 0)

    with pytest.raises(StoreError, match="install qlens again") as caught:
        look()
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
