"""Transitions and their splits by automatic differentiation of the whole stream.

Nothing here walks block by block: each number is a derivative of the stream itself, the
blocks that are off being held at their value, so that it shares no step with `lens_core`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lens_core.model import ResidualStream
from lens_core.reference import ReferenceSample

NONE: frozenset[int] = frozenset()


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def vector(d: int, seed: int = 0) -> Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(
    model: ResidualStream,
    h: Tensor,
    first: int,
    last: int | None = None,
    off: frozenset[int] = NONE,
) -> list[Tensor]:
    """The stream at every site from `first`, where it is `h`, to `last`."""
    sites = [h]
    for k in range(first, model.n_blocks if last is None else last):
        added = model.block(k, sites[-1])
        sites.append(sites[-1] + (added.detach() if k in off else added))
    return sites


def spread(reference: ReferenceSample, v: Tensor) -> Tensor:
    """`v` at every position that counts, zero elsewhere."""
    whole = v.new_zeros(*reference.tokens.shape, len(v))
    whole[:, reference.included] = v
    return whole


def mean(reference: ReferenceSample, h: Tensor) -> Tensor:
    """Over the tokens that count."""
    return h[:, reference.included].mean((0, 1))


def push(function: Callable[[Tensor], Tensor], x: Tensor, tangent: Tensor) -> Tensor:
    """The derivative of `function` at `x` along `tangent`."""
    derivative: Tensor = torch.func.jvp(function, (x,), (tangent,))[1]
    return derivative


def first_readers_of_a_value(
    model: ResidualStream, reference: ReferenceSample, v: Tensor, site: int
) -> Tensor:
    """How the end moves when block `k` alone reads a stream with `v` in it, for every `k`."""
    terms = v.new_zeros(model.n_blocks, len(v))
    sites = run(model, model.embed(reference.tokens), 0)
    for k in range(site, model.n_blocks):
        h = sites[k]
        terms[k] = push(
            lambda x, k=k, h=h: mean(reference, run(model, h + model.block(k, x), k + 1)[-1]),
            h,
            spread(reference, v),
        )
    return terms


def first_readers_of_a_key(
    model: ResidualStream, reference: ReferenceSample, key: Tensor, site: int
) -> Tensor:
    """The gradient of what block `k` alone writes for `key` to read, for every `k`."""
    terms = key.new_zeros(model.n_blocks, len(key))
    for k in range(site):
        start = model.embed(reference.tokens).detach().requires_grad_()
        written = model.block(k, run(model, start, 0, k)[-1])
        (mean(reference, written) @ key).backward()
        assert start.grad is not None
        terms[k] = start.grad[:, reference.included].sum((0, 1))
    return terms


def last_writers_of_a_value(
    model: ResidualStream,
    reference: ReferenceSample,
    v: Tensor,
    site: int,
    off: frozenset[int] = NONE,
) -> Tensor:
    """By how much more the stream changes after block `k` than before it."""
    h = run(model, model.embed(reference.tokens), 0, site)[-1]
    moved = [
        mean(
            reference,
            push(lambda x, last=last: run(model, x, site, last, off)[-1], h, spread(reference, v)),
        )
        for last in range(site, model.n_blocks + 1)
    ]
    steps = v.new_zeros(model.n_blocks, len(v))
    steps[site:] = torch.stack(moved).diff(dim=0)
    return steps


def last_writers_of_a_key(
    model: ResidualStream,
    reference: ReferenceSample,
    key: Tensor,
    site: int,
    off: frozenset[int] = NONE,
) -> Tensor:
    """By how much more the reading depends on the stream before block `k` than after it."""
    start = model.embed(reference.tokens).detach().requires_grad_()
    sites = run(model, start, 0, site, off)
    gradients = torch.autograd.grad(mean(reference, sites[-1]) @ key, sites)
    answers = torch.stack([each[:, reference.included].sum((0, 1)) for each in gradients])
    steps = key.new_zeros(model.n_blocks, len(key))
    steps[:site] = answers[:-1] - answers[1:]
    return steps
