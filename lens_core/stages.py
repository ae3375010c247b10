"""Signatures and paths in stages: over the first samples of the reference, then more, then all.

Each stage is exact for the tokens that it names (docs/method.md, section 8). Walks keep what they
summed, so that a stage is part of the next. First-reader shares without operators are the
exception: a stage whose top tokens differ from those before is read back from its start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from lens_core.recording import stages
from lens_core.reference import ReferenceSample
from lens_core.signature import Paths, SideSignature, Signature
from lens_core.terms import Settings

Answer = TypeVar("Answer", Signature, Paths)


def in_stages(
    answer: Callable[[Settings], Answer], settings: Settings, reference: ReferenceSample
) -> Iterator[Answer]:
    """`answer(settings)` over more and more tokens of the reference; the last is over all.

    Only one if no walk is needed. Each names its tokens and has the settings asked for.
    """
    for tokens in stages(reference):
        found = replace(answer(replace(settings, tokens=tokens)), settings=settings)
        yield found
        if found.n_tokens >= reference.n_tokens:
            return


def with_overlaps(signatures: Iterable[Signature], k: int) -> Iterator[Signature]:
    """Signatures in stages, each side with the overlap of its first `k` with those before."""
    before: Signature | None = None
    for found in signatures:
        if before is not None:
            found = replace(
                found,
                value=_with_overlap(found.value, before.value, k),
                key=_with_overlap(found.key, before.key, k),
            )
        yield found
        before = found


def _with_overlap(side: SideSignature, before: SideSignature, k: int) -> SideSignature:
    one, other = set(side.query_lens.ids[:k]), set(before.query_lens.ids[:k])
    if before.n_tokens == side.n_tokens or not one | other:
        return side
    return replace(side, overlap=len(one & other) / len(one | other))
