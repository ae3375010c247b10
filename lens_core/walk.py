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
- an **ablation**, every block off in turn, walks from each block on: on average half the route;
- a block's **heads** take one walk to the block, and one product with the block for each head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lens_core.batch_walk import BatchWalk, Route, Walked
from lens_core.direct import NO_BLOCKS, Transported, feature_tokens
from lens_core.errors import ModelError
from lens_core.recording import Recording
from lens_core.terms import Progress, Switch, Transition

Parts = tuple[Switch, ...] | int
"""What a sum is split by: switches that are off in turn, or the heads of a block."""


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
        self._route = route
        self._walk = BatchWalk(recording.model, vector, route, transition)
        self._version = recording.version
        self._walked: dict[int, Walked] = {}
        # Sums of a micro-batch by what is asked and by what is off: with one more switch off in
        # turn; of what each head of a block adds.
        self._parts: dict[tuple[int, frozenset[Switch], Parts], Float[Tensor, "parts d_model"]] = {}

    def carried(
        self,
        off: frozenset[Switch] = NO_BLOCKS,
        tokens: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Transported, int]:
        """The mean over the first micro-batches that hold `tokens`, and how many these hold."""
        return self._recording.attempt(lambda: self._carried(off, tokens, progress))

    def ablated(
        self,
        switches: Sequence[Switch],
        off: frozenset[Switch] = NO_BLOCKS,
        tokens: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Float[Tensor, "switches d_model"], int]:
        """The mean vector with each of `switches` off in turn, besides `off`, and how many tokens.

        What `carried` walked stays as it is.
        """
        return self._recording.attempt(
            lambda: self._mean_of_parts(tuple(switches), off, tokens, progress)
        )

    def of_heads(
        self,
        k: int,
        off: frozenset[Switch] = NO_BLOCKS,
        tokens: int | None = None,
        progress: Progress | None = None,
    ) -> tuple[Float[Tensor, "heads d_model"], int]:
        """The mean of what each head of block `k` adds, and how many tokens; zero for those off.

        They add up to the block's row in `Transported.steps`, or to its step between `at_sites`.
        """
        return self._recording.attempt(lambda: self._mean_of_parts(k, off, tokens, progress))

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
        self, off: frozenset[Switch], tokens: int | None, progress: Progress | None
    ) -> tuple[Transported, int]:
        recording, route = self._recording, self._route
        numbers, version = recording.micro_batches(tokens), recording.version
        self._keep_up()
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
                walked = self._walk.carried(recording.micro_batch(number), off, tick, walked)
                if version != recording.version:  # a question inside `progress` took less at once
                    return self._carried(off, tokens, progress)
                self._walked[number] = walked
            sums += walked.sums
            square += walked.square
            done += size * max(1, len(route.blocks))
        if progress is not None:
            progress(total, total)
        sums[[k for k in off if isinstance(k, int)]] = 0  # at first order they are of all blocks
        n_reached = n_tokens
        if not route.is_forward:
            n_reached = int(recording.reference.counts[:samples].sum())
        return self._mean(sums / n_features, square, n_features, n_reached), n_tokens

    def _mean_of_parts(
        self, asked: Parts, off: frozenset[Switch], tokens: int | None, progress: Progress | None
    ) -> tuple[Float[Tensor, "parts d_model"], int]:
        recording = self._recording
        if not isinstance(asked, int):
            self._carried(off, tokens, progress)
        numbers, version = recording.micro_batches(tokens), recording.version
        self._keep_up()
        n_features, n_tokens = self._counted(numbers)
        each = len(self._route.blocks)
        sums = torch.zeros(1, recording.model.d_model, dtype=torch.float64)
        for done, number in enumerate(numbers):
            found = self._parts.get((number, off, asked))
            if found is None:

                def tick(at: int, done: int = done) -> None:
                    if progress is not None:
                        progress(done * each + at, len(numbers) * each)

                batch, before = recording.micro_batch(number), self._walked.get(number)
                if isinstance(asked, int):
                    found = self._walk.of_heads(batch, asked, off, tick, before)
                else:
                    found = self._walk.ablated(batch, asked, off, tick, before)
                if version != recording.version:  # a question inside `progress` took less at once
                    return self._mean_of_parts(asked, off, tokens, progress)
                self._parts[number, off, asked] = found
            sums = sums + found
        if progress is not None:
            progress(len(numbers) * each, len(numbers) * each)
        mean = sums / n_features
        return mean.to(device=recording.model.device, dtype=recording.model.dtype), n_tokens

    def _keep_up(self) -> None:
        """Forget sums over micro-batches of another size."""
        if self._version != self._recording.version:
            self._walked.clear()
            self._parts.clear()
            self._version = self._recording.version

    def _counted(self, numbers: range) -> tuple[int, int]:
        """Tokens where the feature sits, and tokens that count, if the reference ended there."""
        reference = self._recording.reference
        samples = self._recording.samples(numbers[-1]).stop
        n_features = feature_tokens(reference, self._route.positions)
        return n_features * samples // reference.samples, (
            reference.n_tokens * samples // reference.samples
        )

    def _mean(
        self, steps: Float[Tensor, "places d_model"], square: float, n_features: int, n_reached: int
    ) -> Transported:
        model = self._recording.model
        vector = steps.sum(0)
        # Over the tokens where the walk ends; one that the feature cannot reach transports nothing.
        mean_square = square * n_reached / n_features**2
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
