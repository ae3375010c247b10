"""The input score is what docs/method.md calls it, on firings small enough to count by hand."""

import torch

from benchmarks.input_score import input_scores


def test_it_is_the_share_of_the_strongest_tokens_that_are_in_the_list():
    # Two features over five contexts: the largest activation, and the token it was on.
    activation = torch.tensor([[1.0, 0], [0, 2], [3, 0], [2, 0], [4, 1]])
    token = torch.tensor([[7, 0], [0, 5], [8, 0], [7, 0], [9, 6]])
    lists = torch.tensor([[7, 9], [5, 6]])
    found = input_scores(activation, token, lists, contexts=2)
    # Feature 0 fires in contexts 0, 2, 3, 4: the first two are on 7 and 8, the strongest on 9
    # and 8. Feature 1 fires in 1 and 4, on 5 and 6.
    assert found.tolist() == [[0.5, 1.0], [0.5, 1.0]]


def test_a_feature_that_fires_too_seldom_has_no_score():
    found = input_scores(
        torch.tensor([[1.0], [0]]), torch.tensor([[7], [0]]), torch.tensor([[7]]), 2
    )
    assert found.isnan().all()
