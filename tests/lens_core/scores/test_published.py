"""Protocol `published` against a plain model of Hugging Face with hooks, one text at a time."""

import math

import pytest
import torch

from lens_core.carry import Carrier
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import UsageError
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.scores import continuations, published
from lens_core.scores.continuations import Continuations, sampled
from lens_core.scores.published import (
    MARGIN,
    STRENGTHS,
    Divergences,
    draws,
    observe_published,
    whole_strength,
)
from lens_core.storage.results import ResultCache
from lens_core.vocabulary import Vocabulary
from tests.lens_core.test_finite_differences import hooked, layers_of, loaded
from tests.lens_core.test_lens_dictionaries import Place
from tests.lens_core.test_steering import some_texts
from tests.models import tiny_hf

of_one = pytest.mark.parametrize("architecture", ["gpt2"], indirect=True, scope="session")
FEATURES = (3, 11, 19)
TARGETS = (2e-4, 8e-4)
PLACE = Place("sae", 1, "hook_resid_post")


@pytest.fixture
def lens(tiny, reference, word_tokenizer, tmp_path):
    dictionary = load_dictionary(DictionaryConfig(kind="neurons"), 0, tiny, dtype=torch.float64)
    return lens_on(dictionary, tiny, reference, word_tokenizer, tmp_path)


def lens_on(dictionary, tiny, reference, tokenizer, folder):
    carrier = Carrier(tiny, reference, None, ResultCache(folder / "results"))
    shelf = DictionaryShelf([dictionary.layer], lambda _: dictionary)
    return QueryLens(carrier, shelf, Vocabulary(tokenizer, tiny.d_vocab), k=5)


@pytest.fixture(autouse=True)
def little(monkeypatch):
    """Divergences that a tiny random model reaches, and few tokens."""
    monkeypatch.setattr(published, "TARGETS", TARGETS)
    monkeypatch.setattr("lens_core.scores.output_score.TARGETS", TARGETS)
    monkeypatch.setattr(published, "MARGIN", 4e-4)
    monkeypatch.setattr(published, "WRITTEN", 5)


def by_definition(hf, theirs, texts, feature, sha256):
    """Strengths, and the change of ranks behind each prefix, by hooks on the plain model."""
    block = layers_of(hf)[PLACE.layer]
    prefixes = [texts.ids(at) for at in range(texts.samples)]

    def replaced(value):
        def change(x):
            activations = theirs.encode(x)
            if value is not None:
                activations[..., feature] = value
            return theirs.decode(activations)

        return hooked(block, pre=False, change=change)

    def added(value):
        def change(x):
            return x + (value - theirs.encode(x)[..., feature, None]) * theirs.W_dec[feature]

        return hooked(block, pre=False, change=change)

    def logits(hook, ids):
        with hook:
            return hf(input_ids=torch.tensor([ids])).logits[0]

    def divergence(value):
        total, count = 0.0, 0
        for ids in prefixes:
            p, q = (
                logits(replaced(each), ids).softmax(-1).clamp(min=1e-10) for each in (None, value)
            )
            total += float((p * (p.log() - q.log())).sum())
            count += len(ids)
        return total / count

    def places(row):
        order = row.argsort(descending=True)
        found = torch.empty(len(row), dtype=torch.float64)
        found[order] = torch.linspace(1, 0, len(row), dtype=torch.float64)
        return found

    def write(ids, numbers, value):
        """The tokens behind a prefix, and the ranks on the way."""
        ids, ranks = list(ids), 0
        for number in numbers.tolist():
            hook = hooked(block, pre=False, change=lambda x: x) if value is None else added(value)
            last = logits(hook, ids)[-1]
            ranks = ranks + places(last) / len(numbers)
            passed = (last / 0.75).softmax(-1).cumsum(-1)
            ids.append(next(at for at, p in enumerate(passed.tolist()) if p > number))
        return ids, ranks

    clean = []
    for ids, numbers in zip(prefixes, draws("unchanged", len(prefixes))[0], strict=True):
        whole, _ = write(ids, numbers, None)
        again = logits(replaced(None), whole)
        positions = range(len(ids) - 1, len(whole) - 1)
        clean.append(sum(places(again[at]) for at in positions) / len(positions))
    strengths, change = [], torch.zeros(len(prefixes), hf.config.vocab_size, dtype=torch.float64)
    seeds = draws(f"{sha256}:{feature}", len(prefixes))
    for target, numbers in zip(TARGETS, seeds, strict=True):
        low, high = 1, 1000
        while True:
            strength = (low + high) // 2
            found = divergence(strength)
            if target <= found <= target + published.MARGIN:
                break
            low, high = (strength + 1, high) if found < target else (low, strength - 1)
            if low > high:
                return None
        strengths.append(strength)
        for row, (ids, own) in enumerate(zip(prefixes, numbers, strict=True)):
            change[row] += write(ids, own, strength)[1] - clean[row]
    return strengths, change


