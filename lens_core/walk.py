"""One vector carried over a recording: in stages, and again with other blocks off.

    value, carried     t += m_k J_k t     for k = write_site .. 2L-1         (jvp)
    key, carried       t += m_k J_k^T t   for k = read_site-1 .. 0           (vjp)
    value, read back   w += J_k^T w       for k = 2L-1 .. write_site         (vjp)
    key, read back     w += J_k w         for k = 0 .. read_site-1           (jvp)

The same sums as `direct` (its docstring has the equations), which is the oracle. Here they are
kept for each micro-batch, so that

- a **stage**, the mean over the first micro-batches, is a part of the work of the next one, and
  the last one adds the same numbers in the same order as a walk over everything at once;
- a **switch** at a block walks only what comes after it: the running vector before every block is
  kept. At first order a block's response depends on no other block, and is kept itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.direct import NO_BLOCKS, Transported, feature_tokens
from lens_core.errors import ModelError
from lens_core.linearization import LinearMap
from lens_core.model import Stream
from lens_core.operators.passes import Positions
from lens_core.recording import MicroBatch, Recording
from lens_core.terms import Bucket, Progress, Transition


@dataclass(frozen=True)
class Route:
    """Where a vector starts, where it ends, and what it passes at either end.

    From site `start` to site `end`: forward in the stream by `jvp`, or back by `vjp`. The feature
    sits at `positions`: at the start of the route, or at its end if `to_feature`. `norm` is one
    whose Jacobian stands in front (a value's reads the MLP's own output, `after_mlp`), `final`
    one behind, at the end.
    """

    start: int
    end: int
    positions: Bucket = "all"
    to_feature: bool = False
    norm: Callable[[Tensor], Tensor] | None = None
    after_mlp: bool = False
    final: Callable[[Tensor], Tensor] | None = None

    @property
    def is_forward(self) -> bool:
        return self.end > self.start

    @property
    def blocks(self) -> range:
        """In the order that they are walked."""
        if self.is_forward:
            return range(self.start, self.end)
        return range(self.start - 1, self.end - 1, -1)


@dataclass
class _Walked:
    """A micro-batch that was walked: with these blocks off, what was summed, what ran on."""

    off: frozenset[int]
    sums: Float[Tensor, "places d_model"]
    square: float
    running: list[Stream] = field(default_factory=list)
    """The vector before each block, in the order of the walk, and at the end."""
    responses: dict[int, Stream] = field(default_factory=dict)
    """At first order: what each block gives for the vector itself."""


class Walk:
    """`vector` along `route`, over the recording's micro-batches."""

    def __init__(
        self,
        recording: Recording,
        vector: Float[Tensor, " d_model"],
        route: Route,
        transition: Transition = "full",
    ) -> None:
        self._recording = recording
        self._vector = vector
        self._route = route
        self._transition = transition
        self._version = recording.version
        self._walked: dict[int, _Walked] = {}

    def carried(
        self,
        off: frozenset[int] = NO_BLOCKS,
        tokens: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Transported, int]:
        """The mean over the first micro-batches that hold `tokens`, and how many these hold."""
        return self._recording.attempt(lambda: self._carried(off, tokens, progress))

    def at_sites(
        self, tokens: int | None = None, progress: Progress | None = None
    ) -> tuple[Float[Tensor, "sites d_model"], int]:
        """The mean running vector at every site of the model; zero where the walk does not go."""
        found, n_tokens = self.carried(NO_BLOCKS, tokens, progress)
        route, steps = self._route, found.steps
        assert steps is not None
        sites = steps.new_zeros(len(steps) + 1, steps.shape[1], dtype=torch.float64)
        running = found.direct.double()
        sites[route.start] = running
        for k in route.blocks:
            running = running + steps[k].double()
            sites[k + 1 if route.is_forward else k] = running
        return sites.to(steps.dtype), n_tokens

    def forget_tangents(self) -> None:
        """Keep what was summed, and let go of what makes a switch quick."""
        for walked in self._walked.values():
            walked.running.clear()
            walked.responses.clear()

    def _carried(
        self, off: frozenset[int], tokens: int | None, progress: Progress | None
    ) -> tuple[Transported, int]:
        recording, route = self._recording, self._route
        numbers = recording.micro_batches(tokens)
        if self._version != recording.version:
            self._walked.clear()
            self._version = recording.version
        samples = recording.samples(numbers[-1]).stop
        reference = recording.reference
        # As if the reference ended after these samples.
        n_features = feature_tokens(reference, route.positions) * samples // reference.samples
        n_tokens = reference.n_tokens * samples // reference.samples
        n_blocks = recording.model.n_blocks
        sums = torch.zeros(n_blocks + 1, recording.model.d_model, dtype=torch.float64)
        square, done, total = 0.0, 0, samples * max(1, len(route.blocks))
        for number in numbers:
            size = len(recording.samples(number))
            before = done

            def tick(blocks: int, before: int = before, size: int = size) -> None:
                if progress is not None:
                    progress(before + blocks * size, total)

            walked = self._walked.get(number)
            if walked is None or walked.off != off:
                walked = self._walk(number, off, tick)
                if self._version == recording.version:  # else cut anew meanwhile
                    self._walked[number] = walked
            sums += walked.sums
            square += walked.square
            done += size * max(1, len(route.blocks))
        if progress is not None:
            progress(total, total)
        return self._mean(sums / n_features, square, n_features, n_tokens), n_tokens

    def _mean(
        self, steps: Float[Tensor, "places d_model"], square: float, n_features: int, n_tokens: int
    ) -> Transported:
        model = self._recording.model
        vector = steps.sum(0)
        # Over targets: a token that the feature cannot reach transports nothing.
        mean_square = square * n_tokens / n_features**2
        variance = 1 - float(vector.square().sum()) / mean_square if mean_square else 0.0
        if not bool(torch.isfinite(steps).all()):
            raise ModelError(
                "the transported vector is not finite: the feature, or the model's derivatives in "
                'this dtype, overflow; try compute.dtype = "float64"'
            )
        kept = steps.to(device=model.device, dtype=model.dtype)
        whole = vector.to(device=model.device, dtype=model.dtype)
        is_normed = self._route.final is not None
        return Transported(whole, kept[-1], kept[:-1], max(0.0, variance), is_normed)

    def _walk(self, number: int, off: frozenset[int], tick: Callable[[int], None]) -> _Walked:
        """Walk one micro-batch, from the first block whose switch differs from the last time."""
        route, batch = self._route, self._recording.micro_batch(number)
        blocks = list(route.blocks)
        before = self._walked.get(number)
        begin = 0
        if before is not None and before.running:
            same = [(k in off) == (k in before.off) for k in blocks]
            begin = same.index(False) if False in same else len(blocks)
            running, sums = before.running[: begin + 1], before.sums.clone()
            responses = dict(before.responses)
        else:
            running = [self._start(batch)]
            sums = torch.zeros(
                self._recording.model.n_blocks + 1, self._vector.shape[0], dtype=torch.float64
            )
            responses = {}
            if not route.is_forward:
                self._record(batch, off, tick)
        final = None
        if route.final is not None:
            final = LinearMap(
                route.final, batch.site(self._recording.model.n_blocks), forward_mode=True
            )

        def summed(step: Stream) -> Float[Tensor, " d_model"]:
            shown = step if final is None else final.jvp(step)
            return self._counted(shown).sum((0, 1))

        fresh: dict[int, Tensor] = {}  # on the device: fetched at once
        if begin == 0:
            fresh[-1] = summed(running[0])
        now = running[-1]
        for at in range(begin, len(blocks)):
            tick(at)
            k = blocks[at]
            sums[k] = 0
            if k not in off and self._transition != "identity":
                step = responses.get(k)
                if step is None:
                    first_order = self._transition == "first-order"
                    step = self._step(batch, k, running[0] if first_order else now)
                    if first_order:
                        responses[k] = step
                fresh[k] = summed(step)
                now = now + step
            running.append(now)
        if fresh:
            sums[list(fresh)] = torch.stack(list(fresh.values())).cpu().double()
        end = now if final is None else final.jvp(now)
        counted = self._counted(end)
        # Of the devices only MPS has no float64.
        counted = counted.cpu() if counted.device.type == "mps" else counted
        square = float(counted.double().square().sum())
        return _Walked(off, sums, square, running, responses)

    def _record(self, batch: MicroBatch, off: frozenset[int], tick: Callable[[int], None]) -> None:
        """Record upwards what is walked down, so that no block runs twice."""
        for k in reversed(self._route.blocks):
            tick(0)
            if k not in off and self._transition != "identity":
                batch.block(k)

    def _step(self, batch: MicroBatch, k: int, vector: Stream) -> Stream:
        block = batch.block(k)
        return block.jvp(vector) if self._route.is_forward else block.vjp(vector)

    def _start(self, batch: MicroBatch) -> Stream:
        route, model = self._route, self._recording.model
        where: Bucket = "all" if route.to_feature else route.positions
        spread = self._positions.spread(self._vector[None], batch.shape, where)
        if route.norm is None:
            return spread
        if route.after_mlp:  # the post-norm reads the MLP's own output
            with torch.no_grad():
                site = route.start - 1
                read = model.mlp_output(site // 2, batch.site(site))
            return LinearMap(route.norm, read, forward_mode=True).jvp(spread)
        return LinearMap(route.norm, batch.site(route.start), forward_mode=False).vjp(spread)

    @property
    def _positions(self) -> Positions:
        included = self._recording.reference.included
        return Positions(included.start, included.stop)

    def _counted(self, stream: Stream) -> Float[Tensor, "batch counted d_model"]:
        route = self._route
        return self._positions.part(stream, route.positions if route.to_feature else "all")
