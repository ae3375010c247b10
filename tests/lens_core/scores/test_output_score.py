"""What steering raises, against one prefix and one token at a time; halves, resuming, refusals."""

import pytest
import torch

from lens_core.carry import Carrier
from lens_core.config import DictionaryConfig
from lens_core.dictionaries.load import load_dictionary
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.neutral_prefixes import SCORING, TUNING
from lens_core.scores import output_score
from lens_core.scores.output_score import Observed, observe, overlaps, percentiles
from lens_core.scores.strength import TOLERANCE
from lens_core.steering import Steering
from lens_core.storage.results import ResultCache
from lens_core.vocabulary import Vocabulary
from tests.lens_core.test_steering import some_texts

of_one = pytest.mark.parametrize("architecture", ["gpt2"], indirect=True, scope="session")
FEATURES = (3, 11, 20)


@pytest.fixture
def lens(tiny, reference, word_tokenizer, tmp_path):
    dictionary = load_dictionary(DictionaryConfig(kind="neurons"), 0, tiny, dtype=torch.float64)
    carrier = Carrier(tiny, reference, None, ResultCache(tmp_path / "results"))
    shelf = DictionaryShelf([0], lambda _: dictionary)
    return QueryLens(carrier, shelf, Vocabulary(word_tokenizer, tiny.d_vocab), k=5)


@pytest.fixture(autouse=True)
def targets(monkeypatch):
    """Divergences that a tiny random model reaches, whose logits nothing changes much."""
    monkeypatch.setattr(output_score, "TARGETS", (1e-4, 2e-4))
    return output_score.TARGETS


def test_percentiles_run_from_one_to_zero_and_equal_logits_are_by_id():
    got = percentiles(torch.tensor([[0.5, 2.0, 0.5, -1.0, 7.0]]))
    assert got.tolist() == [[0.5, 0.75, 0.25, 0.0, 1.0]]


def divergence(clean, steered):
    """The mean over prefixes, in plain sums."""
    total = 0.0
    for p, q in zip(clean.softmax(-1), steered.softmax(-1), strict=True):
        total += sum(float(a) * float((a / b).log()) for a, b in zip(p, q, strict=True))
    return total / len(clean)


@of_one
def test_what_is_raised_is_the_mean_change_of_ranks_by_definition(lens, targets):
    texts, dictionary = some_texts(), lens.dictionary(0)
    found = observe(lens, dictionary, FEATURES, texts)
    assert set(found.features.tolist()) | set(found.left_out) == set(FEATURES)
    assert len(found.features)
    steering = Steering(lens.model, dictionary, texts)
    for at, feature in enumerate(found.features.tolist()):
        kept = lens.carrier.results.about(texts).get(
            {
                "kind": "steered", "version": 1, "dictionary": dictionary.sha256,
                "feature": feature, "targets": list(targets), "tolerance": TOLERANCE,
            }
        )  # fmt: skip
        changes = torch.zeros(texts.samples, lens.model.d_vocab, dtype=torch.float64)
        for target, strength in zip(targets, kept["strengths"].tolist(), strict=True):
            steered = steering.logits(feature, strength)
            reached = divergence(steering.clean, steered)
            assert reached == pytest.approx(target, rel=TOLERANCE + 1e-6)
            for row, (before, after) in enumerate(zip(steering.clean, steered, strict=True)):
                ranks = [x.argsort(descending=True).argsort() for x in (before, after)]
                changes[row] += (ranks[0] - ranks[1]).double()
        for kept_ids, rows in (
            (found.raised[at], changes),
            (found.halves[at, 0], changes[::2]),
            (found.halves[at, 1], changes[1::2]),
        ):
            mean = rows.mean(0)
            best = mean[kept_ids]
            assert (best[:-1] >= best[1:] - 1e-3).all()
            others = mean.clone()
            others[kept_ids] = -torch.inf
            assert float(others.max()) <= float(best.min()) + 1e-3


@of_one
def test_a_run_goes_on_where_it_was_stopped_and_more_features_only_add(lens, monkeypatch):
    texts, dictionary = some_texts(), lens.dictionary(0)

    class StoppedError(Exception):
        pass

    def stop(done, _of):
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        observe(lens, dictionary, FEATURES, texts, stop)
    steered = []
    real = output_score._steered

    def counted(steering, dictionary, feature, *more):
        steered.append(feature)
        return real(steering, dictionary, feature, *more)

    monkeypatch.setattr(output_score, "_steered", counted)
    resumed = observe(lens, dictionary, FEATURES, texts)
    assert steered == [FEATURES[2]]
    lens.carrier.results = Carrier(lens.model, lens.carrier.reference, None, None).results
    whole = observe(lens, dictionary, FEATURES, texts)
    for name in ("features", "raised", "halves"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name))


@of_one
def test_features_that_write_nothing_or_never_reach_it_are_left_out(lens, monkeypatch):
    texts, dictionary = some_texts(), lens.dictionary(0)
    monkeypatch.setattr(output_score, "_LIMIT", 1e-9)
    found = observe(lens, dictionary, FEATURES, texts)
    assert found.left_out == FEATURES
    assert found.raised.shape == (0, output_score.RAISED)
    assert found.scores(torch.zeros(0, 25, dtype=torch.int64), 25) == []
    assert found.ceilings(25) == []


def test_scores_and_ceilings_of_a_made_up_feature():
    raised = torch.arange(25)[None]
    halves = torch.stack([torch.arange(25), torch.arange(15, 40)])[None]
    numbers = torch.ones(1, 2)
    found = Observed(torch.tensor([4]), raised, halves, numbers, numbers, ())
    lists = torch.cat([torch.arange(20, 45)[None]])
    assert found.scores(lists, 25) == [5 / 25]
    assert found.scores(raised.flip(1), 5) == [0]  # the same tokens, the other way round
    assert found.ceilings(25) == pytest.approx([2 * 0.4 / 1.4])
    assert found.ceilings(5) == [0]
    assert overlaps(torch.full((1, 3), -1), torch.full((1, 3), -1)).tolist() == [0]


def test_prefixes_that_score_and_prefixes_to_tune_on_are_different_ones():
    assert (len(SCORING), len(TUNING)) == (100, 60)
    assert len({text.casefold() for text in (*SCORING, *TUNING)}) == 160
    for text in (*SCORING, *TUNING):
        assert text.isascii()
        assert text == text.strip()
        assert 2 <= len(text.split()) <= 6