@of_one
@torch.no_grad()
def test_what_is_raised_is_that_of_the_plain_model_with_hooks(
    tiny, reference, word_tokenizer, tmp_path
):
    theirs, ours = loaded(PLACE, tiny, tmp_path)
    ours.values.mul_(0.01)  # so that whole strengths are fine enough
    theirs.W_dec.data.mul_(0.01)
    lens = lens_on(ours, tiny, reference, word_tokenizer, tmp_path)
    texts = some_texts()
    found = observe_published(lens, ours, FEATURES, texts)
    assert len(found.features) >= 2
    for feature in found.left_out:
        assert by_definition(tiny_hf("gpt2"), theirs, texts, feature, ours.sha256) is None
    for at, feature in enumerate(found.features.tolist()):
        strengths, change = by_definition(tiny_hf("gpt2"), theirs, texts, feature, ours.sha256)
        assert found.strengths[at].tolist() == strengths
        for kept_ids, rows in (
            (found.raised[at], change),
            (found.halves[at, 0], change[::2]),
            (found.halves[at, 1], change[1::2]),
        ):
            mean = rows.mean(0)
            best = mean[kept_ids]
            assert (best[:-1] >= best[1:] - 1e-5).all()
            others = mean.clone()
            others[kept_ids] = -torch.inf
            assert float(others.max()) <= float(best.min()) + 1e-5


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        (lambda s: 1e-3 * s, 250),
        (lambda s: 0.25 if s < 4 else 9.0, 3),
        (lambda _: 0.0, None),
        (lambda _: math.nan, None),
        (lambda _: math.inf, None),
        (lambda s: 0.0 if s < 700 else 5.0, None),
        (lambda s: math.nan if s > 100 else s / 200, 62),
        (lambda s: -1.0 if s % 2 else 8.0, None),
        (lambda s: 0.3 if s == 1000 else 0.0, 1000),
        (lambda s: 0.3 if s == 1 else 7.0, 1),
    ],
    ids=["line", "step", "flat", "nan", "infinite", "jump", "nan above", "saw", "last", "first"],
)
def test_whole_strengths_are_found_by_bisection_or_not_at_all(monkeypatch, divergence, expected):
    monkeypatch.setattr(published, "MARGIN", 0.1)
    seen = []

    def counted(strength):
        seen.append(strength)
        assert isinstance(strength, int)
        assert STRENGTHS[0] <= strength <= STRENGTHS[1]
        return divergence(strength)

    known = {}
    found = whole_strength(counted, 0.25, known)
    assert len(seen) == len(set(seen)) <= 10
    if expected is None:
        assert found is None
    else:
        assert 0.25 <= found.divergence <= 0.35
        assert found.strength == expected
    before = len(seen)
    whole_strength(counted, 0.25, known)
    assert len(seen) == before  # nothing is computed twice


def test_the_constants_are_those_of_the_method():
    assert (MARGIN, STRENGTHS, published.TEMPERATURE) == (0.1, (1, 1000), 0.75)
    assert published.MOST_PASSES == 20


def test_numbers_are_fixed_for_a_feature_and_a_text():
    few, many = draws("a:1", 3), draws("a:1", 9)
    assert few.shape == (2, 3, 5)
    assert torch.equal(few, many[:, :3])
    assert not torch.equal(few, draws("a:2", 3))
    assert not torch.equal(few[0], few[1])
    assert len(set(many.flatten().tolist())) == many.numel()
    assert bool(((many >= 0) & (many < 1)).all())


