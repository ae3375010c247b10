"""The bottom of a ranking, against a full sort of the scores."""

from dataclasses import replace

import pytest
import torch

from lens_core.errors import ModelError, UsageError
from lens_core.ranking import outermost, ranks
from tests.lens_core.test_lens import FEATURE, LAYER, make_lens

K = 10


@pytest.fixture(scope="module")
def lens(tiny, reference, word_tokenizer):
    return make_lens(tiny, reference, word_tokenizer)


def readings(tiny, lens):
    """Value and key scores under Logit Lens and Query Lens, from the definitions."""
    dictionary = lens.dictionary(LAYER)
    settings = lens.signature(LAYER, FEATURE).settings
    value = lens.carrier.carry("value", dictionary, FEATURE, settings).vector
    key = lens.carrier.carry("key", dictionary, FEATURE, settings).vector
    unembed = lambda vector: tiny.final_norm(vector) @ tiny.W_U  # noqa: E731
    return {
        ("value", "logit_lens"): unembed(dictionary.values[FEATURE]),
        ("value", "query_lens"): unembed(value),
        ("key", "logit_lens"): tiny.embedding @ dictionary.keys[FEATURE],
        ("key", "query_lens"): lens.readouts["embed_centered_cosine"].rows @ key,
    }


def test_the_bottom_is_the_end_of_the_same_ranking(tiny, lens):
    signature = lens.signature(LAYER, FEATURE, bottom=True)
    for (side, name), scores in readings(tiny, lens).items():
        found = getattr(getattr(signature, side).bottom, name)
        order = scores.argsort(descending=True, stable=True).tolist()
        assert list(found.ids) == order[::-1][:K]
        assert found.scores == pytest.approx(scores[list(found.ids)].tolist(), rel=1e-5)
        top = getattr(getattr(signature, side), name)
        assert not set(top.ids) & set(found.ids)


def test_moved_at_the_bottom_is_the_rise_in_rank_too(tiny, lens):
    scores = readings(tiny, lens)
    signature = lens.signature(LAYER, FEATURE, bottom=True)
    for side in ("value", "key"):
        bottom = getattr(signature, side).bottom
        plain = ranks(scores[side, "logit_lens"])[list(bottom.query_lens.ids)]
        own = ranks(scores[side, "query_lens"])[list(bottom.query_lens.ids)]
        assert list(bottom.query_lens.moved) == (plain - own).tolist()
        assert set(bottom.logit_lens.moved) == {0}


def test_nothing_is_at_the_bottom_unless_asked_for(lens):
    plain, asked = (lens.signature(LAYER, FEATURE, bottom=bottom) for bottom in (False, True))
    assert plain.value.bottom is None
    assert plain.value.query_lens == asked.value.query_lens
    assert plain.key.query_lens == asked.key.query_lens


@pytest.mark.parametrize("length", [1, 3, 15, 10**6])
def test_the_length_of_lists_changes_nothing_but_how_many_tokens_there_are(lens, length):
    usual = lens.signature(LAYER, FEATURE, bottom=True)
    other = lens.signature(LAYER, FEATURE, bottom=True, length=length)
    for side in ("value", "key"):
        ours, theirs = usual.side(side), other.side(side)
        assert replace(ours, top=theirs.top, bottom=theirs.bottom) == theirs
        for end in ("top", "bottom"):
            for name, short in getattr(ours, end).items():
                long = getattr(theirs, end)[name]
                assert len(long.ids) == min(length, lens.model.d_vocab)
                shared = min(length, K)
                for field in ("ids", "tokens", "scores", "moved"):
                    assert getattr(long, field)[:shared] == getattr(short, field)[:shared]


def test_a_list_of_no_tokens_is_refused(lens):
    with pytest.raises(UsageError, match="at least 1, got 0"):
        lens.signature(LAYER, FEATURE, length=0)


@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("values", [2, 5, 1000])
def test_equal_scores_are_in_the_order_of_one_ranking(lowest, values):
    generator = torch.Generator().manual_seed(values)
    scores = torch.randint(values, (6, 300), generator=generator).float()
    order = scores.sort(dim=1, descending=True, stable=True).indices
    expected = order.flip(1)[:, :K] if lowest else order[:, :K]
    assert torch.equal(outermost(scores, K, lowest=lowest), expected)


def test_all_tokens_can_be_asked_for():
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    assert outermost(scores, 3).tolist() == [[1, 2, 0]]
    assert outermost(scores, 3, lowest=True).tolist() == [[0, 2, 1]]


def test_scores_that_are_not_numbers_have_no_order():
    scores = torch.zeros(2, 50)
    scores[1, 7] = torch.nan
    with pytest.raises(ModelError, match="are NaN"):
        outermost(scores, 3)
