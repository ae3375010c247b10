"""Input scores against sets and counters, one feature at a time; hand cases; ceilings."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_core.scores.input_score import (
    ABSENT,
    CONTEXTS,
    PeakTokens,
    ceiling_ranks,
    input_ranks,
    scores_at,
)

V = 12


@st.composite
def cases(draw):
    """Peak tokens, which ids are the same token, and lists without repeats."""
    n = draw(st.integers(1, 4))
    ids = [
        draw(st.lists(st.integers(0, V - 1), min_size=CONTEXTS, max_size=CONTEXTS))
        for _ in range(n)
    ]
    joined = draw(st.integers(0, 4))  # ids below it are one token
    k = draw(st.integers(1, V))
    lists = [draw(st.permutations(range(V)))[:k] for _ in range(n)]
    same = [0 if i < joined else i for i in range(V)]
    return torch.tensor(ids), torch.tensor(same), torch.tensor(lists)


@given(cases())
def test_a_score_is_the_share_of_the_tokens_that_are_in_the_list(case):
    ids, same, lists = case
    ranks = input_ranks(PeakTokens(ids, same), lists)
    for k in range(1, lists.shape[1] + 1):
        got = scores_at(ranks, k)
        for feature, tokens in enumerate(ids.tolist()):
            wanted = {int(same[token]) for token in lists[feature, :k].tolist()}
            hits = sum(int(same[token]) in wanted for token in tokens)
            assert float(got[feature]) == float(Fraction(hits, CONTEXTS))


def most_frequent(tokens: list[int], k: int) -> set[int]:
    count = Counter(tokens)
    return set(sorted(count, key=lambda token: (-count[token], tokens.index(token)))[:k])


@given(cases(), st.integers(1, 12))
def test_the_ceiling_is_what_one_half_says_of_the_other(case, k):
    ids, same, _ = case
    got = scores_at(ceiling_ranks(PeakTokens(ids, same)), k)
    for feature, row in enumerate(ids.tolist()):
        tokens = [int(same[token]) for token in row]
        hits = 0
        for seen, judged in ((tokens[::2], tokens[1::2]), (tokens[1::2], tokens[::2])):
            best = most_frequent(seen, k)
            hits += sum(token in best for token in judged)
        assert float(got[feature]) == float(Fraction(hits, CONTEXTS))


def test_ceilings_that_are_known():
    every = torch.arange(V)
    one = torch.full((1, CONTEXTS), 3)
    assert scores_at(ceiling_ranks(PeakTokens(one, every)), 1).tolist() == [1.0]
    different = torch.arange(CONTEXTS)[None]
    of_all = PeakTokens(different, torch.arange(CONTEXTS))
    assert scores_at(ceiling_ranks(of_all), 25).tolist() == [0.0]
    # Token 0 on three contexts in four, else one of its own: 16 of 20 only with both of each pair.
    mixed = torch.tensor([[0 if at % 4 else 100 + at for at in range(CONTEXTS)]])
    peaks = PeakTokens(mixed, torch.arange(200))
    assert scores_at(ceiling_ranks(peaks), 1).tolist() == [15 / 20]


def test_a_feature_without_a_list_or_without_contexts_is_told_apart():
    peaks = PeakTokens(torch.tensor([[1] * CONTEXTS, [1] * 19 + [-1]]), torch.arange(V))
    assert peaks.counts.tolist() == [True, False]
    # An id of -1 in a list is no token: it must not be taken for id 0 or the last one.
    lists = torch.tensor([[-1, -1], [-1, -1]])
    ids = torch.tensor([[0] * CONTEXTS, [V - 1] * CONTEXTS])
    assert (input_ranks(PeakTokens(ids, torch.arange(V)), lists) == ABSENT).all()


@pytest.mark.parametrize("k", [1, 5, 25])
def test_scores_of_many_features_are_those_of_each(k):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 60, (100, CONTEXTS), generator=generator)
    lists = torch.stack([torch.randperm(60, generator=generator)[:25] for _ in range(100)])
    same = torch.arange(60)
    together = scores_at(input_ranks(PeakTokens(ids, same), lists), k)
    for feature in (0, 41, 99):
        alone = scores_at(input_ranks(PeakTokens(ids[[feature]], same), lists[[feature]]), k)
        assert together[feature] == alone[0]
