"""The frames for the table: a layer's atlas, or rows without columns if there is none.

Reading an atlas verifies it (some tenths of a second for a layer of 100,000 features); call it
off the UI thread. polars is imported here, so that the app can paint before importing it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from lens_core.atlas.files import SCHEMA, find_layer
from lens_core.errors import LensError
from lens_core.lenses import LENSES, LOGIT, QUERY, Lens
from lens_core.signature import NO_DIRECTION, Lists, SideSignature, Signature, TokenList
from lens_core.terms import MEASURES, OperatorSource, Settings, Side
from qlens_tui.table.known_layer import KnownLayer


def layer_frame(known: KnownLayer) -> pl.DataFrame:
    """The rows of a layer: its atlas, or only layer and feature without one."""
    frame = atlas_rows(known)
    if frame is not None:
        return frame
    features = pl.int_range(known.n_features, dtype=pl.Int32, eager=True).alias("feature")
    layer = pl.lit(known.layer, pl.Int32).alias("layer")
    return features.to_frame().select(layer, features)


def atlas_rows(
    known: KnownLayer, columns: Sequence[str] | None = None, features: Sequence[int] | None = None
) -> pl.DataFrame | None:
    """A layer's atlas, or some columns of some features; `None` for a layer without one.

    A damaged or incomplete atlas counts as none: the engine makes it again.
    """
    if known.atlas is None:
        return None
    directory = Path(known.atlas)
    try:
        found = find_layer(directory.parent.parent, directory.name)
        if found is None or found.scan().collect_schema() != pl.Schema(SCHEMA):
            return None
        rows = found.scan()
        if features is not None:
            rows = rows.filter(pl.col("feature").is_in(list(features)))
        # Slicing looks into every chunk, of which there is one per piece.
        frame = rows.select(columns or pl.all()).collect().rechunk()
    except (LensError, pl.exceptions.PolarsError, OSError):
        return None
    whole = len(set(features)) if features is not None else known.n_features
    return frame if frame.height == whole else None


def together(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """The rows of several layers, with blank columns for a layer without an atlas."""
    found = list(frames)
    if not found:
        return pl.DataFrame(schema={"layer": pl.Int32, "feature": pl.Int32})
    return pl.concat(found, how="diagonal") if len(found) > 1 else found[0]


def signature_of(
    row: Mapping[str, object],
    texts: Sequence[str] | None,
    *,
    n_tokens: int,
    operators: OperatorSource,
) -> Signature | None:
    """A feature's top lists from its atlas row; `None` for a row without lists."""
    if "value_query_ids" not in row or row["value_norm"] is None:
        return None

    def text(token: int) -> str:
        return texts[token] if texts is not None and token < len(texts) else f"#{token}"

    def tokens(side: Side, lens: Lens) -> TokenList:
        name = f"{side}_{lens.column}"
        if row[f"{name}_ids"] is None:
            reason = NO_DIRECTION if not row[f"{side}_norm"] else f"{lens.title} has no list here"
            return TokenList(lens.readouts[side], "", (), (), (), None, (), reason)
        ids = tuple(_list(row[f"{name}_ids"]))
        scores = tuple(_list(row[f"{name}_scores"]))
        length = float(row[f"{side}_norm" if lens is LOGIT else f"{name}_norm"] or 0)  # type: ignore[arg-type]
        unit = None
        measure = MEASURES[lens.readouts[side]]
        if measure != "score":
            unit = tuple(score / length for score in scores)
        moved = tuple(_list(row[f"{side}_query_moved"])) if lens is QUERY else ()
        return TokenList(
            lens.readouts[side], measure, ids, tuple(map(text, ids)), scores, unit, moved
        )

    def one_side(side: Side) -> SideSignature:
        stability = row[f"{side}_stability"]
        return SideSignature(
            top=Lists({lens.name: tokens(side, lens) for lens in LENSES if side in lens.readouts}),
            bottom=None,
            norm=float(row[f"{side}_norm"] or 0),  # type: ignore[arg-type]
            transported_norm=float(row[f"{side}_query_norm"] or 0),  # type: ignore[arg-type]
            stability=None if stability is None else float(stability),  # type: ignore[arg-type]
            relative_variance=None,
            n_tokens=n_tokens,
            operators=operators,
        )

    return Signature(
        layer=int(row["layer"]),  # type: ignore[call-overload]
        feature=int(row["feature"]),  # type: ignore[call-overload]
        method="operator",
        operators=operators,
        settings=Settings(),
        n_tokens=n_tokens,
        value=one_side("value"),
        key=one_side("key"),
    )


def _list(value: object) -> list:  # type: ignore[type-arg]
    return [] if value is None else list(value)  # type: ignore[call-overload]
