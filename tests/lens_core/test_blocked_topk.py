"""Fused top-k lists and ranks against the whole table of scores."""

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lens_core import blocked_topk
from lens_core.blocked_topk import (
    ranks_in_product,
    ranks_of,
    top_k_and_ranks_of_product,
    top_k_of_product,
)
from lens_core.errors import ModelError
from lens_core.ranking import ranks, top_k


@pytest.fixture(autouse=True, scope="module")
def _blocks_of_three_vectors():
    """Small blocks, so that every test crosses a block boundary."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_topk, "_BLOCK_BYTES", {"cpu": 1})
        patch.setattr(blocked_topk, "_FEWEST_ROWS", 3)
        yield


def table(n, d_vocab, *, values=None, d_model=4, dtype=torch.float32, seed=0):
    """Vectors, rows and bias; small whole numbers tie often and are exact in any order of sums."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        if values is None:
            return torch.randn(*shape, generator=generator, dtype=dtype)
        return torch.randint(-values, values + 1, shape, generator=generator).to(dtype)

    return draw(n, d_model), draw(d_vocab, d_model), draw(d_vocab)


products = st.fixed_dictionaries(
    {
        "n": st.integers(0, 7),
        "d_vocab": st.integers(1, 200),
        "values": st.sampled_from([None, 1, 3, 50]),
        "dtype": st.sampled_from([torch.float32, torch.float64]),
        "seed": st.integers(0, 1000),
    }
)


def whole(vectors, rows, bias):
    """The same sums computed differently: exact for whole numbers, else in float64."""
    scores = vectors.double() @ rows.double().T
    return scores if bias is None else scores + bias.double()


@given(product=products, k=st.integers(1, 220), biased=st.booleans(), largest=st.booleans())
def test_the_lists_are_those_of_the_whole_product(product, k, biased, largest):
    vectors, rows, bias = table(**product)
    bias = bias if biased else None
    ids, best = top_k_of_product(vectors, rows, bias, k, largest=largest)
    scores = whole(vectors, rows, bias)
    assert ids.shape == best.shape == (len(vectors), min(k, len(rows)))
    assert best.dtype == vectors.dtype
    for row in range(len(vectors)):
        expected, expected_best = top_k(scores[row], k, largest=largest)
        torch.testing.assert_close(best[row].double(), expected_best, rtol=1e-5, atol=1e-5)
        if product["values"] is not None:
            assert ids[row].tolist() == expected.tolist()
        torch.testing.assert_close(scores[row][ids[row]], expected_best, rtol=1e-5, atol=1e-5)
        assert len(set(ids[row].tolist())) == ids.shape[1]


@given(product=products, m=st.integers(1, 5), biased=st.booleans())
def test_the_ranks_are_those_of_the_whole_product(product, m, biased):
    product |= {"values": product["values"] or 2}
    vectors, rows, bias = table(**product)
    bias = bias if biased else None
    generator = torch.Generator().manual_seed(product["seed"])
    ids = torch.randint(0, len(rows), (len(vectors), m), generator=generator)
    found = ranks_in_product(vectors, rows, bias, ids)
    for row, scores in enumerate(whole(vectors, rows, bias)):
        assert found[row].tolist() == ranks(scores)[ids[row]].tolist()


@given(product=products, k=st.integers(1, 9))
def test_one_sweep_gives_what_two_give(product, k):
    vectors, rows, bias = table(**product)
    other = torch.randint(0, len(rows), (len(vectors), 2))
    ids, best, found = top_k_and_ranks_of_product(vectors, rows, bias, k, other)
    alone, best_alone = top_k_of_product(vectors, rows, bias, k)
    assert ids.tolist() == alone.tolist()
    assert best.tolist() == best_alone.tolist()
    assert found.tolist() == ranks_in_product(vectors, rows, bias, other).tolist()


@given(product=products, k=st.integers(1, 20))
def test_the_best_of_a_product_have_the_first_ranks_in_it(product, k):
    vectors, rows, bias = table(**product)
    ids, _ = top_k_of_product(vectors, rows, bias, k)
    found = ranks_in_product(vectors, rows, bias, ids)
    assert found.tolist() == [list(range(ids.shape[1]))] * len(vectors)


