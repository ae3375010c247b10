"""Signatures and paths in stages: over the first samples of the reference, then more, then all.

Each stage is exact for the tokens that it names (docs/method.md, section 8). Walks keep what they
summed, so that a stage is part of the next. First-reader shares without operators are the
exception: a stage whose top tokens differ from those before is read back from its start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from lens_core.recording import stages
from lens_core.resemblance import PairCosines
from lens_core.session import Session
from lens_core.signature import Paths, SideSignature, Signature
from lens_core.terms import Settings

Answer = TypeVar("Answer", Signature, Paths, PairCosines)


def at_stage(
    answer: Callable[[Settings], Answer], settings: Settings, session: Session, stage: int
) -> Answer:
    """`answer(settings)` over the tokens of a stage, from 0; the last, and those after, over all.

    It names its tokens, which are all of them if no walk was needed.
    """
    tokens = stages(session.reference, session.model.d_model)[: stage + 1][-1]
    return replace(answer(replace(settings, tokens=tokens)), settings=settings)


def with_overlap(found: Signature, before: Signature | None, k: int) -> Signature:
    """`found`, each side with the overlap of its first `k` tokens with those of a stage before.

    `before` may be of anything: it counts only if it is of the same feature and settings.
    """
    if before is None or _asked(before) != _asked(found):
        return found
    return replace(
        found,
        value=_with_overlap(found.value, before.value, k),
        key=_with_overlap(found.key, before.key, k),
    )


def _asked(of: Signature) -> tuple[int, int, Settings]:
    return of.layer, of.feature, of.settings


def _with_overlap(side: SideSignature, before: SideSignature, k: int) -> SideSignature:
    one, other = set(side.query_lens.ids[:k]), set(before.query_lens.ids[:k])
    if before.n_tokens >= side.n_tokens or not one | other:
        return side
    return replace(side, overlap=len(one & other) / len(one | other))
