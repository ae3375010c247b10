"""How often and where features fire, against sorting everything."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lens_core import tally
from lens_core.activity import BINS, KEPT, FeatureActivity, Place, lottery
from lens_core.dictionaries.feature_dictionary import FeatureDictionary, sae_layer_norm
from lens_core.errors import DictionaryError, UsageError
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample
from lens_core.tally import Tally, feature_activity


class EchoModel(ResidualModel):
    """A stream that holds only the token's id; `most` samples fit its memory."""

    def __init__(self, most: int = 1000) -> None:
        self.name, self.n_layers, self.d_model = "echo", 1, 1
        self.most = most
        self.batches: list[int] = []

    device = torch.device("cpu")
    dtype = torch.float64
    bridge = None

    def sites(self, tokens: Tensor, last: int | None = None) -> list[Tensor]:
        if len(tokens) > self.most:
            raise torch.OutOfMemoryError
        self.batches.append(len(tokens))
        stream = tokens[..., None].double()
        return [stream - 1e9, stream, stream + 1e9]


def dictionary_of(
    encode: Callable[[Tensor], Tensor],
    n_features: int,
    d_model: int = 1,
    dtype: torch.dtype = torch.float64,
    read_norm: str = "none",
) -> FeatureDictionary:
    return FeatureDictionary(
        name="made here",
        kind="sae",
        layer=0,
        keys=torch.zeros(n_features, d_model, dtype=dtype),
        values=torch.zeros(n_features, d_model, dtype=dtype),
        read_site=1,
        write_site=1,
        encoder_bias=None,
        decoder_bias=None,
        read_norm=read_norm,
        write_norm="none",
        provenance={},
        sha256="0" * 64,
        encode=encode,
    )


def numbered(samples: int, length: int, **skips: int) -> ReferenceSample:
    """Every token has its own id, so that a lookup by id gives any activations wanted."""
    tokens = torch.arange(samples * length).view(samples, length)
    return ReferenceSample(tokens, "made here", **skips)


def lookup(table: Tensor) -> FeatureDictionary:
    """A dictionary whose activations on token `i` are row `i` of `table`."""
    return dictionary_of(lambda x: table[x[..., 0].long()], table.shape[1])


def contexts_of(table: Tensor, reference: ReferenceSample, feature: int) -> list[Place]:
    """The contexts of a feature, in the order of their samples: the definition."""
    found = []
    of_token = table[:, feature].tolist()
    for sample, tokens in enumerate(reference.tokens.tolist()):
        fired = [
            Place(sample, position, of_token[tokens[position]])
            for position in range(*reference.included.indices(reference.length))
            if of_token[tokens[position]] > 0
        ]
        if fired:
            found.append(max(fired, key=lambda place: place.activation))
    return found


def sorted_out(table: Tensor, reference: ReferenceSample, top: int) -> FeatureActivity:
    """The definition, one feature at a time, in exact arithmetic."""
    table = table.float()
    n = table.shape[1]
    fields = torch.zeros(n, dtype=torch.int32)
    counts = torch.zeros(n, BINS, dtype=torch.int64)
    tops = torch.zeros(n, top), *(torch.full((n, top), -1, dtype=torch.int32) for _ in "sp")
    firsts = tuple(torch.full((n, top), -1, dtype=torch.int32) for _ in "sp")
    bins = (
        torch.zeros(n, BINS, KEPT),
        *(torch.full((n, BINS, KEPT), -1, dtype=torch.int32) for _ in "sp"),
    )
    for feature in range(n):
        tokens = table[reference.tokens[:, reference.included].flatten(), feature]
        fired = [Fraction(a) for a in tokens.tolist() if a > 0]
        if not fired:
            continue
        exponent = max(math.frexp(float(max(fired)))[1], -125)  # that of subnormal numbers
        fields[feature] = exponent + 126
        width = Fraction(2) ** (exponent - 4)
        contexts = contexts_of(table, reference, feature)
        for activation in fired:
            counts[feature, math.ceil(activation / width) - 1] += 1
        strongest = sorted(contexts, key=lambda place: (-place.activation, place.sample))[:top]
        for rank, place in enumerate(strongest):
            put(tops, (feature, rank), place)
        for rank, place in enumerate(contexts[:top]):
            firsts[0][feature, rank], firsts[1][feature, rank] = place.sample, place.position
        inside = defaultdict(list)
        for place in contexts:
            inside[math.ceil(Fraction(place.activation) / width) - 1].append(place)
        for number, places in inside.items():
            for at, order in enumerate((drawn_by(feature), weakest, strongest_first)):
                put(bins, (feature, number, at), min(places, key=order))
    return FeatureActivity(reference.n_tokens, fields, counts, *tops, *firsts, *bins)


def put(into: tuple[Tensor, Tensor, Tensor], at: tuple[int, ...], place: Place) -> None:
    activations, samples, positions = into
    activations[at] = place.activation
    samples[at], positions[at] = place.sample, place.position


