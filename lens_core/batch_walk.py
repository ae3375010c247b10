"""One vector over one micro-batch of the recording: what blocks and heads add to it.

`walk` sums these over micro-batches, keeps them, and has the equations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.linearization import LinearMap
from lens_core.model import ResidualStream, Stream
from lens_core.recording import MicroBatch
from lens_core.terms import Bucket, Switch, Transition, heads_of

Tick = Callable[[int], None]
"""Called with the number of blocks done; may raise to cancel."""


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
class Walked:
    """A micro-batch after a walk with these blocks and heads off.

    `running` is the vector before each block in the order of the walk, and at the end; empty if
    it is not kept. At first order blocks do not depend on each other: `sums` are of all blocks,
    and `products` are the products of what any two of them give (the vector itself is last).
    """

    off: frozenset[Switch]
    sums: Float[Tensor, "places d_model"]
    square: float
    running: list[Stream] = field(default_factory=list)
    products: Float[Tensor, "places places"] | None = None


@dataclass(frozen=True)
class BatchWalk:
    """A vector on its route through micro-batches: what one of them gives, from what is off.

    Keeps nothing; what an earlier walk of the same micro-batch left is passed in as `before`.
    """

    model: ResidualStream
    vector: Float[Tensor, " d_model"]
    route: Route
    transition: Transition

    def carried(
        self,
        batch: MicroBatch,
        off: frozenset[Switch],
        tick: Tick,
        before: Walked | None = None,
    ) -> Walked:
        """The sums with `off`, from the first block that was switched since `before`."""
        if before is not None and before.products is not None and _same_heads(before.off, off):
            return self._switched(before, off)
        blocks, n_blocks = list(self.route.blocks), self.model.n_blocks
        is_first_order = self.transition == "first-order"
        begin, running = self._shared(before, off)
        if running:
            assert before is not None
            sums = before.sums.clone()
        else:
            running = [self._start(batch)]
            sums = torch.zeros(n_blocks + 1, len(self.vector), dtype=torch.float64)
            if not self.route.is_forward:
                self._record(batch, off, tick)
        final = self._final(batch)

        def counted(step: Stream) -> Float[Tensor, "batch counted d_model"]:
            return self._counted_part(batch, step, final)

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
                step = self._step(batch, k, running[0] if is_first_order else now, off)
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
            return self._switched(Walked(off, sums, 0.0, [], products), off)
        square = float(_exact(counted(now)).square().sum())
        return Walked(off, sums, square, [] if self.route.to_feature else running)

    def ablated(
        self,
        batch: MicroBatch,
        switches: tuple[Switch, ...],
        off: frozenset[Switch],
        tick: Tick,
        before: Walked | None = None,
    ) -> Float[Tensor, "switches d_model"]:
        """The summed vector with each switch off in turn; a block recorded for one serves all."""
        found = torch.zeros(len(switches), self.model.d_model, dtype=torch.float64)
        self._record(batch, off, lambda _block: tick(0))
        base = self.carried(batch, off, lambda _block: tick(0), before)
        for at, switch in enumerate(switches):
            others = off | {switch}

            def told(_block: int, at: int = at) -> None:
                tick(at * len(self.route.blocks) // len(switches))

            walked = self.carried(batch, others, told, base)
            on = [each for each in range(self.model.n_blocks + 1) if each not in others]
            found[at] = walked.sums[on].sum(0)
        return found

    def of_heads(
        self,
        batch: MicroBatch,
        k: int,
        off: frozenset[Switch],
        tick: Tick,
        before: Walked | None = None,
    ) -> Float[Tensor, "heads d_model"]:
        """What each head of block `k` adds: a walk to the block, then its product for each head."""
        every = frozenset(range(self.model.n_heads(k)))
        found = torch.zeros(len(every), self.model.d_model, dtype=torch.float64)
        begin, running = self._shared(before, off)
        now = running[-1] if running else self._start(batch)
        blocks = list(self.route.blocks)
        at = blocks.index(k)
        if self.transition == "first-order":
            now = self._start(batch)
        elif begin > at:
            now = running[at]
        else:
            if not self.route.is_forward:
                self._record(batch, off, tick)
            for block in blocks[begin:at]:
                tick(at)
                if self._walks(block, off):
                    now = now + self._step(batch, block, now, off)
        final = self._final(batch)
        for head in sorted(every - heads_of(off, k)):
            tick(at)
            step = self._step(batch, k, now, frozenset((k, other) for other in every - {head}))
            found[head] = self._counted_part(batch, step, final).sum((0, 1)).cpu().double()
        return found

    def _shared(self, before: Walked | None, off: frozenset[Switch]) -> tuple[int, list[Stream]]:
        """How many blocks another walk went with the same switches, and its vectors until there."""
        if before is None or not before.running:
            return 0, []
        states = [[_state(each, k) for k in self.route.blocks] for each in (before.off, off)]
        same = [ours == theirs for ours, theirs in zip(*states, strict=True)]
        begin = same.index(False) if False in same else len(same)
        return begin, before.running[: begin + 1]

    def _final(self, batch: MicroBatch) -> LinearMap | None:
        if self.route.final is None:
            return None
        end = batch.site(self.model.n_blocks)
        return LinearMap(self.route.final, end, forward_mode=True)

    def _counted_part(
        self, batch: MicroBatch, step: Stream, final: LinearMap | None
    ) -> Float[Tensor, "batch counted d_model"]:
        """What counts of a vector at the end of the route, with the Jacobian that stands there."""
        where: Bucket = self.route.positions if self.route.to_feature else "all"
        part = batch.positions.targets if self.route.is_forward else batch.positions.sources
        return part(step if final is None else final.jvp(step), where)

    def _walks(self, k: int, off: frozenset[Switch]) -> bool:
        """Whether block `k` is walked: at first order also if it is off, for the next switch."""
        if self.transition == "first-order":
            return True
        return self.transition == "full" and k not in off

    def _switched(self, walked: Walked, off: frozenset[Switch]) -> Walked:
        """A micro-batch that was walked at first order, with other blocks off."""
        assert walked.products is not None
        on = [-1, *(k for k in self.route.blocks if k not in off)]
        square = float(walked.products[on][:, on].sum())
        return replace(walked, off=off, square=max(0.0, square))

    def _record(self, batch: MicroBatch, off: frozenset[Switch], tick: Tick) -> None:
        """Record in the order of the stream whatever the way of the walk: no block runs twice."""
        for k in sorted(self.route.blocks):
            tick(0)
            if self._walks(k, off):
                batch.record(k)

    def _step(self, batch: MicroBatch, k: int, vector: Stream, off: frozenset[Switch]) -> Stream:
        """What block `k` adds to the vector, without those of its heads that are off."""
        way = batch.jvp if self.route.is_forward else batch.vjp
        return way(k, vector, heads_of(off, k))

    def _start(self, batch: MicroBatch) -> Stream:
        route, model = self.route, self.model
        where: Bucket = "all" if route.to_feature else route.positions
        spread_at = batch.positions.at_sources if route.is_forward else batch.positions.at_targets
        spread = spread_at(self.vector[None], batch.shape, where)
        if route.norm is None:
            return spread
        if route.after_mlp:  # the post-norm reads the MLP's own output
            with torch.no_grad():
                site = route.start - 1
                read = model.mlp_output(site // 2, batch.site(site))
            return LinearMap(route.norm, read, forward_mode=True).jvp(spread)
        return LinearMap(route.norm, batch.site(route.start), forward_mode=False).vjp(spread)


def _state(off: frozenset[Switch], k: int) -> frozenset[int] | None:
    """The heads of block `k` that are off; `None` if the whole block is."""
    return None if k in off else heads_of(off, k)


def _same_heads(off: frozenset[Switch], other: frozenset[Switch]) -> bool:
    return not any(isinstance(each, tuple) for each in off ^ other)


def _exact(part: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """In float64, for squares; on the CPU for MPS, which has none."""
    return (part.cpu() if part.device.type == "mps" else part).double()
