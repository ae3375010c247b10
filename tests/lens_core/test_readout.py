"""Readouts against the definitions, and ties against their rule."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from lens_core.errors import ModelError
from lens_core.final_norm import final_norm_of
from lens_core.model import ResidualModel
from lens_core.ranking import ranks, top_k
from lens_core.readout import Readout, Readouts, centered_cosine_rows, read_together
from tests.models import tiny_hf

few_values = numpy_strategies.arrays(
    "float32", st.integers(1, 30), elements=st.sampled_from([-2.0, 0.0, 0.5, 3.0])
)


@given(scores=few_values, k=st.integers(1, 40), largest=st.booleans())
def test_top_k_is_a_sort_by_score_and_then_by_id(scores, k, largest):
    sign = -1 if largest else 1
    expected = sorted(range(len(scores)), key=lambda i: (sign * scores[i], i))[:k]
    ids, best = top_k(torch.from_numpy(scores), k, largest=largest)
    assert ids.tolist() == expected
    assert best.tolist() == [scores[i] for i in expected]


@given(scores=few_values)
def test_ranks_count_along_the_same_order(scores):
    order, _ = top_k(torch.from_numpy(scores), len(scores))
    assert ranks(torch.from_numpy(scores))[order].tolist() == list(range(len(scores)))


def test_scores_that_are_not_numbers_have_no_order():
    with pytest.raises(ModelError, match="are NaN"):
        top_k(torch.tensor([1.0, float("nan")]), 1)


def test_the_closed_form_of_the_final_norm_is_the_module(architecture, tiny):
    norm = final_norm_of(tiny)
    x = torch.randn(7, 24, generator=torch.Generator().manual_seed(0)).double() * 3
    got = norm.linear(x) / norm.scale(x)[:, None] + (0 if norm.bias is None else norm.bias)
    assert torch.allclose(got, tiny.final_norm(x), rtol=1e-5, atol=1e-6)
    assert norm.centred == (architecture == "gpt2")
    w = torch.randn(24, generator=torch.Generator().manual_seed(1)).double()
    assert torch.allclose(x @ norm.pulled(w), norm.linear(x) @ w)


def readouts(model: ResidualModel) -> Readouts:
    """With some centre that no row equals."""
    return Readouts(model, lambda: model.embedding[3:9].mean(0))


def test_unembed_is_the_models_own_logits_of_that_stream(tiny, reference):
    last = tiny.sites(reference.tokens)[-1]
    with torch.no_grad():
        expected = tiny.bridge.original_model(reference.tokens).logits
    got = readouts(tiny)["unembed"].scores(last[0])
    assert torch.allclose(got, expected[0], rtol=1e-4, atol=1e-5)


def test_a_model_with_an_unembedding_bias_adds_it():
    hf_model = tiny_hf("llama")
    hf_model.lm_head.bias = torch.nn.Parameter(torch.arange(101.0).double())
    biased = ResidualModel.from_hf(hf_model, None, "biased")
    x = torch.randn(24).double()
    plain = ResidualModel.from_hf(tiny_hf("llama"), None, "plain")
    with_bias, without = (readouts(model)["unembed"].scores(x) for model in (biased, plain))
    assert torch.allclose(with_bias - without, torch.arange(101.0).double())


def test_centred_cosine_is_the_cosine_up_to_the_length_of_the_key():
    generator = torch.Generator().manual_seed(2)
    embedding, center, key = (
        torch.randn(*shape, generator=generator).double() for shape in ((9, 4), (4,), (4,))
    )
    scores = Readout("embed_centered_cosine", centered_cosine_rows(embedding, center)).scores(key)
    for token in range(9):
        cosine = torch.nn.functional.cosine_similarity(embedding[token] - center, key, dim=0)
        assert float(scores[token]) == pytest.approx(float(cosine * key.norm()), rel=1e-12)


def test_a_row_at_the_centre_scores_zero_not_nan():
    embedding = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    rows = centered_cosine_rows(embedding, embedding[0])
    assert rows[0].tolist() == [0.0, 0.0]
    assert float(rows[1].norm()) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [0.25, 40.0])
def test_scaling_embeddings_and_centre_alike_changes_no_score(scale):
    generator = torch.Generator().manual_seed(3)
    embedding, center = torch.randn(9, 4, generator=generator), torch.randn(4, generator=generator)
    one = centered_cosine_rows(embedding, center)
    assert torch.allclose(one, centered_cosine_rows(scale * embedding, scale * center), atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_the_scores_of_several_vectors_are_those_of_each_alone(tiny, n):
    vectors = torch.randn(n, 24, generator=torch.Generator().manual_seed(4)).double()
    made = readouts(tiny)
    for readout in (*made.all(), made["unembed"].derivative):
        together = readout.scores(vectors)
        assert together.shape == (n, tiny.d_vocab)
        for one, scores in zip(vectors, together, strict=True):
            assert torch.allclose(readout.scores(one), scores, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["unembed", "embed", "embed_centered_cosine"])
def test_direction_divisor_and_constant_give_the_scores(tiny, name):
    # Search and paths score single tokens from these three; tolerance: RMSNorm is float32.
    readout = readouts(tiny)[name]
    vectors = torch.randn(5, 24, generator=torch.Generator().manual_seed(5)).double()
    scores, ids = readout.scores(vectors), torch.tensor([17, 4])
    constant = readout.constant(ids)
    got = vectors @ readout.direction(ids) / readout.norm_scale(vectors)
    got = got if constant is None else got + constant
    assert torch.allclose(got, scores[:, ids].sum(1), rtol=1e-5, atol=1e-6)
    length = vectors.norm(dim=1) if readout.compares_by_length else readout.norm_scale(vectors)
    assert torch.equal(readout.divisor(vectors), length)


@pytest.mark.parametrize("name", ["unembed", "embed", "embed_centered_cosine"])
def test_parts_of_a_vector_score_as_it_does_together(tiny, name):
    readout = readouts(tiny)[name]
    parts = torch.randn(4, 24, generator=torch.Generator().manual_seed(6)).double()
    whole = parts.sum(0)
    constant = torch.stack(
        [readout.constant(torch.tensor([t])) or torch.zeros(()) for t in range(tiny.d_vocab)]
    )
    got = readout.parts(parts).sum(0) / readout.norm_scale(whole) + constant
    assert torch.allclose(got, readout.scores(whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["unembed", "embed", "embed_centered_cosine"])
def test_lists_and_ranks_of_many_vectors_are_those_of_the_scores(tiny, name):
    readout = readouts(tiny)[name]
    vectors = torch.randn(3, 24, generator=torch.Generator().manual_seed(7)).double()
    ids, best = readout.top_k(vectors, 6)
    for row, scores in enumerate(readout.scores(vectors)):
        expected, values = top_k(scores, 6)
        assert ids[row].tolist() == expected.tolist()
        assert torch.allclose(best[row], values)
    assert readout.ranks(vectors, ids).tolist() == [list(range(6))] * 3
    both = readout.top_k_and_ranks(vectors, 6, ids)
    assert all(torch.equal(one, two) for one, two in zip(both[:2], (ids, best), strict=True))
    assert both[2].tolist() == [list(range(6))] * 3


def test_reading_together_gives_each_readouts_own_scores(tiny):
    made = readouts(tiny)
    vectors = torch.randn(4, 24, generator=torch.Generator().manual_seed(8)).double()
    names = ("embed", "embed_centered_cosine", "unembed", "embed")
    asked = [(made[name], vector) for name, vector in zip(names, vectors, strict=True)]
    for (readout, vector), scores in zip(asked, read_together(asked), strict=True):
        assert torch.allclose(readout.scores(vector), scores, rtol=1e-9, atol=1e-12)


def test_a_vector_of_length_zero_compares_with_nothing(tiny):
    for readout in readouts(tiny).all():
        assert readout.divisor(torch.zeros(2, 24).double()).isnan().all()