def drawn_by(feature: int) -> Callable[[Place], tuple[int, int]]:
    def order(place: Place) -> tuple[int, int]:
        ticket = lottery(torch.tensor([feature]), torch.tensor([place.sample]))
        return int(ticket), place.sample

    return order


def weakest(place: Place) -> tuple[float, int]:
    return place.activation, place.sample


def strongest_first(place: Place) -> tuple[float, int]:
    return -place.activation, place.sample


def assert_same(found: FeatureActivity, expected: FeatureActivity) -> None:
    for name, wanted in vars(expected).items():
        got = getattr(found, name)
        assert torch.equal(got, wanted) if isinstance(wanted, Tensor) else got == wanted, name


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, ReferenceSample]:
    samples, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    skip_first = draw(st.integers(0, length - 1))
    skip_last = draw(st.integers(0, length - 1 - skip_first))
    n_features = draw(st.integers(1, 4))
    # Few distinct values, so that equal activations are the rule; or of every size there is.
    size = samples * length * n_features
    few = st.integers(-2, 3).map(lambda number: number / 2)
    any_size = st.floats(-1, width=32, allow_infinity=False, allow_nan=False)
    values = draw(st.lists(draw(st.sampled_from([few, any_size])), min_size=size, max_size=size))
    table = torch.tensor(values, dtype=torch.float64).view(-1, n_features)
    # The sum of a block must be finite, or it is taken for a broken dictionary.
    table = table.clamp(max=1e37)
    return table, numbered(samples, length, skip_first=skip_first, skip_last=skip_last)


@given(
    case=cases(),
    top=st.integers(1, 7),
    batch=st.none() | st.integers(1, 6),
    block_bytes=st.sampled_from([1, 64, 1 << 20]),
)
def test_it_is_what_sorting_all_contexts_gives(
    case: tuple[Tensor, ReferenceSample], top: int, batch: int | None, block_bytes: int
) -> None:
    table, reference = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "BLOCK_BYTES", block_bytes)
        found = feature_activity(EchoModel(), lookup(table), reference, top=top, batch=batch)
    assert_same(found, sorted_out(table, reference, top))


def test_many_tokens_in_any_order_of_strength() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = numbered(40, 25, skip_first=1)
    rising = torch.arange(1000.0, dtype=torch.float64)
    table = torch.stack(
        [rising, -rising + 500, torch.randn(1000, generator=generator).double(), rising * 0 + 1], 1
    )
    found = feature_activity(EchoModel(), lookup(table), reference, top=20, batch=7)
    assert_same(found, sorted_out(table.float(), reference, 20))


@given(case=cases(), top=st.integers(1, 5), stop=st.integers(0, 5), batch=st.integers(1, 3))
def test_what_was_read_before_an_interruption_counts_as_if_there_was_none(
    case: tuple[Tensor, ReferenceSample], top: int, stop: int, batch: int
) -> None:
    table, reference = case
    dictionary, model, skipped = lookup(table), EchoModel(), reference.skip_first
    half = min(stop, reference.samples)
    tally_of = Tally(model, dictionary, top)
    for first in range(0, half, batch):
        tally_of.add(stream_of(model, reference, first, min(first + batch, half)), first)
    before = tally_of.activity(skipped)
    resumed = Tally(model, dictionary, top, before, skipped)
    assert_same(resumed.activity(skipped), before)
    for first in range(half, reference.samples, batch):
        resumed.add(stream_of(model, reference, first, first + batch), first)
    assert_same(resumed.activity(skipped), sorted_out(table, reference, top))


def stream_of(model: EchoModel, reference: ReferenceSample, first: int, stop: int) -> Tensor:
    return model.sites(reference.tokens[first:stop])[1][:, reference.included]


@given(case=cases(), n=st.integers(1, 4))
def test_examples_of_a_quarter_lie_in_it_and_are_there_if_any_context_does(
    case: tuple[Tensor, ReferenceSample], n: int
) -> None:
    table, reference = case
    table = table.float()
    found = feature_activity(EchoModel(), lookup(table), reference)
    for feature in range(table.shape[1]):
        contexts = contexts_of(table, reference, feature)
        largest = max((place.activation for place in contexts), default=0.0)
        for quarter, examples in enumerate(found.quarters(feature, n)):
            low, high = (Fraction(largest) * (quarter + up) / 4 for up in (0, 1))
            inside = [place for place in contexts if low < place.activation <= high]
            assert set(examples) <= set(inside)
            assert len(examples) == len(set(examples)) <= n
            assert bool(examples) == bool(inside)
            assert examples == sorted(examples, key=strongest_first)


