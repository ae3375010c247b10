"""What features are observed to raise, beside what their lists say: for both front ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl
import torch

from lens_core.scores.output_score import RAISED, TARGETS, observe, observed_before, overlaps
from lens_core.scores.prefixes import scoring_prefixes
from lens_core.session import Session
from lens_core.signature import Signature
from lens_core.steered import Steered

_CANNOT = (
    "no strength changes what the model says next by a KL divergence of "
    f"{' and '.join(f'{target:g}' for target in TARGETS)}"
)


def steered(session: Session, found: Signature, tick: Callable[[], None] = lambda: None) -> Steered:
    """Steer the feature of a signature, and compare with its value lists; kept in the cache.

    `tick` is called before every pass, and may raise to stop.

    Raises:
        UsageError: the model has no tokenizer.
        DictionaryError: activations are not finite.
    """
    lens = session.lens
    prefixes = scoring_prefixes(session.model, prepend_bos=session.config.reference.prepend_bos)
    seen = observe(lens, lens.dictionary(found.layer), [found.feature], prefixes, each_pass=tick)
    if not len(seen.features):
        return Steered(prefixes.samples, reason=_CANNOT)
    lists = {name: each.ids for name, each in found.value.top.items() if not each.reason}
    k = min([RAISED, *map(len, lists.values())])
    ids = seen.raised[0].tolist()
    return Steered(
        prefixes.samples,
        tuple(seen.strengths[0].tolist()),
        tuple(seen.divergences[0].tolist()),
        tuple(ids),
        tuple(lens.vocabulary.texts(ids)),
        {
            name: float(overlaps(seen.raised[:, :k], torch.tensor([each[:k]])))
            for name, each in lists.items()
        },
        {name: tuple(each[:k]) for name, each in lists.items()},
        seen.ceilings(k)[0],
    )


FIDELITY = {"fidelity": pl.Float32, "fidelity_share": pl.Float32}
"""Columns of `known_fidelity`, besides layer and feature."""


def known_fidelity(
    session: Session, layer: int, features: Sequence[int], lists: Sequence[Sequence[int]]
) -> pl.DataFrame:
    """How much of what features raise their value lists name, of those that were steered before.

    `lists` are ids, best first. `fidelity` is the part of the tokens that rise most which is in
    the list, `fidelity_share` the same as a part of the ceiling, null where that is 0.
    """
    lens = session.lens
    schema = {"layer": pl.Int32, "feature": pl.Int32, **FIDELITY}
    if session.model.tokenizer is None or not features:  # there are no prefixes to steer behind
        return pl.DataFrame(schema=schema)
    prefixes = scoring_prefixes(session.model, prepend_bos=session.config.reference.prepend_bos)
    seen = observed_before(lens, lens.dictionary(layer), features, prefixes)
    ours = dict(zip(features, lists, strict=True))
    rows = []
    for at, feature in enumerate(seen.features.tolist()):
        k = min(RAISED, len(ours[feature]))
        if not k:
            continue
        one = seen.only(seen.features == feature)
        found = float(overlaps(seen.raised[at : at + 1, :k], torch.tensor([ours[feature][:k]])))
        ceiling = one.ceilings(k)[0]
        rows.append((layer, feature, found, found / ceiling if ceiling > 0 else None))
    return pl.DataFrame(rows, schema, orient="row")
