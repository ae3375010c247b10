"""Labels of single features from atlases: their first tokens, and their stability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from qlens_tui.engine.messages import Side
from qlens_tui.table.known_layer import KnownLayer

if TYPE_CHECKING:
    import polars as pl

_LABELS = 6

Labels = dict[tuple[int, int], tuple[str, ...]]
"""The first tokens of features, raw, by layer and feature."""


def labels(
    features: Iterable[tuple[int, int]],
    frames: Mapping[int, pl.DataFrame],
    texts: Sequence[str] | None,
    side: Side = "value",
    *,
    most: int = _LABELS,
) -> Labels:
    """The first tokens that features promote or fire on, for layers whose atlas is in `frames`."""
    found, column = {}, f"{side}_query_ids"
    for layer, feature in features if texts is not None else ():
        frame = frames.get(layer)
        if frame is not None and column in frame.columns and feature < frame.height:
            ids = frame[column][feature].head(most)
            assert texts is not None
            found[layer, feature] = tuple(texts[token] for token in ids if token < len(texts))
    return found


def read_labels(
    known: Mapping[int, KnownLayer],
    wanted: Mapping[int, Sequence[int]],
    texts: Sequence[str],
    side: Side = "value",
    *,
    most: int = _LABELS,
) -> Labels:
    """The same, by layer, from the atlases on disk; call it off the UI thread."""
    from qlens_tui.table.frames import atlas_rows

    found = {}
    for layer, features in wanted.items():
        rows = atlas_rows(known[layer], ("feature", f"{side}_query_ids"), features)
        for feature, ids in rows.iter_rows() if rows is not None else ():
            named = (texts[token] for token in ids[:most] if token < len(texts))
            found[layer, feature] = tuple(named)
    return found


def stability(layer: int, feature: int, frames: Mapping[int, pl.DataFrame]) -> str:
    """A feature's stability in its atlas, and the length of its lists; empty if unknown."""
    frame = frames.get(layer)
    if frame is None or "value_stability" not in frame.columns or feature >= frame.height:
        return ""
    said = []
    for side in ("value", "key"):
        value = frame[f"{side}_stability"][feature]
        if value is not None:
            said.append(f"{side} {value:.2f}")
    length = len(frame["value_query_ids"][feature])
    return f"{'   '.join(said)}   (of lists of {length})" if said else ""
