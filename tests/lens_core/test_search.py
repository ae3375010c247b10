"""Search by rank and by score, for one token and several, against the whole table of scores."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lens_core import best_ranks, shortlist
from lens_core.errors import UsageError
from lens_core.feature_map import vectors_of
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.lenses import lens_named
from lens_core.terms import SIDES
from lens_core.token_query import MOST_TOKENS, TokenQuery
from tests.lens_core.test_lens import make_lens, of_one

K = 5
N_FEATURES = 60
LENSES = ("query", "logit", "first-order")


@pytest.fixture(scope="module")
def lens(tiny, reference, word_tokenizer, operators):
    """Layers of random features, some of length zero and some alike, and lists of five tokens."""
    plain = make_lens(tiny, reference, word_tokenizer, operators)

    def features(layer):
        dictionary = plain.dictionary(layer)
        draw = torch.Generator().manual_seed(layer)
        made = {}
        for side in SIDES:
            shape = N_FEATURES, dictionary.keys.shape[1]
            made[side] = torch.randn(shape, generator=draw, dtype=dictionary.keys.dtype)
            made[side][3::20] = 0
            made[side][7] = made[side][2]
        return dataclasses.replace(
            dictionary,
            keys=made["key"],
            values=made["value"],
            encoder_bias=None,
            sha256=f"random {layer}",
        )

    shelf = DictionaryShelf(range(tiny.n_layers), features)
    return QueryLens(plain.carrier, shelf, plain.vocabulary, k=K)


@pytest.fixture(autouse=True)
def _small_samples(monkeypatch):
    """Samples that are small beside this vocabulary, so that features are dropped in many steps."""
    monkeypatch.setattr(best_ranks, "_FIRST", 3)
    monkeypatch.setattr(best_ranks, "_GROWTH", 2)


def expected(lens, query, *, side, kind, layers, n, by):
    """Layer, feature, rank and ranks of the best features, from all scores of all features."""
    rows = []
    for layer in layers:
        dictionary, one = lens.dictionary(layer), lens_named(kind)
        readout = lens.readout(one.readouts[side])
        carried = one.map(lens, side, dictionary)(vectors_of(side, dictionary))
        scores = readout.scores(carried)
        if readout.compares_by_length:
            scores = scores / carried.norm(dim=1, keepdim=True)
        for feature, row in enumerate(scores.tolist()):
            if not carried[feature].any():
                continue
            order = sorted(range(len(row)), key=lambda token: (-row[token], token))
            ranks = [order.index(token) + 1 for token in query.ids]
            rank = max(ranks[: len(query.wanted)])
            if any(other <= max(rank, K) for other in ranks[len(query.wanted) :]):
                continue
            score = min(row[token] for token in query.wanted)
            rows.append((layer, feature, rank, score, ranks))
    rounded = 9  # digits; equal vectors differ in the last bits
    if by == "rank":
        rows.sort(key=lambda row: (row[2], -round(row[3], rounded), row[:2]))
    else:
        rows.sort(key=lambda row: (-round(row[3], rounded), row[:2]))
    return rows[:n]


def check(lens, query, **asked):
    layers = asked.pop("layers", None) or lens.dictionaries.layers
    found = lens.search(query, lens=asked["kind"], layers=layers, **without_kind(asked))
    best = expected(lens, query, layers=layers, **asked)
    assert found["score"].to_list() == pytest.approx([row[3] for row in best], rel=1e-4, abs=1e-6)
    columns = found.select("layer", "feature", "rank", "ranks").rows()
    # Features 2 and 7 are the same vector: rounding may order them either way.
    assert [(row[0], alike(row[1]), *row[2:]) for row in columns] == [
        (row[0], alike(row[1]), row[2], row[4]) for row in best
    ]


def without_kind(asked):
    return {name: value for name, value in asked.items() if name != "kind"}


def alike(feature):
    return 2 if feature == 7 else feature


@pytest.mark.parametrize("by", ["rank", "score"])
@pytest.mark.parametrize("kind", LENSES)
@pytest.mark.parametrize("side", SIDES)
def test_the_best_features_are_those_of_the_whole_table(lens, side, kind, by):
    for token, n in itertools.product((0, 17, 100), (1, 7, N_FEATURES * 5)):
        check(lens, TokenQuery((token,)), side=side, kind=kind, n=n, by=by)


def lists_of(lens):
    """The scores of all lists of `K`, as an atlas has them; counts what is asked for."""

    def lists(layer, side, kind):
        dictionary = lens.dictionary(layer)
        carried = kind.map(lens, side, dictionary)(vectors_of(side, dictionary))
        scores = lens.readout(kind.readouts[side]).top_k(carried, K)[1].float().to(carried.dtype)
        scores[~carried.any(1)] = torch.nan
        return scores

    return lists


queries = st.lists(st.integers(0, 100), min_size=1, max_size=6, unique=True).flatmap(
    lambda ids: st.integers(1, len(ids)).map(
        lambda n_wanted: TokenQuery(tuple(ids[:n_wanted]), tuple(ids[n_wanted:]))
    )
)


@of_one
@given(
    query=queries,
    side=st.sampled_from(SIDES),
    kind=st.sampled_from(LENSES),
    n=st.integers(1, 70),
    by=st.sampled_from(["rank", "score"]),
    layers=st.sampled_from([[0], [1, 0], None]),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_several_tokens_and_unwanted_ones_are_those_of_the_whole_table(
    lens, query, side, kind, n, by, layers
):
    if lens_named(kind).missing(lens, side):
        return
    check(lens, query, side=side, kind=kind, n=n, by=by, layers=layers)


@of_one
@given(
    query=queries,
    side=st.sampled_from(SIDES),
    kind=st.sampled_from(LENSES),
    n=st.integers(1, 70),
    layers=st.sampled_from([[0], [1, 0], None]),
    listed=st.sets(st.integers(0, 3)),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_known_lists_change_no_bit_of_the_answer(lens, query, side, kind, n, layers, listed):
    if lens_named(kind).missing(lens, side):
        return
    every = lists_of(lens)

    def lists(layer, *asked):
        return every(layer, *asked) if layer in listed else None

    asked = {"side": side, "lens": kind, "n": n, "layers": layers}
    plain = lens.search(query, **asked)
    assert_frame_equal(lens.search(query, lists=lists, **asked), plain, check_exact=True)


@of_one
def test_known_lists_that_are_enough_save_all_other_ranking(lens, monkeypatch):
    """A token that `n` features have in their lists needs no look at other features."""
    token = max(range(0, 100, 7), key=lambda token: n_listing(lens, token))
    n = n_listing(lens, token)
    plain = {by: lens.search(token, n=n, by=by) for by in ("rank", "score")}
    ranked = []
    whole = shortlist.ranks_of_carried

    def counted(readout, carried, ids):
        ranked.append(len(carried))
        return whole(readout, carried, ids)

    monkeypatch.setattr(shortlist, "ranks_of_carried", counted)
    monkeypatch.setattr(best_ranks, "ranks_among", None)
    monkeypatch.setattr(best_ranks, "directions_of", None)
    found = lens.search(token, n=n, lists=lists_of(lens))
    assert_frame_equal(found, plain["rank"], check_exact=True)
    assert ranked == [n]
    assert found["rank"].max() <= K
    assert_frame_equal(lens.search(token, n=n, by="score"), plain["score"], check_exact=True)


def n_listing(lens, token):
    """How many features of all layers have a token in their list."""
    found = lens.search(token, n=N_FEATURES * len(lens.dictionaries.layers))
    return found.filter(found["rank"] <= K).height


@of_one
def test_a_feature_whose_list_is_not_known_is_not_lost(lens):
    every = lists_of(lens)

    def lists(layer, *asked):
        scores = every(layer, *asked)
        scores[::2] = torch.nan
        return scores

    for token in range(0, 100, 9):
        plain = lens.search(token, n=4)
        assert_frame_equal(lens.search(token, n=4, lists=lists), plain, check_exact=True)


@of_one
def test_an_unwanted_token_leaves_out_what_has_it_in_front(lens):
    best = lens.search(5, n=1, layers=[0])
    feature = int(best["feature"][0])
    first, *_ = lens.best_tokens("value", [(0, feature)], lens_named("query"), K)
    other = next(token for token in first if token != 5)
    found = lens.search(TokenQuery((5,), (other,)), n=N_FEATURES, layers=[0])
    assert feature not in found["feature"].to_list()
    assert all(unwanted > max(wanted, K) for wanted, unwanted in found["ranks"].to_list())


@of_one
def test_few_features_are_ranked_over_the_whole_vocabulary(lens, monkeypatch):
    ranked = []
    whole = best_ranks.ranks_among

    def counted(tools, dictionary, features, *others):
        ranked.append(len(features))
        return whole(tools, dictionary, features, *others)

    monkeypatch.setattr(best_ranks, "ranks_among", counted)
    monkeypatch.setattr(best_ranks.Ranker, "_pays", lambda _self, _n_tokens, left, _limit: left > 0)
    lens.search(5, n=1, layers=[0])
    assert 0 < sum(ranked) < N_FEATURES / 2


@of_one
def test_a_sample_that_is_rounded_otherwise_loses_nothing(lens, monkeypatch):
    """Screening scores may differ from the exact ones by rounding."""
    plain = best_ranks.directions_of

    def rough(*args):
        rows = plain(*args)
        return rows + 1e-6 * rows.abs().amax() * (torch.rand(rows.shape, dtype=rows.dtype) - 0.5)

    monkeypatch.setattr(best_ranks, "directions_of", rough)
    for token in range(0, 100, 9):
        check(lens, TokenQuery((token,)), side="key", kind="logit", n=5, by="rank")


@of_one
@pytest.mark.parametrize("by", ["rank", "score"])
def test_progress_rises_to_the_end_of_the_layers_and_can_stop_the_search(lens, by):
    said = []
    lens.search(5, n=3, by=by, progress=lambda *told: said.append(told))
    n_layers = len(lens.dictionaries.layers)
    assert said == sorted(said)
    assert {total for _, total in said} == {100 * n_layers}
    assert {100 * layer for layer in range(n_layers)} <= {done for done, _ in said}

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lens.search(5, n=3, by=by, progress=stop)


@of_one
@pytest.mark.parametrize(
    ("asked", "options", "says"),
    [
        (TokenQuery(()), {}, "no token to look for"),
        (TokenQuery((), (3,)), {}, "no token to look for"),
        ([3, 3], {}, "token #3 is there twice"),
        (TokenQuery((3,), (3,)), {}, "token #3 is there twice"),
        (range(MOST_TOKENS + 1), {}, f"search for at most {MOST_TOKENS} at once"),
        ([3, 101], {}, "ids 0 to 100"),
        (3, {"n": 0}, "at least 1 feature"),
        (3, {"by": "place"}, "there is no order 'place': search by rank or score"),
        (3, {"layers": []}, "no layers to search"),
    ],
)
def test_a_search_that_cannot_be_answered_names_the_fix(lens, asked, options, says):
    with pytest.raises(UsageError, match=says) as refused:
        lens.search(asked, **options)
    assert "\n" not in str(refused.value)
