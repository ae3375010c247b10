"""Reads text with a model and keeps what `activity` defines, for every feature of some layers.

One pass of the model, up to the last layer asked for, serves all of them. Of the
`[tokens, n_features]` activations at most `BLOCK_BYTES` exist at a time; only those above zero
are examined further. Each costs an addition to a histogram and a comparison with its sample's
strongest; each context, three comparisons with the places of its bin, and a sort if it is
stronger than the weakest one kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from lens_core.activity import BINS, KEPT, FeatureActivity
from lens_core.dictionaries.feature_dictionary import FeatureDictionary, read_function
from lens_core.errors import DictionaryError, UsageError
from lens_core.kept_contexts import (
    Contexts,
    Earliest,
    Lowest,
    Strongest,
    bits_of,
    orders_of,
)
from lens_core.memory import is_out_of_memory, release, samples_at_once
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample

BLOCK_BYTES = 1 << 26
_MANTISSA_BITS = 23
# An activation with the largest one's exponent fills bins 8 to 15: its 24 bits without the last 20.
_SHIFT = 20
# Memory of a forward pass besides the sites (heads, MLP, temporaries), in streams per sample.
_WORKING_STREAMS = 24


@torch.no_grad()
def feature_activity(
    model: ResidualModel,
    dictionary: FeatureDictionary,
    reference: ReferenceSample,
    *,
    top: int = 20,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureActivity:
    """Run the reference through `model` and `dictionary`; activations are compared as float32.

    Args:
        top: how many of the strongest contexts to keep, at least 1.
        batch: samples per forward pass; `None` chooses by the device's free memory.
        progress: called with the samples done and their total after every pass.
    """
    if top < 1 or (batch is not None and batch < 1):
        raise UsageError(f"top {top} and batch {batch} must be at least 1")
    tally = Tally(model, dictionary, top)
    for read in passes(model, [dictionary.read_site], reference, batch):
        counts = None
        if reference.ends is not None:
            counts = reference.counts[read.first : read.first + read.samples, reference.included]
        stream = read.streams[dictionary.read_site][:, reference.included]
        tally.add(stream, read.first, counts)
        if progress is not None:
            progress(read.first + read.samples, reference.samples)
    return tally.activity(reference.skip_first)


@dataclass(frozen=True, eq=False)
class Pass:
    """The stream at some sites on consecutive samples, of which `first` is the first."""

    first: int
    samples: int
    streams: dict[int, Float[Tensor, "samples pos d_model"]]


def passes(
    model: ResidualModel,
    sites: Sequence[int],
    reference: ReferenceSample,
    batch: int | None,
    *,
    first: int = 0,
) -> Iterator[Pass]:
    """Forward passes over the samples from `first` on, `batch` or, out of memory, fewer at once."""
    batch = samples_per_pass(model, reference) if batch is None else batch
    while first < reference.samples:
        tokens = reference.tokens[first : first + batch].to(model.device)
        try:
            streams = model.sites(tokens, last=max(sites))
        except Exception as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
            batch //= 2
            release(model.device)
            continue
        yield Pass(first, len(tokens), {site: streams[site] for site in sites})
        first += len(tokens)


def samples_per_pass(model: ResidualModel, reference: ReferenceSample) -> int:
    """How many samples fit into one pass."""
    streams = model.n_blocks + 1 + _WORKING_STREAMS
    item = torch.finfo(model.dtype).bits // 8
    sample_bytes = streams * reference.length * model.d_model * item
    return samples_at_once(model.device, reference.length, sample_bytes)


class Tally:
    """The running activity of one dictionary's features; samples must be added in order."""

    def __init__(
        self,
        model: ResidualModel,
        dictionary: FeatureDictionary,
        top: int,
        before: FeatureActivity | None = None,
        skipped: int = 0,
    ) -> None:
        """Start from nothing, or from `before`, whose positions count `skipped` ones."""
        self._dictionary = dictionary
        self._read = read_function(dictionary, model)
        self._device = device = model.device
        self._n = n = dictionary.n_features
        self._n_tokens = 0
        self._fields = torch.zeros(n, dtype=torch.int64, device=device)
        self._counts = torch.zeros(n, BINS, dtype=torch.int64, device=device)
        self._top = Strongest(n, top, device)
        self._first = Earliest(n, top, device)
        self._bins = [Lowest(n * BINS, device) for _ in range(KEPT)]
        if before is not None:
            self._resume(before, skipped)

    def add(
        self,
        stream: Float[Tensor, "samples pos d_model"],
        first: int,
        counts: Bool[Tensor, "samples pos"] | None = None,
    ) -> None:
        """Add samples, given the stream at the read site on their positions that may count.

        `counts`: those that do; `None`: all.
        """
        at_once = max(1, BLOCK_BYTES // (8 * self._n))
        for start in range(0, len(stream), at_once):
            some = None if counts is None else counts[start : start + at_once]
            self._add(stream[start : start + at_once], first + start, some)

    def activity(self, skipped: int) -> FeatureActivity:
        """What is known so far; positions count from the beginning of samples `skipped` longer."""
        kept = [each.contexts() for each in self._bins]
        shape = self._n, BINS, KEPT
        activations, samples, positions = (
            torch.stack(each, -1).view(shape) for each in zip(*kept, strict=True)
        )
        top, first = self._top, self._first
        return FeatureActivity(
            n_tokens=self._n_tokens,
            fields=self._fields.int(),
            counts=self._counts.clone(),
            top_activations=top.activation.clone(),
            top_samples=top.sample.int(),
            top_positions=_shifted(top.position, top.sample, skipped),
            first_samples=first.sample.int(),
            first_positions=_shifted(first.position, first.sample, skipped),
            bin_activations=activations,
            bin_samples=samples.int(),
            bin_positions=_shifted(positions, samples, skipped),
        )

    def _resume(self, before: FeatureActivity, skipped: int) -> None:
        self._n_tokens = before.n_tokens
        self._fields = before.fields.to(self._device).long()
        self._counts = before.counts.to(self._device).clone()
        samples, positions = before.top_samples.long(), before.top_positions.long()
        self._top.activation = before.top_activations.to(self._device).clone()
        self._top.sample = samples.to(self._device)
        self._top.position = _shifted(positions, samples, -skipped).to(self._device).long()
        samples, positions = before.first_samples.long(), before.first_positions.long()
        self._first.sample = samples.to(self._device)
        self._first.position = _shifted(positions, samples, -skipped).to(self._device).long()
        self._first.found = (samples >= 0).sum(1).to(self._device)
        feature = torch.arange(self._n).repeat_interleave(BINS)
        for place, bin_ in enumerate(self._bins):
            sample = before.bin_samples[..., place].flatten().cpu().long()
            position = before.bin_positions[..., place].flatten().cpu().long() - skipped
            activation = before.bin_activations[..., place].flatten().cpu()
            there = sample >= 0
            cell = there.nonzero()[:, 0]
            kept = Contexts(feature, activation, sample, position)[there]
            kept = Contexts(*(each.to(self._device) for each in vars(kept).values()))
            bin_.admit(cell.to(self._device), orders_of(kept)[place], kept)

    def _add(
        self,
        stream: Float[Tensor, "samples pos d_model"],
        first: int,
        counts: Bool[Tensor, "samples pos"] | None,
    ) -> None:
        samples, length = stream.shape[:2]
        counted = None if counts is None else counts.flatten().to(self._device)
        peaks = torch.zeros(samples * self._n, dtype=torch.int64, device=self._device)
        at_once = max(1, BLOCK_BYTES // (4 * self._n))
        start = 0
        for block in torch.split(stream.flatten(0, 1), at_once):
            activations = self._encode(block)
            if counted is not None:
                activations = activations * counted[start : start + len(block), None]
            activations = activations.flatten()
            fired = (activations > 0).nonzero()[:, 0]
            token = fired.div(self._n, rounding_mode="floor")
            feature, activation = fired - token * self._n, activations[fired]
            self._count(feature, activation)
            token += start
            sample = token.div(length, rounding_mode="floor")
            # Of equal activations the first position is the largest number.
            strength = (bits_of(activation) << 32) + (length - (token - sample * length))
            peaks.scatter_reduce_(0, sample * self._n + feature, strength, "amax")
            start += len(block)
        self._n_tokens += samples * length if counted is None else int(counted.sum())
        slot = peaks.nonzero()[:, 0]
        peak = peaks[slot]
        sample = slot.div(self._n, rounding_mode="floor")
        contexts = Contexts(
            feature=slot - sample * self._n,
            activation=(peak >> 32).int().view(torch.float32),
            sample=sample + first,
            position=length - (peak & 0xFFFFFFFF),
        )
        cell = contexts.feature * BINS + self._bin(contexts.feature, contexts.activation)
        for bin_, order in zip(self._bins, orders_of(contexts), strict=True):
            bin_.admit(cell, order, contexts)
        self._top.admit(contexts)
        self._first.admit(contexts)

    def _encode(
        self, hook_input: Float[Tensor, "some d_model"]
    ) -> Float32[Tensor, "some n_features"]:
        dictionary = self._dictionary
        activations = dictionary.encode(self._read(hook_input).to(dictionary.keys)).float()
        # A NaN or infinity shows in the sum; checking every value takes thirty times as long.
        if not bool(activations.sum().isfinite()):
            raise DictionaryError(
                f"{dictionary.name} gives activations that are not finite on this text: "
                "is it a dictionary of this model and layer?"
            )
        return activations.to(self._device)

    def _count(self, feature: Int64[Tensor, " some"], activation: Float32[Tensor, " some"]) -> None:
        field = _field(bits_of(activation))
        if bool((field > self._fields[feature]).any()):
            self._widen(self._fields.scatter_reduce(0, feature, field, "amax"))
        cell = feature * BINS + self._bin(feature, activation)
        self._counts += torch.bincount(cell, minlength=self._n * BINS).view(-1, BINS)

    def _widen(self, fields: Int64[Tensor, " n_features"]) -> None:
        """Double the ranges of some features, perhaps many times: bins that become one are joined.

        A range holds `(i, i + 1]` in bin `i`, so bins `2 i` and `2 i + 1` become bin `i`.
        """
        grown = (fields > self._fields).nonzero()[:, 0]
        shift = (fields - self._fields)[grown, None].clamp(max=BINS)
        place = torch.arange(BINS, device=self._device) >> shift
        joined = torch.zeros_like(self._counts[grown]).scatter_add(1, place, self._counts[grown])
        self._counts[grown] = joined
        cells = grown[:, None] * BINS + torch.arange(BINS, device=self._device)
        for bin_ in self._bins:
            bin_.move(cells.flatten(), (grown[:, None] * BINS + place).flatten())
        self._fields = fields

    def _bin(
        self, feature: Int64[Tensor, " some"], activation: Float32[Tensor, " some"]
    ) -> Int64[Tensor, " some"]:
        """`ceil(activation / width) - 1`, in integers."""
        bits = bits_of(activation)
        field = _field(bits)
        normal = (bits >> _MANTISSA_BITS).clamp(max=1) << _MANTISSA_BITS
        mantissa = (bits & ((1 << _MANTISSA_BITS) - 1)) + normal
        shift = (_SHIFT + self._fields[feature] - field).clamp(max=40)
        return (mantissa - 1) >> shift


def _field(bits: Int64[Tensor, " some"]) -> Int64[Tensor, " some"]:
    """The exponent field; 1 for subnormal numbers, which have the same scale."""
    return (bits >> _MANTISSA_BITS).clamp(min=1)


def _shifted(
    position: Int64[Tensor, "*places"], sample: Int64[Tensor, "*places"], by: int
) -> Tensor:
    """Positions moved, except where there is no context."""
    return torch.where(sample < 0, -1, position + by).int()
