"""The direct method: one feature's vector carried through the blocks of the reference.

    value:  t = v at every position;  t += m_k J_k t  for k = write_site .. 2L-1
    key:    t = k at every position;  t += m_k J_k^T t  for k = read_site-1 .. 0

(paper, equations of section 3.2; `m_k` is the mask of a block, 1 unless it is
switched off.) `first-order` applies every `J_k` to the *starting* vector instead.
The result is the mean over the reference's tokens. Each vector costs one pass over
the reference: forward mode for values (`torch.func.jvp`, which also computes the
primal) and reverse mode for keys. Nothing is kept. `operators`, which gives the unmasked
result for all features at once, and `walk`, which gives every result from a recording
of the reference that is made once, are tested against this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.errors import ModelError, UsageError
from lens_core.linearization import LinearMap
from lens_core.memory import is_out_of_memory, release, samples_at_once
from lens_core.model import ResidualStream, Stream
from lens_core.operators.passes import EARLY, Positions
from lens_core.reference import ReferenceSample
from lens_core.terms import Bucket, Progress, Side, Transition

Result = TypeVar("Result")

NO_BLOCKS: frozenset[int] = frozenset()
# Memory that one block takes while it is differentiated, in copies of the stream. The largest
# part is the hidden layer of a gated MLP: about four widths, several times.
_COPIES_OF_STREAM = 48


@dataclass(frozen=True)
class Transported:
    """A feature's vector carried to the end, averaged over the reference.

    `vector` is `direct` plus the sum of `steps`: `direct` is `v` (or `k`) itself, `steps`
    what each block added (the last-writer split for `full`, the block's own response for
    `first-order`; zero for a block that is off or not on the path).
    `relative_variance` is `E|g - mu|^2 / E|g|^2` over the reference's tokens (paper,
    section 5), 0 if every token transports the vector in the same way. `normed` says that
    the final norm's Jacobian is already applied. `steps` and `relative_variance` are
    `None` where operators answered. The mean is over the first `n_tokens` tokens of the
    reference (`None`: all). `reason` says why `vector` is zero where `direct` is not, if known.
    """

    vector: Float[Tensor, " d_model"]
    direct: Float[Tensor, " d_model"]
    steps: Float[Tensor, "blocks d_model"] | None
    relative_variance: float | None
    normed: bool = False
    n_tokens: int | None = None
    reason: str = ""


def value_transition(
    model: ResidualStream,
    reference: ReferenceSample,
    value: Float[Tensor, " d_model"],
    write_site: int,
    *,
    transition: Transition = "full",
    off: frozenset[int] = NO_BLOCKS,
    positions: Bucket = "all",
    write_norm: Callable[[Tensor], Tensor] | None = None,
    linearize_final_norm: bool = False,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Transported:
    """Carry `value`, written at `write_site`, to the final stream.

    `positions` is where in a sample the feature sits. `write_norm` is the post-norm between
    the dictionary's output and the stream, whose Jacobian the "exact" convention applies first
    (at the MLP's own output). `linearize_final_norm` carries every token's vector through the
    final norm's Jacobian before the mean. `batch` is the number of samples per pass; `None`
    chooses by free memory.
    """
    blocks = range(write_site, model.n_blocks)

    def walk(tokens: Tensor, counted: Positions, tick: Tick) -> list[tuple[int, Tensor]]:
        h = model.embed(tokens)
        raw = None
        for k in range(write_site):
            tick()
            if write_norm is not None and k == write_site - 1:
                raw = model.mlp_output(k // 2, h)
            h = h + model.block(k, h)
        running = counted.at_sources(value[None], h.shape, positions)
        if write_norm is not None:
            assert raw is not None, "a post-norm lies behind an MLP"
            running = _jvp(write_norm, raw, running)
        first, steps = running, [(-1, running)]
        for k in blocks:
            tick()
            tangent = first if transition == "first-order" else running
            if transition == "identity" or k in off:
                h = h + model.block(k, h)
                continue
            added, step = _primal_and_jvp(lambda x, k=k: model.block(k, x), h, tangent)  # type: ignore[misc]
            h, running = h + added, running + step
            steps.append((k, step))
        if linearize_final_norm:
            steps = [(k, _jvp(model.final_norm, h, step)) for k, step in steps]
        return steps

    return _averaged(
        model,
        reference,
        walk,
        model.n_blocks,
        batch,
        progress,
        positions=positions,
        side="value",
        normed=linearize_final_norm,
    )


def key_transition(
    model: ResidualStream,
    reference: ReferenceSample,
    key: Float[Tensor, " d_model"],
    read_site: int,
    *,
    transition: Transition = "full",
    off: frozenset[int] = NO_BLOCKS,
    positions: Bucket = "all",
    read_norm: Callable[[Tensor], Tensor] | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Transported:
    """Carry `key`, read at `read_site`, back to the embedded input.

    `read_norm` is the norm between the stream and the dictionary's encoder, whose
    Jacobian the "exact" convention applies first.
    """

    def walk(tokens: Tensor, counted: Positions, tick: Tick) -> list[tuple[int, Tensor]]:
        sites = _sites(model, tokens, read_site, tick)
        running = counted.at_targets(key[None], sites[-1].shape, positions)
        if read_norm is not None:
            running = LinearMap(read_norm, sites[-1], forward_mode=False).vjp(running)
        first, steps = running, [(-1, running)]
        for k in reversed(range(read_site)):
            tick()
            if transition == "identity" or k in off:
                continue
            cotangent = first if transition == "first-order" else running
            step = _block_at(model, k, sites[k]).vjp(cotangent)
            running = running + step
            steps.append((k, step))
        return steps

    return _averaged(
        model,
        reference,
        walk,
        2 * read_site,
        batch,
        progress,
        positions=positions,
        side="key",
    )


def pull_back(
    model: ResidualStream,
    reference: ReferenceSample,
    cotangent: Float[Tensor, " d_model"],
    *,
    positions: Bucket = "all",
    batch: int | None = None,
    progress: Progress | None = None,
) -> Float[Tensor, "sites d_model"]:
    """`T_value[site]^T cotangent` for every site, by one reverse pass, without operators."""

    def walk(tokens: Tensor, counted: Positions, tick: Tick) -> list[tuple[int, Tensor]]:
        sites = _sites(model, tokens, model.n_blocks, tick)
        running = counted.at_targets(cotangent[None], sites[-1].shape)
        places = [(model.n_blocks, running)]
        for k in reversed(range(model.n_blocks)):
            tick()
            running = running + _block_at(model, k, sites[k]).vjp(running)
            places.append((k, running))
        return places

    return _site_means(
        model, reference, walk, 2 * model.n_blocks, batch, progress, positions, "value"
    )


def push_forward(
    model: ResidualStream,
    reference: ReferenceSample,
    tangent: Float[Tensor, " d_model"],
    *,
    positions: Bucket = "all",
    batch: int | None = None,
    progress: Progress | None = None,
) -> Float[Tensor, "sites d_model"]:
    """`T_key[site] tangent` for every site, by one forward-mode pass, without operators."""

    def walk(tokens: Tensor, counted: Positions, tick: Tick) -> list[tuple[int, Tensor]]:
        h = model.embed(tokens)
        running = counted.at_sources(tangent[None], h.shape)
        places = [(0, running)]
        for k in range(model.n_blocks):
            tick()
            added, step = _primal_and_jvp(lambda x, k=k: model.block(k, x), h, running)  # type: ignore[misc]
            h, running = h + added, running + step
            places.append((k + 1, running))
        return places

    return _site_means(model, reference, walk, model.n_blocks, batch, progress, positions, "key")


Tick = Callable[[], None]
"""Called before each block: reports progress within a micro-batch, and may raise to cancel."""
Walk = Callable[[Tensor, Positions, Tick], list[tuple[int, Tensor]]]
"""The vectors at every token of a micro-batch, each with its block or site (-1: the start)."""


def _averaged(
    model: ResidualStream,
    reference: ReferenceSample,
    walk: Walk,
    steps_of_walk: int,
    batch: int | None,
    progress: Progress | None,
    *,
    positions: Bucket,
    side: Side,
    normed: bool = False,
) -> Transported:
    n_features = feature_tokens(reference, positions)
    n_reached = tokens_reached(reference, side)

    def attempt(size: int) -> Transported:
        steps = torch.zeros(model.n_blocks + 1, model.d_model, dtype=torch.float64)
        square = 0.0
        for counted, places in _micro_batches(
            model, reference, walk, steps_of_walk, size, progress
        ):
            part = counted.targets if side == "value" else counted.sources
            total = torch.stack([place for _, place in places]).sum(0)
            square += float(part(total).cpu().double().square().sum())
            for k, place in places:
                steps[k] += part(place).sum((0, 1)).cpu().double()
        steps /= n_features
        vector = steps.sum(0)
        # Over the tokens where the walk ends; one that the feature cannot reach receives zero.
        mean_square = square * n_reached / n_features**2
        variance = 1 - float(vector.square().sum()) / mean_square if mean_square else 0.0
        if not bool(torch.isfinite(steps).all()):
            raise ModelError(
                "the transported vector is not finite: the feature, or the model's derivatives in "
                'this dtype, overflow; try compute.dtype = "float64"'
            )
        vector, direct = (
            part.to(device=model.device, dtype=model.dtype) for part in (vector, steps[-1])
        )
        walked = steps[:-1].to(device=model.device, dtype=model.dtype)
        return Transported(vector, direct, walked, max(0.0, variance), normed)

    return _shrinking(model, reference, batch, attempt)


def _site_means(
    model: ResidualStream,
    reference: ReferenceSample,
    walk: Walk,
    steps_of_walk: int,
    batch: int | None,
    progress: Progress | None,
    positions: Bucket,
    side: Side,
) -> Float[Tensor, "sites d_model"]:
    """Means at every site over the positions where the feature may sit."""
    n_features = feature_tokens(reference, positions)

    def attempt(size: int) -> Tensor:
        means = torch.zeros(model.n_blocks + 1, model.d_model, dtype=torch.float64)
        for counted, places in _micro_batches(
            model, reference, walk, steps_of_walk, size, progress
        ):
            part = counted.sources if side == "value" else counted.targets
            for site, place in places:
                means[site] += part(place, positions).sum((0, 1)).cpu().double()
        return (means / n_features).to(device=model.device, dtype=model.dtype)

    return _shrinking(model, reference, batch, attempt)


def feature_tokens(reference: ReferenceSample, positions: Bucket) -> int:
    """By what sums are divided: the reference tokens at which a feature may sit.

    Of short texts, the targets, whose number is that of the texts.

    Raises:
        UsageError: there are no such tokens.
    """
    included = reference.included
    if reference.ends is not None:
        if positions != "all":
            raise UsageError(
                f"a reference of short texts has no {positions} positions: ask for all"
            )
        return reference.samples
    part = Positions.of(reference).where(positions)
    if part.start >= part.stop:
        raise UsageError(
            f"the reference has no {positions} positions: its samples use positions "
            f"{included.start} to {included.stop - 1}, and late positions start at {EARLY}"
        )
    count: int = part.stop - part.start
    return reference.samples * count


def tokens_reached(reference: ReferenceSample, side: Side) -> int:
    """The tokens where the walk of a value or a key ends."""
    return reference.n_tokens if side == "value" else reference.n_sources


def _micro_batches(
    model: ResidualStream,
    reference: ReferenceSample,
    walk: Walk,
    steps: int,
    size: int,
    progress: Progress | None,
) -> Iterator[tuple[Positions, list[tuple[int, Tensor]]]]:
    """The results of `walk`, which takes `steps` ticks, for one micro-batch after another."""
    total = reference.samples * max(1, steps)
    for batch in range(0, reference.samples, size):
        tokens = reference.tokens[batch : batch + size].to(model.device)
        counted = Positions.of(reference, slice(batch, batch + size))
        done = batch * max(1, steps)

        def tick(samples: int = len(tokens)) -> None:
            nonlocal done
            if progress is not None:
                progress(done, total)
            done += samples

        with torch.no_grad():
            places = walk(tokens, counted, tick)
        yield counted, places
    if progress is not None:
        progress(total, total)


def _shrinking(
    model: ResidualStream,
    reference: ReferenceSample,
    batch: int | None,
    attempt: Callable[[int], Result],
) -> Result:
    """`attempt(size)`, with `size` (samples per pass) halved whenever memory runs out."""
    per_sample = (
        _COPIES_OF_STREAM + model.n_blocks
    ) * reference.length * model.d_model * model.dtype.itemsize  # fmt: skip
    size = batch or samples_at_once(model.device, reference.length, per_sample)
    while True:
        try:
            return attempt(size)
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        release(model.device)
        size //= 2


def _sites(model: ResidualStream, tokens: Tensor, last: int, tick: Tick) -> list[Stream]:
    sites = [model.embed(tokens)]
    for k in range(last):
        tick()
        sites.append(sites[-1] + model.block(k, sites[-1]))
    return sites


def _block_at(model: ResidualStream, k: int, h: Stream) -> LinearMap:
    return LinearMap(lambda x: model.block(k, x), h, forward_mode=False)


def _primal_and_jvp(
    function: Callable[[Tensor], Tensor], h: Stream, tangent: Stream
) -> tuple[Stream, Stream]:
    return cast(tuple[Tensor, Tensor], torch.func.jvp(function, (h,), (tangent,)))


def _jvp(function: Callable[[Tensor], Tensor], h: Stream, tangent: Stream) -> Stream:
    return _primal_and_jvp(function, h, tangent)[1]
