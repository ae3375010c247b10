"""Signatures and paths in stages: over the first samples of the reference, then more, then all.

Each stage is exact for the tokens that it names (docs/method.md, section 8). Walks keep what they
summed, so that a stage is part of the next. First-reader shares without operators are the
exception: a stage whose top tokens differ from those before is read back from its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lens_core.recording import stages
from lens_core.report import paths, signature
from lens_core.session import Session
from lens_core.signature import Paths, SideSignature, Signature
from lens_core.terms import Settings, Side, Split


def signature_stages(
    session: Session,
    layer: int,
    feature: int,
    settings: Settings,
    *,
    length: int | None = None,
    bottom: bool = False,
) -> Iterator[Signature]:
    """Both sides of a feature, over more and more samples of the reference.

    One signature only if no walk is needed. Each names its tokens, and the overlap of its lists
    with those of the stage before; the last is that of `signature`.
    """
    before: Signature | None = None
    for tokens in stages(session.reference):
        asked = replace(settings, tokens=tokens)
        found = replace(
            signature(session, layer, feature, asked, length=length, bottom=bottom),
            settings=settings,
        )
        if before is not None:
            found = replace(
                found,
                value=_with_overlap(found.value, before.value, session.lens.k),
                key=_with_overlap(found.key, before.key, session.lens.k),
            )
        yield found
        if found.n_tokens >= session.reference.n_tokens:
            return
        before = found


def paths_stages(
    session: Session,
    layer: int,
    feature: int,
    side: Side,
    settings: Settings,
    *,
    split: Split | None = None,
) -> Iterator[Paths]:
    """The shares of one side's blocks in the same stages; the last are those of `paths`."""
    for tokens in stages(session.reference):
        asked = replace(settings, tokens=tokens)
        found = paths(session, layer, feature, side, asked, split=split)
        yield replace(found, settings=settings)
        if found.n_tokens >= session.reference.n_tokens:
            return


def _with_overlap(side: SideSignature, before: SideSignature, k: int) -> SideSignature:
    one, other = set(side.query_lens.ids[:k]), set(before.query_lens.ids[:k])
    if before.n_tokens == side.n_tokens or not one | other:
        return side
    return replace(side, overlap=len(one & other) / len(one | other))