def test_equal_scores_at_the_end_of_the_list_are_the_lowest_ids():
    rows = torch.ones(1000, 2)
    rows[700] = 2
    ids, _ = top_k_of_product(torch.ones(5, 2), rows, None, 4)
    assert ids.tolist() == [[700, 0, 1, 2]] * 5
    ids, _ = top_k_of_product(torch.ones(5, 2), rows, None, 1000, largest=False)
    assert ids[4].tolist() == [i for i in range(1000) if i != 700] + [700]


def test_a_feature_of_zeros_lists_the_first_tokens():
    ids, best = top_k_of_product(torch.zeros(1, 3), torch.randn(90, 3), None, 3)
    assert ids.tolist() == [[0, 1, 2]]
    assert best.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("d_vocab", [62, 63, 64])
def test_only_tokens_of_the_vocabulary_are_listed_where_every_score_is_low(d_vocab):
    rows = torch.arange(-d_vocab, 0, dtype=torch.float32)[:, None]
    ids, _ = top_k_of_product(torch.ones(1, 1), rows, None, 3)
    assert ids.tolist() == [[d_vocab - 1, d_vocab - 2, d_vocab - 3]]


@pytest.mark.parametrize("d_vocab", [63, 64, 65, 128])
def test_infinite_scores_have_their_place_in_the_order(d_vocab):
    rows = torch.arange(d_vocab, dtype=torch.float32)[:, None]
    bias = torch.zeros(d_vocab)
    bias[5], bias[[2, d_vocab - 1]] = float("inf"), float("-inf")
    ids, best = top_k_of_product(torch.ones(1, 1), rows, bias, d_vocab)
    between = [i for i in range(d_vocab - 1)[::-1] if i not in (2, 5)]
    assert ids.tolist() == [[5, *between, 2, d_vocab - 1]]
    assert best[0, [0, -2, -1]].tolist() == [float("inf"), float("-inf"), float("-inf")]


@pytest.mark.parametrize("call", [
    lambda vectors, rows: top_k_of_product(vectors, rows, None, 2),
    lambda vectors, rows: top_k_of_product(vectors, rows, None, 2, largest=False),
    lambda vectors, rows: ranks_in_product(vectors, rows, None, torch.zeros(8, 1).long()),
])  # fmt: skip
def test_a_score_that_is_not_a_number_names_its_vector(call):
    vectors, rows, _ = table(8, 70)
    vectors[6, 1] = float("nan")
    with pytest.raises(ModelError, match="vector 6 are NaN"):
        call(vectors, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused_because_its_order_is_ties(dtype):
    vectors, rows, _ = table(2, 9, dtype=torch.float32)
    with pytest.raises(ModelError, match="float32 or float64"):
        top_k_of_product(vectors.to(dtype), rows.to(dtype), None, 2)


@pytest.mark.parametrize("threads", [1, 2])
@given(data=st.data())
@hypothesis.settings(max_examples=30)
def test_ranks_of_some_ids_are_read_off_the_ranks_of_all(data, threads):
    scores = torch.tensor(
        data.draw(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=6, max_size=6)))
    ).reshape(-1, 6)
    ids = torch.randint(0, 6, (len(scores), 4))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = ranks_of(scores, ids)
    finally:
        torch.set_num_threads(before)
    expected = [ranks(row)[wanted].tolist() for row, wanted in zip(scores, ids, strict=True)]
    assert found.tolist() == expected
    assert blocked_topk._ranks_on_device(scores, ids).tolist() == expected


def test_the_layout_of_the_vocabulary_does_not_change_the_lists():
    vectors, rows, bias = table(7, 150, values=3)
    as_stored = top_k_of_product(vectors, rows, bias, 5)[0]
    assert top_k_of_product(vectors, rows.T.contiguous().T, bias, 5)[0].equal(as_stored)


class LargestTensor(TorchDispatchMode):
    """The bytes of the largest tensor that any operation gives."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple) else (result,):
            if isinstance(each, torch.Tensor):
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return result


def test_no_tensor_is_larger_than_a_block_of_scores(monkeypatch):
    monkeypatch.setattr(blocked_topk, "_BLOCK_BYTES", {"cpu": 2**20})
    vectors, rows, bias = table(3000, 1000)
    ids, _ = top_k_of_product(vectors, rows, bias, 5)
    with LargestTensor() as seen:
        top_k_of_product(vectors, rows, bias, 5, largest=False)
        top_k_and_ranks_of_product(vectors, rows, bias, 5, ids)
    assert 2**19 < seen.bytes <= 2**20
    assert len(vectors) * len(rows) * 4 > 10 * seen.bytes
