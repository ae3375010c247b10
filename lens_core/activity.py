"""Where in the reference each feature fires: how often, how strongly, on which tokens.

Density and strongest tokens come from the same tokens at which the Jacobians are
taken, so that a feature's contexts and its signature describe the same text. A
feature that never fires there is called silent; the sample is too short to call it
dead.

Costs one forward pass of the model and one of the encoder over the reference. Of
the `[tokens, n_features]` activations at most `BLOCK_BYTES` exist at a time; of
each block only activations above a feature's weakest kept one are examined further.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from lens_core.dictionaries.feature_dictionary import FeatureDictionary, read_function
from lens_core.errors import DictionaryError, UsageError
from lens_core.memory import is_out_of_memory, release, samples_at_once
from lens_core.model import ResidualModel
from lens_core.reference import ReferenceSample

BLOCK_BYTES = 1 << 28
_LARGEST_BITS = (1 << 31) - 1
# Memory of a forward pass besides the sites (heads, MLP, temporaries), in streams per sample.
_WORKING_STREAMS = 24


@dataclass(frozen=True, eq=False)
class FeatureActivity:
    """Firing of every feature on the reference tokens that count.

    `density` is the share of those tokens with an activation above zero. The
    strongest tokens are ordered by activation and, where equal, by sample and
    position; every token is a candidate, so that a sample may occur more than
    once. A feature that fired on fewer than `top` tokens has 0 for the remaining
    activations and -1 for their sample and position. Positions count from the
    beginning of the sample, skipped ones included.
    """

    density: Float32[Tensor, " n_features"]
    top_activations: Float32[Tensor, "n_features top"]
    top_samples: Int64[Tensor, "n_features top"]
    top_positions: Int64[Tensor, "n_features top"]

    @property
    def max_activation(self) -> Float32[Tensor, " n_features"]:
        """The largest activation, 0 for a feature that is silent in the reference."""
        return self.top_activations[:, 0]


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
        top: how many of the strongest tokens to keep, at least 1.
        batch: samples per forward pass; `None` chooses by the device's free memory.
        progress: called with the samples done and their total after every pass.
    """
    if top < 1 or (batch is not None and batch < 1):
        raise UsageError(f"top {top} and batch {batch} must be at least 1")
    read = read_function(dictionary, model)
    strongest = _Strongest(dictionary.n_features, top, model.device)
    for done, stream in _streams(model, dictionary.read_site, reference, batch):
        for hook_input in _blocks(stream[:, reference.included].flatten(0, 1), strongest):
            activations = dictionary.encode(read(hook_input).to(dictionary.keys)).float()
            # A NaN or infinity shows in the sum; checking every value takes thirty times as long.
            if not bool(activations.sum().isfinite()):
                raise DictionaryError(
                    f"{dictionary.name} gives activations that are not finite on the reference: "
                    "is it a dictionary of this model and layer?"
                )
            strongest.admit(activations.to(model.device))
        if progress is not None:
            progress(done, reference.samples)

    token = strongest.token
    counted = reference.n_tokens // reference.samples
    silent = token < 0
    return FeatureActivity(
        density=strongest.fired / reference.n_tokens,
        top_activations=strongest.activation,
        top_samples=(token // counted).masked_fill(silent, -1),
        top_positions=(token % counted + reference.skip_first).masked_fill(silent, -1),
    )


class _Strongest:
    """The running top tokens of every feature; tokens must be added in order.

    Empty places have activation 0 and token -1. A later token replaces only a strictly
    smaller activation, so that equal activations stay in token order.
    """

    def __init__(self, n_features: int, top: int, device: torch.device) -> None:
        self.seen = 0
        self.fired = torch.zeros(n_features, dtype=torch.int64, device=device)
        self.activation = torch.zeros(n_features, top, device=device)
        self.token = torch.full((n_features, top), -1, device=device)

    def admit(self, activations: Float32[Tensor, "tokens n_features"]) -> None:
        self.fired += (activations > 0).sum(0, dtype=torch.int32)
        row, feature = (activations > self.activation[:, -1]).nonzero(as_tuple=True)
        beaten = torch.zeros_like(self.fired, dtype=torch.bool).index_fill_(0, feature, True)
        touched = beaten.nonzero()[:, 0]
        slot = torch.arange(len(touched), device=touched.device)
        top = self.activation.shape[1]

        # Kept tokens first, then the new ones in token order; a stable sort preserves this.
        owner = torch.cat([slot.repeat_interleave(top), (beaten.cumsum(0) - 1)[feature]])
        activation = torch.cat([self.activation[touched].flatten(), activations[row, feature]])
        token = torch.cat([self.token[touched].flatten(), row + self.seen])
        # By feature, strongest first: the bits of non-negative floats sort as the floats do.
        bits = activation.view(torch.int32).long()
        owner_first, order = ((owner << 32) + _LARGEST_BITS - bits).sort(stable=True)
        start = torch.searchsorted(owner_first, slot << 32)
        kept = order[start[:, None] + torch.arange(top, device=order.device)]

        self.activation[touched] = activation[kept]
        self.token[touched] = token[kept]
        self.seen += len(activations)


def _blocks(
    stream: Float[Tensor, "tokens d_model"], strongest: _Strongest
) -> Iterator[Float[Tensor, "some d_model"]]:
    """Pieces of `stream` that give few candidates: each at most doubles the tokens seen.

    On the first tokens every activation is a candidate; once a feature has its
    `top`, doubling the tokens adds about `top` more.
    """
    n_features, top = strongest.activation.shape
    largest = max(1, BLOCK_BYTES // (4 * n_features))
    at = 0
    while at < len(stream):
        size = min(largest, max(top, strongest.seen))
        yield stream[at : at + size]
        at += size


def _streams(
    model: ResidualModel, site: int, reference: ReferenceSample, batch: int | None
) -> Iterator[tuple[int, Float[Tensor, "batch pos d_model"]]]:
    """The stream at `site` batch by batch, each with the number of samples done so far."""
    if batch is None:
        streams = model.n_blocks + 1 + _WORKING_STREAMS
        item = torch.finfo(model.dtype).bits // 8
        sample_bytes = streams * reference.length * model.d_model * item
        batch = samples_at_once(model.device, reference.length, sample_bytes)
    done = 0
    while done < reference.samples:
        tokens = reference.tokens[done : done + batch].to(model.device)
        try:
            stream = model.sites(tokens, last=site)[site]
        except Exception as error:
            if batch == 1 or not is_out_of_memory(error):
                raise
            batch //= 2
            release(model.device)
            continue
        done += len(tokens)
        yield done, stream
