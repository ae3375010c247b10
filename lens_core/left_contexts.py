"""The left contexts behind which every token of the vocabulary is run (`vocabulary_states`).

The beginnings of some samples of the reference. Real text does better than short neutral openings:
docs/evidence.md has the comparison.
"""

from __future__ import annotations

from lens_core.reference import ReferenceSample

CONTEXTS, LENGTH = 8, 10


def left_contexts(reference: ReferenceSample) -> list[tuple[int, ...]]:
    """The first `LENGTH` tokens of `CONTEXTS` samples, evenly spaced; fewer if there are fewer."""
    n = min(CONTEXTS, reference.samples)
    found = [reference.ids(at * reference.samples // n)[:LENGTH] for at in range(n)]
    return list(dict.fromkeys(map(tuple, found)))
