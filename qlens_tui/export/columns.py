"""The columns of an export, the same in CSV, Parquet and JSON lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from lens_core.atlas.files import SCHEMA as ATLAS
from qlens_tui.table.column_names import EXPLANATION

FORMAT = 4

MARKS: Mapping[str, Any] = {
    "star": pl.Boolean(), "reject": pl.Boolean(), "label": pl.String(),
    "tags": pl.List(pl.String), "note": pl.String(),
}  # fmt: skip
TOKENS: Mapping[str, str] = {
    name: name.removesuffix("_ids") + "_tokens" for name in ATLAS if name.endswith("_ids")
}
OBSERVED: Mapping[str, Any] = {"fidelity": pl.Float32(), "fidelity_share": pl.Float32()}
PROVENANCE: Mapping[str, Any] = {
    "export_schema": pl.Int32(), "export_raw": pl.Boolean(),
    "model": pl.String(), "dictionary": pl.String(), "dictionary_sha256": pl.String(),
    "reference": pl.String(), "reference_sha256": pl.String(),
    "reference_samples": pl.Int32(), "reference_length": pl.Int32(),
    "operators": pl.String(), "transition": pl.String(), "convention": pl.String(),
    "final_norm": pl.String(), "k": pl.Int32(), "qlens_version": pl.String(),
}  # fmt: skip


def _columns() -> dict[str, Any]:
    columns: dict[str, Any] = {name: pl.Int32() for name in ("layer", "feature")} | dict(MARKS)
    columns[EXPLANATION] = pl.String()
    for name, dtype in ATLAS.items():
        columns[name] = dtype() if isinstance(dtype, type) else dtype
        if name in TOKENS:
            columns[TOKENS[name]] = pl.List(pl.String)
    return columns | dict(OBSERVED) | dict(PROVENANCE)


SCHEMA: Mapping[str, Any] = _columns()
"""Names and types of the columns, in order. Changing them needs a new `FORMAT`.

`layer`, `feature`; `star`, `reject`, `label` ("" if none), `tags` (in alphabetical order),
`note` ("" if none), never null; `explanation`, what others say (`qlens_tui.table.explanations`; ""
if nothing); the columns of `lens_core.atlas.files.SCHEMA`, explained there,
each list of ids followed by the strings of its tokens; `fidelity`, the part of the tokens that rise
most when the feature is set to a strength (docs/evidence.md) which are in Query Lens's value list,
and `fidelity_share`, the same as a part of its ceiling: null where the feature was not steered
before, or the app wrote the file, which does not ask; then what is the same for all features of a
layer:
`export_schema` (`FORMAT`), `export_raw`, the model's and the dictionary's names, content
(sha256) of dictionary, reference and operators, size and origin of the reference, settings,
tokens per list, and the version of qlens.
"""
