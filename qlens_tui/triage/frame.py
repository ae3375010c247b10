"""The marks of several layers as a table, to be joined to what is known of features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from qlens_tui.triage.triage import Triage


def marks_frame(triage: Triage | None, dictionaries: Mapping[int, str]) -> pl.DataFrame:
    """The marked features of several layers, to be joined on `layer` and `feature`.

    `dictionaries` is the sha256 of each layer's. Columns: layer, feature, star, reject, tags
    (a list in alphabetical order), note; never null. No `triage`: no rows.

    Raises:
        StoreError: marks cannot be read, or are damaged.
    """
    schema: dict[str, Any] = {
        "feature": pl.Int32, "star": pl.Boolean, "reject": pl.Boolean,
        "tags": pl.List(pl.String), "note": pl.String,
    }  # fmt: skip
    frames = [pl.DataFrame(schema={"layer": pl.Int32, **schema})]
    if triage is not None:
        for layer, sha256 in dictionaries.items():
            rows = pl.DataFrame(triage.columns(sha256), schema)
            frames.append(rows.insert_column(0, pl.lit(layer, pl.Int32).alias("layer")))
    return pl.concat(frames)
