"""Firing rates and strongest tokens, against sorting everything."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import lens_core.activity as activity_module
from lens_core.activity import FeatureActivity, feature_activity
from lens_core.dictionaries.feature_dictionary import FeatureDictionary, sae_layer_norm
from lens_core.errors import DictionaryError, UsageError
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample


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


def sorted_out(table: Tensor, reference: ReferenceSample, top: int) -> FeatureActivity:
    """The definition, one feature at a time."""
    n = table.shape[1]
    activations = torch.zeros(n, top)
    samples = torch.full((n, top), -1)
    positions = torch.full((n, top), -1)
    density = torch.zeros(n)
    included = range(*reference.included.indices(reference.length))
    for feature in range(n):
        fired = sorted(
            (-float(table[reference.tokens[sample, position], feature]), sample, position)
            for sample in range(reference.samples)
            for position in included
            if table[reference.tokens[sample, position], feature] > 0
        )
        density[feature] = len(fired) / (reference.samples * len(included))
        for rank, (negated, sample, position) in enumerate(fired[:top]):
            activations[feature, rank] = -negated
            samples[feature, rank] = sample
            positions[feature, rank] = position
    return FeatureActivity(density, activations, samples, positions)


def assert_same(found: FeatureActivity, expected: FeatureActivity) -> None:
    torch.testing.assert_close(found.density, expected.density)
    assert torch.equal(found.top_activations, expected.top_activations)
    assert torch.equal(found.top_samples, expected.top_samples)
    assert torch.equal(found.top_positions, expected.top_positions)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, ReferenceSample]:
    samples, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    skip_first = draw(st.integers(0, length - 1))
    skip_last = draw(st.integers(0, length - 1 - skip_first))
    n_features = draw(st.integers(1, 4))
    # Few distinct values, so that equal activations are the rule.
    size = samples * length * n_features
    values = draw(st.lists(st.integers(-2, 3), min_size=size, max_size=size))
    table = torch.tensor(values, dtype=torch.float64).view(-1, n_features) / 2
    return table, numbered(samples, length, skip_first=skip_first, skip_last=skip_last)


@given(
    case=cases(),
    top=st.integers(1, 7),
    batch=st.none() | st.integers(1, 6),
    block_bytes=st.sampled_from([1, 64, 1 << 20]),
)
def test_it_is_what_sorting_all_tokens_gives(
    case: tuple[Tensor, ReferenceSample], top: int, batch: int | None, block_bytes: int
) -> None:
    table, reference = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(activity_module, "BLOCK_BYTES", block_bytes)
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


def test_a_token_repeated_in_one_sample_counts_every_time() -> None:
    reference = ReferenceSample(torch.tensor([[3, 3, 0], [3, 1, 3]]), "made here")
    table = torch.tensor([[0.0], [0.5], [0.0], [2.0]], dtype=torch.float64)
    found = feature_activity(EchoModel(), lookup(table), reference, top=3)
    assert found.top_samples.tolist() == [[0, 0, 1]]
    assert found.top_positions.tolist() == [[0, 1, 0]]
    assert found.density.item() == pytest.approx(5 / 6)


def test_a_silent_feature_has_no_places_and_no_density() -> None:
    reference = numbered(2, 3)
    table = torch.stack([torch.zeros(6), -torch.ones(6), torch.ones(6)], 1).double()
    found = feature_activity(EchoModel(), lookup(table), reference, top=2)
    assert found.density.tolist() == [0, 0, 1]
    assert found.max_activation.tolist() == [0, 0, 1]
    assert found.top_samples[:2].tolist() == [[-1, -1]] * 2
    assert found.top_positions[:2].tolist() == [[-1, -1]] * 2


def test_the_encoder_gets_no_more_than_the_block_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity_module, "BLOCK_BYTES", 4 * 3 * 10)
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
    torch.testing.assert_close(
        found.top_activations, expected.flatten(0, 1).topk(4, dim=0).values.T
    )
    for feature in range(9):
        at = expected[
            found.top_samples[feature], found.top_positions[feature] - reference.skip_first, feature
        ]
        torch.testing.assert_close(at, found.top_activations[feature])
