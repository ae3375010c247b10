"""Answers about where a feature fires, for both front ends (see `lens_core.report`).

The text is the longest corpus that `qlens contexts` has read for the layer's dictionary, else
the reference. Contexts are known for all features at once; the activations at the tokens around
them are not kept, but computed for one feature when it is looked at: a forward pass over its
contexts' samples, up to the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from lens_core.activity import FeatureActivity, Place
from lens_core.errors import UsageError
from lens_core.evidence import Context, Evidence, Neighbour, SampleActivations, TextFacts
from lens_core.firing import sample_activations
from lens_core.neighbours import neighbours
from lens_core.reference import ReferenceSample
from lens_core.session import Session
from lens_core.terms import Side

BEFORE, AFTER = 20, 16
"""Tokens of context on each side."""
_AT_ONCE = 8  # samples read between two calls of `tick`


@dataclass(frozen=True, eq=False)
class _Text:
    facts: TextFacts
    samples: ReferenceSample
    activity: FeatureActivity


def evidence(
    session: Session,
    layer: int,
    feature: int,
    *,
    contexts: int = 20,
    examples: int = 2,
    nearest: int = 10,
) -> Evidence:
    """A feature's strongest `contexts`, `examples` of each quarter, and its `nearest` features.

    Contexts have no activations yet: see `with_activations`. A quarter's examples are others than
    the strongest. Without a corpus the first call for a layer costs a pass over the reference,
    which serves the whole layer.
    """
    dictionary = session.lens.dictionary(layer, feature)
    text = _text(session, layer)
    activity = text.activity
    strongest = activity.strongest(feature)[: max(0, contexts)]
    quarters = activity.quarters(feature, max(0, examples), without=strongest)

    def like(side: Side) -> tuple[Neighbour, ...]:
        ids, cosines = neighbours(dictionary, feature, side, max(0, nearest))
        pairs = zip(ids.tolist(), cosines.tolist(), strict=True)
        return tuple(Neighbour(layer, other, cosine) for other, cosine in pairs)

    def shown(places: Sequence[Place]) -> tuple[Context, ...]:
        return tuple(_context(session, text.samples, place) for place in places)

    return Evidence(
        layer=layer,
        feature=feature,
        text=text.facts,
        density=float(activity.density[feature]),
        max_activation=float(activity.max_activation[feature]),
        contexts=shown(strongest),
        quarters=tuple(map(shown, quarters)),
        histogram=activity.histogram(feature),
        bin_width=activity.bin_width(feature),
        by_key=like("key"),
        by_value=like("value"),
    )


def with_activations(
    session: Session, found: Evidence, tick: Callable[[], None] | None = None
) -> Evidence:
    """The same with the feature's activation at every token of its contexts.

    `tick` is called now and then, and may raise to cancel.

    Raises:
        UsageError: the text is no longer there.
    """
    text = _same_text(session, found.layer, found.text.sha256)
    wanted = sorted({each.sample for each in found.every_context})
    rows: dict[int, list[float | None]] = {}
    for start in range(0, len(wanted), _AT_ONCE):
        if tick is not None:
            tick()
        some = wanted[start : start + _AT_ONCE]
        rows |= zip(some, _rows(session, found.layer, found.feature, text, some), strict=True)

    def read(context: Context) -> Context:
        first = context.position - len(context.before)
        row = rows[context.sample][first : first + len(context.tokens)]
        return replace(context, activations=tuple(row))

    return replace(
        found,
        contexts=tuple(map(read, found.contexts)),
        quarters=tuple(tuple(map(read, quarter)) for quarter in found.quarters),
    )


def sample(session: Session, layer: int, feature: int, text: str, number: int) -> SampleActivations:
    """Sample `number` of the text with this `sha256`, and the feature's activations in it.

    Raises:
        UsageError: the text is no longer there, or has no such sample.
    """
    session.lens.dictionary(layer, feature)
    found = _same_text(session, layer, text)
    if not 0 <= number < found.samples.samples:
        raise UsageError(
            f"sample {number} is out of range: {found.facts.origin} has samples 0 to "
            f"{found.samples.samples - 1}"
        )
    ids = found.samples.ids(number)
    (row,) = _rows(session, layer, feature, found, [number])
    return SampleActivations(
        layer=layer,
        feature=feature,
        text=found.facts,
        sample=number,
        ids=tuple(ids),
        tokens=tuple(session.lens.vocabulary.texts(ids)),
        activations=tuple(row),
    )


def text_sha256(session: Session, layer: int) -> str:
    """What identifies the text in which a layer's contexts are looked for (`TextFacts.sha256`)."""
    found = session.contexts.find(session.lens.dictionary(layer))
    return session.lens.text.sha256 if found is None else found


def _text(session: Session, layer: int) -> _Text:
    """The longest corpus that was read for a layer; the reference if there is none."""
    found = session.contexts.get(session.lens.dictionary(layer))
    if found is not None:
        facts = _facts(found.corpus, found.sha256, is_reference=False)
        return _Text(facts, found.corpus, found.activity)
    text = session.lens.text
    facts = _facts(text, text.sha256, is_reference=text is session.reference)
    return _Text(facts, text, session.lens.activity(layer))


def _same_text(session: Session, layer: int, sha256: str) -> _Text:
    found = _text(session, layer)
    if found.facts.sha256 != sha256:
        raise UsageError(
            "the contexts are no longer in the cache, or others were read since: go to another "
            "feature and back"
        )
    return found


def _facts(text: ReferenceSample, sha256: str, *, is_reference: bool) -> TextFacts:
    return TextFacts(is_reference, text.origin, text.samples, text.length, text.n_sources, sha256)


def _context(session: Session, text: ReferenceSample, place: Place) -> Context:
    ids = text.ids(place.sample)
    first = max(0, place.position - BEFORE)
    texts = session.lens.vocabulary.texts(ids[first : place.position + 1 + AFTER])
    at = place.position - first
    return Context(
        sample=place.sample,
        position=place.position,
        activation=place.activation,
        token_id=ids[place.position],
        before=tuple(texts[:at]),
        token=texts[at],
        after=tuple(texts[at + 1 :]),
    )


def _rows(
    session: Session, layer: int, feature: int, text: _Text, samples: Sequence[int]
) -> list[list[float | None]]:
    """The feature's activation at every token of some samples; `None` where it does not count."""
    dictionary = session.lens.dictionary(layer)
    tokens = text.samples.tokens[torch.tensor(samples)]
    found = sample_activations(session.model, dictionary, tokens, feature)
    counts = text.samples.counts[torch.tensor(samples)]
    rows = found.cpu().masked_fill(~counts, math.nan).tolist()
    return [
        [None if math.isnan(each) else each for each in row[: len(text.samples.ids(sample))]]
        for sample, row in zip(samples, rows, strict=True)
    ]
