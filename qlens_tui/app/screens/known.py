"""What the app knows of features beside the engine's answers: names for them, and their origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from qlens_tui.app.last_visit import KnownLayer
from qlens_tui.engine import messages as m

if TYPE_CHECKING:
    import polars as pl

_LABELS = 6
_TOLD = ("hook_read", "architecture", "key", "folder", "release", "id")


def labels(
    features: Iterable[tuple[int, int]],
    frames: Mapping[int, pl.DataFrame],
    texts: Sequence[str] | None,
    side: m.Side = "value",
) -> dict[tuple[int, int], tuple[str, ...]]:
    """The first tokens that features promote, or fire on, raw, of those whose atlas is at hand."""
    found, column = {}, f"{side}_query_ids"
    for layer, feature in features if texts is not None else ():
        frame = frames.get(layer)
        if frame is not None and column in frame.columns and feature < frame.height:
            ids = frame[column][feature].head(_LABELS)
            assert texts is not None
            found[layer, feature] = tuple(texts[token] for token in ids if token < len(texts))
    return found


def read_labels(
    known: Mapping[int, KnownLayer],
    wanted: Mapping[int, Sequence[int]],
    texts: Sequence[str],
    side: m.Side = "value",
) -> dict[tuple[int, int], tuple[str, ...]]:
    """The same from the atlases on the disk; call it off the UI's thread."""
    from qlens_tui.table.frames import atlas_rows

    found = {}
    for layer, features in wanted.items():
        rows = atlas_rows(known[layer], ("feature", f"{side}_query_ids"), features)
        for feature, ids in rows.iter_rows() if rows is not None else ():
            named = (texts[token] for token in ids[:_LABELS] if token < len(texts))
            found[layer, feature] = tuple(named)
    return found


def stability(layer: int, feature: int, frames: Mapping[int, pl.DataFrame]) -> str:
    """A feature's stability in the table, and of how long lists; empty if that is not known."""
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


def provenance(
    ready: m.SessionFacts | None, layer: m.LayerFacts | None
) -> Iterator[tuple[str, str]]:
    """Lines on where the numbers come from, each a name and a text."""
    if ready is not None:
        reference = ready.reference
        yield "model", f"{ready.model} ({ready.dtype} on {ready.device})"
        yield (
            "reference",
            f"{reference.samples} x {reference.length} tokens of {reference.origin}, "
            f"{reference.n_tokens} of them count ({reference.sha256[:12]})",
        )
        settings = ready.settings
        yield "settings", f"{settings.convention} convention, final norm {settings.final_norm}"
    if layer is not None:
        yield "dictionary", f"{layer.dictionary} ({layer.sha256[:12]})"
        yield "operators", layer.operators
        for name in _TOLD:
            if name in layer.provenance:
                yield name.replace("_", " "), layer.provenance[name]