def test_a_token_is_drawn_as_often_as_it_is_likely():
    logits = torch.tensor([[0.0, 2.0, -1e4, 1.0]])
    numbers = (torch.arange(10_000) + 0.5) / 10_000
    drawn = sampled(logits.expand(10_000, 4), numbers, 0.5).bincount(minlength=4) / 10_000
    assert drawn.tolist() == pytest.approx((logits[0] / 0.5).softmax(-1).tolist(), abs=1e-4)
    assert drawn[2] == 0
    assert sampled(logits, torch.tensor([0.0]), 1.0).tolist() == [0]
    assert sampled(logits, torch.tensor([1 - 1e-12]), 1.0).tolist() == [3]
    assert sampled(torch.full((1, 4), math.nan), torch.tensor([0.5]), 1.0).tolist() == [3]


@of_one
def test_batches_and_less_memory_change_nothing(lens, monkeypatch):
    texts, dictionary = some_texts(), lens.dictionary(0)
    numbers = draws("x", texts.samples)[0]
    whole = Continuations(lens.model, dictionary, texts, 5, 0.75).written(numbers, 3, 9.0)
    divergence = Divergences(lens.model, dictionary, texts).of(3, 9.0)
    monkeypatch.setattr(continuations, "samples_at_once", lambda *_: 4)
    monkeypatch.setattr(continuations, "BLOCK_BYTES", 8 * lens.model.d_vocab)
    monkeypatch.setattr(published, "samples_per_pass", lambda *_: 4)
    real, sizes = continuations.GrowingTexts, []

    def full(model, dictionary, n, *more):
        sizes.append(n)
        if n > 2:
            raise MemoryError
        return real(model, dictionary, n, *more)

    monkeypatch.setattr(continuations, "GrowingTexts", full)
    again = Continuations(lens.model, dictionary, texts, 5, 0.75).written(numbers, 3, 9.0)
    assert sizes == [4, 2, 2, 1]
    assert torch.equal(again.tokens, whole.tokens)
    assert torch.allclose(again.ranks, whole.ranks)
    assert Divergences(lens.model, dictionary, texts).of(3, 9.0) == pytest.approx(divergence)


@of_one
def test_a_run_goes_on_where_it_was_stopped(lens, monkeypatch):
    texts, dictionary = some_texts(), lens.dictionary(0)

    class StoppedError(Exception):
        pass

    def stop(done, _of):
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        observe_published(lens, dictionary, FEATURES, texts, stop)
    steered = []
    real = published._Steered.of

    def counted(self, feature):
        steered.append(feature)
        return real(self, feature)

    monkeypatch.setattr(published._Steered, "of", counted)
    resumed = observe_published(lens, dictionary, FEATURES, texts)
    assert steered == [FEATURES[2]]
    lens.carrier.results = Carrier(lens.model, lens.carrier.reference, None, None).results
    whole = observe_published(lens, dictionary, FEATURES, texts)
    for name in ("features", "raised", "halves", "strengths"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name))


@of_one
def test_features_that_reach_nothing_or_give_no_numbers_are_left_out(lens, monkeypatch):
    texts, dictionary = some_texts(), lens.dictionary(0)
    monkeypatch.setattr(published, "STRENGTHS", (1, 0))
    assert observe_published(lens, dictionary, FEATURES, texts).left_out == FEATURES
    monkeypatch.undo()
    monkeypatch.setattr(published, "whole_strength", lambda *_: published.Strength(math.nan, 0.3))
    lens.carrier.results = Carrier(lens.model, lens.carrier.reference, None, None).results
    monkeypatch.setattr(published, "WRITTEN", 2)
    assert observe_published(lens, dictionary, FEATURES[:1], texts).left_out == FEATURES[:1]


@of_one
def test_a_dictionary_that_cannot_be_spliced_in_is_one_line(lens, monkeypatch):
    monkeypatch.setattr(published, "obstacle", lambda _: "a reason")
    with pytest.raises(UsageError, match="no output score by protocol published: a reason"):
        observe_published(lens, lens.dictionary(0), FEATURES, some_texts())
