"""What switches changed, against whole rankings with blocks off and with all on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lens_core.comparison import ListChange
from lens_core.lenses import FIRST_ORDER, LOGIT, QUERY
from lens_core.signature import NO_DIRECTION, SideSignature, TokenList
from lens_core.storage.results import ResultCache
from lens_core.switches import against_all_on
from lens_core.terms import SIDES, Settings
from tests.lens_core.test_lens import FEATURE, LAYER, lens, make_lens  # noqa: F401

K = 10
MASKS = st.frozensets(st.integers(0, 5), max_size=6)
LENGTHS = st.sampled_from((None, 1, 17, 10**6))
slow = hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def compared(lens, side, settings, **options):  # noqa: F811
    return against_all_on(lens, side, lens.dictionary(LAYER), FEATURE, settings, **options)


def check(change: ListChange, off: TokenList, on: TokenList, *, lowest: bool) -> None:
    """The figures, from two whole rankings."""
    places = [
        {token: len(each.ids) - rank + 1 if lowest else rank
         for rank, token in enumerate(each.ids, 1)}
        for each in (off, on)
    ]  # fmt: skip
    assert change.ids == off.ids[: len(change.ids)]
    assert list(change.moved) == [places[1][i] - places[0][i] for i in change.ids]
    came_in = [i for i in off.ids[:K] if i not in on.ids[:K]]
    left = [i for i in on.ids[:K] if i not in off.ids[:K]]
    assert [each.id for each in change.came_in] == came_in
    assert [each.id for each in change.left] == left
    for each in (*change.came_in, *change.left):
        assert each.token == dict(zip(off.ids, off.tokens, strict=True))[each.id]
        assert (each.rank, each.all_on_rank) == (places[0][each.id], places[1][each.id])
    scores = [dict(zip(each.ids, each.scores, strict=True)) for each in (off, on)]
    assert change.score == pytest.approx(sum(scores[0][i] for i in on.ids[:K]), rel=1e-5)
    assert change.all_on_score == pytest.approx(sum(on.scores[:K]), rel=1e-5)
    if change.all_on_score > 0:
        assert change.lost == pytest.approx(1 - change.score / change.all_on_score)
    else:
        assert change.lost is None


@slow
@given(off=MASKS, transition=st.sampled_from(("full", "first-order")), length=LENGTHS)
def test_ranks_moved_tokens_in_and_out_and_the_score_lost_are_their_definitions(
    lens,  # noqa: F811
    off,
    transition,
    length,
):
    asked = Settings(transition=transition, off=off)
    d_vocab = lens.model.d_vocab
    switched, on = (
        lens.signature(LAYER, FEATURE, each, length=d_vocab, bottom=True)
        for each in (asked, replace(asked, off=frozenset()))
    )
    for side in SIDES:
        found = compared(lens, side, asked, length=length)
        own = off & set(lens.carrier.path(side, lens.dictionary(LAYER)))
        if not own:
            assert found is None
            continue
        assert (found.off, found.k, found.reason) == (tuple(sorted(own)), K, "")
        assert found.n_tokens == switched.side(side).n_tokens == on.side(side).n_tokens
        assert found.operators == on.side(side).operators == "built"
        for end, changes in (("top", found.top), ("bottom", found.bottom)):
            assert set(changes) == {QUERY.name, FIRST_ORDER.name}
            for name, change in changes.items():
                assert len(change.ids) == min(max(length or 0, K), d_vocab)
                lists = (getattr(each.side(side), end)[name] for each in (switched, on))
                check(change, *lists, lowest=end == "bottom")


def test_nothing_is_compared_with_itself_nor_where_nothing_is_carried(lens):  # noqa: F811
    for side in SIDES:
        assert compared(lens, side, Settings()) is None
        everything = frozenset(range(lens.model.n_blocks))
        assert compared(lens, side, Settings(transition="identity", off=everything)) is None


def test_only_the_lenses_asked_for_are_compared(lens):  # noqa: F811
    found = compared(lens, "value", Settings(off=frozenset({5})), lenses=(LOGIT, QUERY))
    assert set(found.top) == set(found.bottom) == {QUERY.name}


@pytest.mark.parametrize("side", SIDES)
def test_a_result_over_part_of_the_reference_is_compared_over_the_same_part(
    tiny,
    reference,
    word_tokenizer,
    lens,  # noqa: F811
    side,
):
    asked = Settings(off=frozenset({0, 5}), tokens=reference.length)
    found = compared(lens, side, asked)
    bare = make_lens(tiny, reference, word_tokenizer)
    direct = compared(bare, side, asked)

    assert 0 < found.n_tokens == direct.n_tokens < reference.n_tokens
    assert found.operators == direct.operators == "none"
    on = bare.signature(LAYER, FEATURE, replace(asked, off=frozenset())).side(side)
    assert isinstance(on, SideSignature)
    assert on.n_tokens == found.n_tokens
    assert found.top[QUERY.name].all_on_score == pytest.approx(sum(on.query_lens.scores), rel=1e-5)


def test_results_over_different_numbers_of_tokens_are_not_compared(
    tiny, reference, word_tokenizer, tmp_path
):
    bare = make_lens(tiny, reference, word_tokenizer, results=ResultCache(tmp_path))
    asked = Settings(off=frozenset({5}))
    bare.signature(LAYER, FEATURE, asked)  # the whole is in the cache, and is given for a part
    found = compared(bare, "value", replace(asked, tokens=1))

    assert not found.top
    assert not found.bottom
    every = reference.n_tokens
    assert f"{every:,} tokens were read with blocks off, " in found.reason
    assert found.reason.endswith(" with all blocks on")


def test_a_vector_of_length_zero_has_nothing_to_compare(tiny, reference, word_tokenizer):
    bare = make_lens(tiny, reference, word_tokenizer)
    dictionary = bare.dictionary(LAYER)
    zero = replace(dictionary, values=torch.zeros_like(dictionary.values))
    found = against_all_on(bare, "value", zero, FEATURE, Settings(off=frozenset({5})))

    assert (found.reason, dict(found.top), dict(found.bottom)) == (NO_DIRECTION, {}, {})
