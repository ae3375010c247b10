"""What a feature is observed to raise, beside what its lists say: for both front ends."""

from __future__ import annotations

import torch

from lens_core.scores.output_score import RAISED, TARGETS, observe, overlaps
from lens_core.scores.prefixes import scoring_prefixes
from lens_core.session import Session
from lens_core.signature import Signature
from lens_core.steered import Steered

_CANNOT = (
    "no strength changes what the model says next by a KL divergence of "
    f"{' and '.join(f'{target:g}' for target in TARGETS)}"
)


def steered(session: Session, found: Signature) -> Steered:
    """Steer the feature of a signature, and compare with its value lists; kept in the cache.

    Raises:
        UsageError: the model has no tokenizer.
        DictionaryError: activations are not finite.
    """
    lens = session.lens
    prefixes = scoring_prefixes(session.model, prepend_bos=session.config.reference.prepend_bos)
    seen = observe(lens, lens.dictionary(found.layer), [found.feature], prefixes)
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
        seen.ceilings(k)[0],
    )
