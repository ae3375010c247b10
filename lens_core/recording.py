"""The reference linearised and kept: recorded once, walked for every question after that.

A block's derivative at the reference depends on no feature, mask, side or transition, so that
one recording answers all of them (docs/method.md, section 8). The reference is cut into
micro-batches of samples. The first of them, as many as the memory budget allows, stay recorded;
the others are recorded again for each question. Blocks are recorded when a walk first comes to
them, what forward mode needs when `jvp` is first asked for; so how many stay depends on what was
asked. Shares of both sides need one mode for each block, switches of values both for some.

Cost of recording every block, in plain forward passes on SmolLM2-135M: 1.2 for reverse mode, 2.7
for both; of a walk over all blocks: 1.15. `python -m benchmarks --part switches` times questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from lens_core.errors import UsageError
from lens_core.heads import HeadGate
from lens_core.linearization import BlockBytes, LinearMap, block_bytes
from lens_core.memory import (
    free_bytes,
    give_way,
    is_out_of_memory,
    release,
    samples_at_once,
)
from lens_core.model import ResidualStream, Stream
from lens_core.operators.passes import Positions
from lens_core.reference import ReferenceSample

Result = TypeVar("Result")

NO_HEADS: frozenset[int] = frozenset()

FIRST_STAGE, SECOND_STAGE = 8, 2
"""The first and second stage of a result are over one part in so many of the reference."""
_EFFICIENT_TOKENS = 256
"""At least so many tokens are in a micro-batch, or `d_model` of a smaller model, if there are as
many: with fewer, reading the weights costs more than using them."""
_SHARE_OF_FREE = 0.3
"""The part that is taken of the memory that is free at the first question."""
_ALLOCATED = 1.3
"""What a process grows by for each byte that a recording holds (SmolLM2-135M: 1.28)."""
_FEATURES = 2
"""Features whose walks are kept with their running vectors, of both sides (`lens_core.carry`)."""
_GIB = 2**30


def stages(reference: ReferenceSample, d_model: int) -> tuple[int, ...]:
    """Tokens behind each stage of a result, the last of which is over the whole reference."""
    first = _first_samples(reference, d_model)
    samples = {max(first, -(-reference.samples // part)) for part in (SECOND_STAGE, 1)}
    each = reference.n_tokens // reference.samples
    return tuple(count * each for count in sorted({first, *samples}))


def _first_samples(reference: ReferenceSample, d_model: int) -> int:
    efficient = -(-min(_EFFICIENT_TOKENS, d_model) // reference.length)
    return min(reference.samples, max(efficient, -(-reference.samples // FIRST_STAGE)))


class MicroBatch:
    """Some samples of the reference: the stream at every site, and the blocks recorded so far."""

    def __init__(
        self,
        model: ResidualStream,
        tokens: Int[Tensor, "batch pos"],
        positions: Positions | None = None,
        *,
        is_kept: bool = False,
    ) -> None:
        """`positions` are those that count; `None`: all.

        `is_kept`: other questions will follow, so that no block is run without recording it.
        """
        self._model = model
        self.positions = positions or Positions(0, tokens.shape[1])
        self._is_kept = is_kept
        with torch.no_grad():
            self._sites = [model.embed(tokens)]
        self._maps: dict[int, LinearMap] = {}
        self._gates: dict[int, HeadGate] = {}

    def bytes(self, each: Sequence[BlockBytes]) -> int:
        """What it takes, given what each block of one sample does."""
        taken = sum(
            each[k].recorded + (each[k].walked if block.is_walked else 0)
            for k, block in self._maps.items()
        )
        return taken * len(self._sites[0])

    @property
    def shape(self) -> torch.Size:
        """Samples, positions and `d_model`."""
        return self._sites[0].shape

    def site(self, site: int) -> Stream:
        """The stream that block `site` reads; that of the number of blocks is the final one."""
        while len(self._sites) <= site:
            k = len(self._sites) - 1
            if k in self._maps or self._is_kept:
                output = self.record(k).output
            else:
                with torch.no_grad():
                    output = self._run(k, self._sites[k])
            self._sites.append(self._sites[k] + output)
        return self._sites[site]

    def record(self, k: int) -> LinearMap:
        """Block `k` as a linear map, recorded now if it was not before."""
        if k not in self._maps:
            n_heads = self._model.n_heads(k)
            gate = HeadGate(n_heads) if n_heads else None
            if gate is not None:
                self._gates[k] = gate
            self._maps[k] = LinearMap(
                lambda x: self._run(k, x, gate), self.site(k), forward_mode=False
            )
        return self._maps[k]

    def jvp(self, k: int, tangent: Stream, heads_off: frozenset[int] = NO_HEADS) -> Stream:
        """`J tangent` of block `k` without some of its heads."""
        block = self.record(k)
        with self._without(k, heads_off):
            return block.jvp(tangent)

    def vjp(self, k: int, cotangent: Stream, heads_off: frozenset[int] = NO_HEADS) -> Stream:
        """`J^T cotangent` of block `k` without some of its heads."""
        block = self.record(k)
        with self._without(k, heads_off):
            return block.vjp(cotangent)

    @contextmanager
    def _without(self, k: int, heads_off: frozenset[int]) -> Iterator[None]:
        if heads_off:
            self._gates[k].off = heads_off
        try:
            yield
        finally:
            if heads_off:
                self._gates[k].off = NO_HEADS

    def _run(self, k: int, h: Stream, gate: HeadGate | None = None) -> Stream:
        return self._model.block(k, h) if gate is None else self._model.block(k, h, gate)


class Recording:
    """`reference` through `model`, linearised in micro-batches, kept as far as `memory` allows."""

    def __init__(
        self,
        model: ResidualStream,
        reference: ReferenceSample,
        *,
        memory: int | None = None,
        batch: int | None = None,
    ) -> None:
        """`memory` is the budget in bytes, `None` for three tenths of what is free when first used.

        `batch` is the number of samples in a micro-batch, `None` to choose.
        """
        self.model = model
        self.reference = reference
        self.version = 0
        """Changes with the size of micro-batches: sums over the old ones are then not used."""
        self._memory = memory
        self._batch = batch
        self._size: int | None = None
        self._budget = 0
        self._each: tuple[BlockBytes, ...] = ()
        self._kept: dict[int, MicroBatch] = {}
        give_way.add(self)

    @property
    def size(self) -> int:
        """Samples in a micro-batch.

        Raises:
            UsageError: the budget does not hold the recording of one sample.
        """
        if self._size is None:
            self._plan()
        assert self._size is not None
        return self._size

    @property
    def kept_bytes(self) -> int:
        """What stays recorded now takes, with the running vectors that walks keep."""
        if not self._kept:
            return 0
        return self._walks_bytes() + sum(map(self._bytes, self._kept.values()))

    def samples(self, number: int) -> range:
        """The samples of a micro-batch."""
        start = number * self.size
        return range(start, min(start + self.size, self.reference.samples))

    def micro_batches(self, tokens: int | None = None) -> range:
        """The first micro-batches, until they hold so many counted tokens; `None`: all."""
        every = -(-self.reference.samples // self.size)
        if tokens is None:
            return range(every)
        needed = -(-tokens // (self.size * (self.reference.n_tokens // self.reference.samples)))
        return range(max(1, min(needed, every)))

    def micro_batch(self, number: int) -> MicroBatch:
        """A micro-batch, with what of it is recorded already."""
        self._stay_within()
        found = self._kept.get(number)
        if found is None:
            samples = self.samples(number)
            tokens = self.reference.tokens[samples.start : samples.stop]
            is_kept = number == len(self._kept) and self._has_room(len(samples))
            positions = Positions.of(self.reference, samples)
            tokens = tokens.to(self.model.device)
            found = MicroBatch(self.model, tokens, positions, is_kept=is_kept)
            if is_kept:
                self._kept[number] = found
        return found

    def _has_room(self, samples: int) -> bool:
        """Whether one more micro-batch may stay that takes as much as those that do."""
        if not self._kept:
            return self._budget >= samples * self._whole + self._walks_bytes()
        largest = max(self._bytes(batch) // batch.shape[0] for batch in self._kept.values())
        return self.kept_bytes + samples * largest <= self._budget

    def _stay_within(self) -> None:
        """Let go of the last micro-batches if what was asked since has made them too large."""
        while len(self._kept) > 1 and self.kept_bytes > self._budget:
            del self._kept[max(self._kept)]

    def _bytes(self, batch: MicroBatch) -> int:
        return int(_ALLOCATED * batch.bytes(self._each))

    @property
    def _whole(self) -> int:
        """What one sample takes, recorded for both modes."""
        return int(_ALLOCATED * sum(each.recorded + each.walked for each in self._each))

    def release(self) -> None:
        """Give the memory back; the next question records anew."""
        self._kept.clear()

    def attempt(self, act: Callable[[], Result]) -> Result:
        """`act()`, again with less kept, or smaller micro-batches, when memory runs out."""
        while True:
            try:
                return act()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or not self._shrink():
                    raise
            release(self.model.device)

    def _shrink(self) -> bool:
        """Keep less, or take less at once; whether there is anything left to give up."""
        kept = self.kept_bytes
        self.release()
        if self._budget >= self.size * self._whole + self._walks_bytes():
            self._budget = min(self._budget, kept or self._budget) // 2
        elif self.size > 1:
            self._size = self.size // 2
            self.version += 1
        else:
            return False
        return True

    def _plan(self) -> None:
        model, reference = self.model, self.reference
        self._each = block_bytes(model, reference.tokens[:1].to(model.device))
        each = self._whole
        budget = self._memory
        if budget is None:
            budget = int(free_bytes(model.device) * _SHARE_OF_FREE)
        elif budget < each:
            raise UsageError(
                f"[compute].memory = {budget / _GIB:.3g} (GiB) is too small: the recording of one "
                f'sample takes {each / _GIB:.3g}; set more, or "auto"'
            )
        size = self._batch
        if size is None:
            size = min(
                samples_at_once(model.device, reference.length, each),
                _first_samples(reference, model.d_model),
            )
            size = max(1, min(size, budget // each))
        self._size = min(size, reference.samples)
        self._budget = budget

    def _walks_bytes(self) -> int:
        """The stream at every site of both sides, of every sample, for each kept feature."""
        sample = self.reference.length * self.model.d_model * self.model.dtype.itemsize
        return _FEATURES * (self.model.n_blocks + 2) * sample * self.reference.samples