def test_examples_of_a_quarter_are_drawn_from_all_of_it_and_not_from_its_ends() -> None:
    reference = numbered(2000, 1)
    table = torch.arange(1.0, 2001.0)[:, None].double()
    found = feature_activity(EchoModel(), lookup(table), reference).quarters(0, 2)

    assert [len(each) for each in found] == [2] * 4
    assert {place.activation % 500 for each in found for place in each}.isdisjoint({0, 1})


def test_the_histogram_has_bins_of_equal_width_up_to_the_largest_activation() -> None:
    table = torch.tensor([[0.25], [0.5], [0.75], [0.76], [6.0], [-1.0]]).double()
    found = feature_activity(EchoModel(), lookup(table), numbered(3, 2))

    assert found.bin_width(0) == 0.5
    assert found.histogram(0) == (2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)


def test_a_sample_in_which_a_feature_fires_more_than_once_is_one_context() -> None:
    reference = ReferenceSample(torch.tensor([[3, 3, 0], [3, 1, 3]]), "made here")
    table = torch.tensor([[0.0], [0.5], [0.0], [2.0]], dtype=torch.float64)
    found = feature_activity(EchoModel(), lookup(table), reference, top=3)
    assert found.strongest(0) == [Place(0, 0, 2.0), Place(1, 0, 2.0)]
    assert found.density.item() == pytest.approx(5 / 6)


def test_a_silent_feature_has_no_places_and_no_density() -> None:
    reference = numbered(2, 3)
    table = torch.stack([torch.zeros(6), -torch.ones(6), torch.ones(6)], 1).double()
    found = feature_activity(EchoModel(), lookup(table), reference, top=2)
    assert found.density.tolist() == [0, 0, 1]
    assert found.max_activation.tolist() == [0, 0, 1]
    assert found.top_samples[:2].tolist() == [[-1, -1]] * 2
    assert found.top_positions[:2].tolist() == [[-1, -1]] * 2
    assert found.histogram(0) == found.histogram(1) == ()
    assert found.quarters(0, 3) == ([], [], [], [])


def test_the_encoder_gets_no_more_than_the_block_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "BLOCK_BYTES", 4 * 3 * 10)
    sizes: list[int] = []

    def encode(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x.expand(-1, 3)

    feature_activity(EchoModel(), dictionary_of(encode, 3), numbered(10, 10), top=4, batch=10)
    assert sum(sizes) == 100
    assert max(sizes) == 10


def test_a_full_memory_halves_the_batch_and_loses_nothing() -> None:
    reference = numbered(11, 4)
    table = torch.randn(44, 3, generator=torch.Generator().manual_seed(1)).double()
    model = EchoModel(most=2)
    found = feature_activity(model, lookup(table), reference, top=5, batch=8)
    assert max(model.batches) == 2
    assert sum(model.batches) == 11
    assert_same(found, sorted_out(table.float(), reference, 5))


def test_a_memory_too_small_for_one_sample_is_no_endless_loop() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        feature_activity(EchoModel(most=0), lookup(torch.ones(4, 1).double()), numbered(2, 2))


def test_progress_counts_samples_up_to_all_of_them() -> None:
    seen: list[tuple[int, int]] = []
    table = torch.ones(10, 1).double()
    feature_activity(
        EchoModel(), lookup(table), numbered(5, 2), batch=2, progress=lambda *p: seen.append(p)
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_the_dictionary(bad: float) -> None:
    table = torch.ones(4, 2).double()
    table[3, 1] = bad
    with pytest.raises(DictionaryError, match=r"made here .*not finite") as caught:
        feature_activity(EchoModel(), lookup(table), numbered(2, 2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", [{"top": 0}, {"batch": 0}])
def test_less_than_one_token_or_sample_is_refused(setting: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        feature_activity(EchoModel(), lookup(torch.ones(4, 1).double()), numbered(2, 2), **setting)


def test_real_models_are_read_behind_the_dictionarys_norm(
    tiny: ResidualModel, reference: ReferenceSample
) -> None:
    generator = torch.Generator().manual_seed(2)
    encoder = torch.randn(tiny.d_model, 9, generator=generator, dtype=torch.float32)

    def encode(x: Tensor) -> Tensor:
        return torch.relu(x @ encoder)

    dictionary = dictionary_of(encode, 9, tiny.d_model, torch.float32, read_norm="layer_norm")
    found = feature_activity(tiny, dictionary, reference, top=4, batch=2)

    stream = sae_layer_norm(tiny.sites(reference.tokens)[1])[:, reference.included]
    expected = encode(stream.float())
    assert 0.1 < found.density.mean() < 0.9
    torch.testing.assert_close(found.density, (expected > 0).float().mean((0, 1)))
    peaks = expected.amax(1)
    torch.testing.assert_close(found.top_activations, peaks.topk(4, dim=0).values.T)
    for feature in range(9):
        at = expected[
            found.top_samples[feature].long(),
            found.top_positions[feature].long() - reference.skip_first,
            feature,
        ]
        torch.testing.assert_close(at, found.top_activations[feature])
