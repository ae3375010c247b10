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
  kept. At first order it walks nothing: no block's response depends on another block;
- an **ablation**, every block off in turn, walks from each block on: on average half the route.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

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
    """A micro-batch after a walk with these blocks off.

    `running` is the vector before each block in the order of the walk, and at the end; empty if
    it is not kept. At first order blocks do not depend on each other: `sums` are of all blocks,
    and `products` are the products of what any two of them give (the vector itself is last).
    """

    off: frozenset[int]
    sums: Float[Tensor, "places d_model"]
    square: float
    running: list[Stream] = field(default_factory=list)
    products: Float[Tensor, "places places"] | None = None


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
        # The summed vectors with one more block off, by micro-batch and by what was off before.
        self._ablated: dict[tuple[int, frozenset[int]], Float[Tensor, "blocks d_model"]] = {}

    def carried(
        self,
        off: frozenset[int] = NO_BLOCKS,
        tokens: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Transported, int]:
        """The mean over the first micro-batches that hold `tokens`, and how many these hold."""
        return self._recording.attempt(lambda: self._carried(off, tokens, progress))

    def ablated(
        self,
        off: frozenset[int] = NO_BLOCKS,
        tokens: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Float[Tensor, "blocks d_model"], int]:
        """The mean vector with each block of the route off besides `off`, and how many tokens.

        Zero for blocks that are not walked. What `carried` walked stays as it is.
        """
        return self._recording.attempt(lambda: self._all_ablated(off, tokens, progress))

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

    def _carried(
        self, off: frozenset[int], tokens: int | None, progress: Progress | None
    ) -> tuple[Transported, int]:
        recording, route = self._recording, self._route
        numbers, version = recording.micro_batches(tokens), recording.version
        if self._version != recording.version:
            self._walked.clear()
            self._ablated.clear()
            self._version = recording.version
        n_features, n_tokens = self._counted(numbers)
        n_blocks = recording.model.n_blocks
        sums = torch.zeros(n_blocks + 1, recording.model.d_model, dtype=torch.float64)
        samples = recording.samples(numbers[-1]).stop
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
                if version != recording.version:  # a question inside `progress` took less at once
                    return self._carried(off, tokens, progress)
                self._walked[number] = walked
            sums += walked.sums
            square += walked.square
            done += size * max(1, len(route.blocks))
        if progress is not None:
            progress(total, total)
        sums[list(off)] = 0  # at first order they are of all blocks
        return self._mean(sums / n_features, square, n_features, n_tokens), n_tokens

    def _all_ablated(
        self, off: frozenset[int], tokens: int | None, progress: Progress | None
    ) -> tuple[Float[Tensor, "blocks d_model"], int]:
        self._carried(off, tokens, progress)
        recording, version = self._recording, self._recording.version
        numbers = recording.micro_batches(tokens)
        n_features, n_tokens = self._counted(numbers)
        sums = torch.zeros(recording.model.n_blocks, recording.model.d_model, dtype=torch.float64)
        total = len(numbers) * len(self._route.blocks)
        for done, number in enumerate(numbers):
            found = self._ablated.get((number, off))
            if found is None:

                def tick(at: int, done: int = done) -> None:
                    if progress is not None:
                        progress(done * len(self._route.blocks) + at, total)

                found = self._ablate(number, off, tick)
                if version != recording.version:  # a question inside `progress` took less at once
                    return self._all_ablated(off, tokens, progress)
                self._ablated[number, off] = found
            sums += found
        if progress is not None:
            progress(total, total)
        mean = sums / n_features
        return mean.to(device=recording.model.device, dtype=recording.model.dtype), n_tokens

    def _ablate(
        self, number: int, off: frozenset[int], tick: Callable[[int], None]
    ) -> Float[Tensor, "blocks d_model"]:
        """One micro-batch, each block off in turn; a block recorded for one serves all."""
        model = self._recording.model
        batch = self._recording.micro_batch(number)
        found = torch.zeros(model.n_blocks, model.d_model, dtype=torch.float64)
        self._record(batch, off, lambda _block: tick(0))
        base = self._walk(number, off, lambda _block: tick(0), batch)
        for at, k in enumerate(self._route.blocks):
            if k not in off:
                others = off | {k}
                walked = self._walk(number, others, lambda _, at=at: tick(at), batch, base)  # type: ignore[misc]
                on = [each for each in range(model.n_blocks + 1) if each not in others]
                found[k] = walked.sums[on].sum(0)
        return found

    def _counted(self, numbers: range) -> tuple[int, int]:
        """Tokens where the feature sits, and tokens that count, if the reference ended there."""
        reference = self._recording.reference
        samples = self._recording.samples(numbers[-1]).stop
        n_features = feature_tokens(reference, self._route.positions)
        return n_features * samples // reference.samples, (
            reference.n_tokens * samples // reference.samples
        )

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

    def _walk(
        self,
        number: int,
        off: frozenset[int],
        tick: Callable[[int], None],
        batch: MicroBatch | None = None,
        before: _Walked | None = None,
    ) -> _Walked:
        """Walk one micro-batch, from the first block that was switched since `before`."""
        before = before or self._walked.get(number)
        if before is not None and before.products is not None:
            return self._switched(before, off)
        route, batch = self._route, batch or self._recording.micro_batch(number)
        blocks, n_blocks = list(route.blocks), self._recording.model.n_blocks
        is_first_order = self._transition == "first-order"
        begin = 0
        if before is not None and before.running:
            same = [(k in off) == (k in before.off) for k in blocks]
            begin = same.index(False) if False in same else len(blocks)
            running, sums = before.running[: begin + 1], before.sums.clone()
        else:
            running = [self._start(batch)]
            sums = torch.zeros(n_blocks + 1, len(self._vector), dtype=torch.float64)
            if not route.is_forward:
                self._record(batch, off, tick)
        final = None
        if route.final is not None:
            final = LinearMap(route.final, batch.site(n_blocks), forward_mode=True)

        def counted(step: Stream) -> Float[Tensor, "batch counted d_model"]:
            where: Bucket = route.positions if route.to_feature else "all"
            return self._positions.part(step if final is None else final.jvp(step), where)

        fresh: dict[int, Tensor] = {}  # sums on the device, fetched together
        given: dict[int, Tensor] = {}
        if begin == 0:
            given[-1] = counted(running[0])
            fresh[-1] = given[-1].sum((0, 1))
        now = running[-1]
        for at in range(begin, len(blocks)):
            tick(at)
            k = blocks[at]
            sums[k] = 0
            if self._walks(k, off):
                step = self._step(batch, k, running[0] if is_first_order else now)
                part = counted(step)
                fresh[k] = part.sum((0, 1))
                if is_first_order:
                    given[k] = part
                else:
                    now = now + step
            if not is_first_order:
                running.append(now)
        if fresh:
            sums[list(fresh)] = torch.stack(list(fresh.values())).cpu().double()
        if is_first_order:
            products = torch.zeros(n_blocks + 1, n_blocks + 1, dtype=torch.float64)
            found = torch.stack([_exact(part).flatten() for part in given.values()])
            index = torch.tensor(list(given))
            products[index[:, None], index] = (found @ found.T).cpu()
            return self._switched(_Walked(off, sums, 0.0, [], products), off)
        square = float(_exact(counted(now)).square().sum())
        return _Walked(off, sums, square, [] if route.to_feature else running)

    def _walks(self, k: int, off: frozenset[int]) -> bool:
        """Whether block `k` is walked: at first order also if it is off, for the next switch."""
        if self._transition == "first-order":
            return True
        return self._transition == "full" and k not in off

    def _switched(self, walked: _Walked, off: frozenset[int]) -> _Walked:
        """A micro-batch that was walked at first order, with other blocks off."""
        assert walked.products is not None
        on = [-1, *(k for k in self._route.blocks if k not in off)]
        square = float(walked.products[on][:, on].sum())
        return replace(walked, off=off, square=max(0.0, square))

    def _record(self, batch: MicroBatch, off: frozenset[int], tick: Callable[[int], None]) -> None:
        """Record in the order of the stream whatever the way of the walk: no block runs twice."""
        for k in sorted(self._route.blocks):
            tick(0)
            if self._walks(k, off):
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


def _exact(part: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """In float64, for squares; on the CPU for MPS, which has none."""
    return (part.cpu() if part.device.type == "mps" else part).double()
