"""Exports: features as CSV, Parquet or JSON lines, with one documented schema.

A row is a feature: marks, explanation, token lists with ids and scores, metrics, and provenance,
so that rows of several files can be combined. All three formats have the columns of
`qlens_tui.export.columns`; `read_export` returns the frame that was written. Parquet and JSON
lines hold text unchanged; CSV holds it as described in `qlens_tui.export.csv_cells`, is UTF-8 and
follows RFC 4180: CRLF between rows, every text quoted.

CSV has no byte order mark by default. pandas and polars read it either way; Python's `csv` reads
the mark as part of the first column's name (`csv.DictReader` with `utf-8` then has no `layer`).
Excel needs the mark to detect UTF-8 on a double click; its Data > From Text/CSV and LibreOffice's
import dialog let you choose UTF-8 without it.

What UTF-8 cannot hold (half a surrogate pair in a token) becomes U+FFFD; the id is in the column
of ids.

Cost, with lists of 25: 50 ms per thousand rows on one core, and 5.7 KB of CSV, 1.6 KB of
Parquet or 6.5 KB of JSON lines per row; in memory twice the rows' numbers (1.7 KB each), and
the strings of some of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lens_core.atlas.files import SCHEMA as ATLAS
from lens_core.errors import DamagedError, StoreError, UsageError, cannot_read, one_line
from lens_core.storage.sealed_parquet import (
    check_place,
    read_about,
    replacing_table,
    write_sealed,
)
from qlens_tui.export.columns import FORMAT, MARKS, OBSERVED, PROVENANCE, SCHEMA, TOKENS
from qlens_tui.export.csv_cells import LISTS, json_text, list_cell, read_cells, text_cells
from qlens_tui.table.column_names import EXPLANATION
from qlens_tui.triage.marks import whole_characters

ENDINGS = (".csv", ".parquet", ".ndjson", ".jsonl")
CELL = 32_767
"""Characters that a cell of Excel or LibreOffice holds."""
_ROWS_AT_A_TIME = 1 << 13
_NAMED = 10  # features named in a warning
_SHORT_LIST = 400  # tokens whose list fits a cell, at 80 characters each


def check_destination(path: Path) -> None:
    """Refuse a path that could not be written, before anything is computed.

    Raises:
        UsageError: the ending is none of `ENDINGS`.
        StoreError: there is no such folder, or no file can be made in it.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(
            f"cannot tell the format of {path}: end its name in .csv, .parquet, or .ndjson "
            "for JSON lines"
        )
    check_place(path)


def export(
    rows: pl.DataFrame,
    path: Path,
    *,
    atlas: pl.DataFrame | pl.LazyFrame,
    marks: pl.DataFrame,
    texts: Sequence[str],
    provenance: Mapping[str, Any],
    explanations: pl.DataFrame | None = None,
    observed: pl.DataFrame | None = None,
    raw: bool = False,
    bom: bool = False,
) -> tuple[str, ...]:
    """Write the features in `rows`, in its order; if this fails `path` is unchanged.

    Returns warnings about what a spreadsheet may do to the file, one line each.

    Args:
        rows: columns `layer` and `feature`; others are ignored.
        atlas: rows of `lens_core.atlas.files.SCHEMA`, at least for these features.
        marks: of `qlens_tui.triage.triage.marks_frame`; features that it lacks have no marks.
        texts: the faces of all token ids.
        provenance: of the atlas (`lens_core.atlas.files.merged_provenance`).
        explanations: layer, feature and explanation (`Explanations.frame`); `None`: there are none.
        observed: layer, feature and `OBSERVED` of those that were steered; `None`: of none.
        raw: do not escape CSV text that a spreadsheet would run as a formula.
        bom: start CSV with a byte order mark.

    Raises:
        UsageError: the ending of `path` is none of `ENDINGS`.
        StoreError: the atlas lacks a feature, or the file cannot be written.
    """
    check_destination(path)
    csv = path.suffix.lower() == ".csv"
    steered = _observed(observed)
    table = _table(rows, atlas, marks, explanations, steered, texts, provenance, csv=csv, raw=raw)
    if path.suffix.lower() == ".parquet":
        write_sealed(table, path, {"kind": "export", "export_schema": FORMAT})
        return ()
    with replacing_table(path) as temporary:
        if csv:
            table.sink_csv(
                temporary, include_bom=bom, quote_style="non_numeric", line_terminator="\r\n"
            )
        else:
            table.sink_ndjson(temporary)
    if not csv:
        return ()
    lists = LISTS if provenance["k"] > _SHORT_LIST else ()
    return _too_long(table, ["note", EXPLANATION, *lists])


def _too_long(cells: pl.LazyFrame, names: Sequence[str]) -> tuple[str, ...]:
    """A warning that names the features with a cell too long for a spreadsheet, if any.

    A spreadsheet counts a character beyond U+FFFF as two.
    """
    beyond = "[\U00010000-\U0010ffff]"
    lengths = (
        pl.col(name).str.len_chars() + pl.col(name).str.count_matches(beyond) for name in names
    )
    longer = [(length > CELL).alias(name) for name, length in zip(names, lengths, strict=True)]
    found = cells.select("layer", "feature", *longer).filter(pl.any_horizontal(names)).collect()
    if found.is_empty():
        return ()
    columns = ", ".join(name for name in names if found[name].any())
    features = [f"{layer}:{feature}" for layer, feature in found[["layer", "feature"]].rows()]
    more = f" and {len(features) - _NAMED:,} more" if len(features) > _NAMED else ""
    return (
        f"a spreadsheet may cut cells of more than {CELL:,} characters: {columns} of "
        f"{', '.join(features[:_NAMED])}{more}",
    )


def read_export(path: Path | str) -> pl.DataFrame:
    """The table that `export` wrote, with the columns and types of `SCHEMA`.

    Raises:
        StoreError: it is missing, damaged, not an export, or of another version of the schema.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".parquet":
            if read_about(path).get("kind") != "export":
                raise DamagedError(f"{path} is not an export of qlens")
            return _checked(pl.read_parquet(path), path)
        if path.suffix.lower() == ".csv":
            return read_cells(_checked(pl.read_csv(path, infer_schema=False), path))
        # An export of no features is an empty file.
        return _checked(pl.read_ndjson(path, schema=dict(SCHEMA)), path)
    except FileNotFoundError:
        raise DamagedError(f"no such file: {path}") from None
    except OSError as error:
        raise cannot_read(error, path) from None
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise DamagedError(f"{path} is not a complete export of qlens: {one_line(error)}") from None


def _checked(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """The table, if it has this version's schema."""
    if "export_schema" not in table.columns:
        raise DamagedError(f"{path} is not an export of qlens: it has no column export_schema")
    versions = table["export_schema"].cast(pl.String)
    if table.columns != list(SCHEMA) or not versions.eq_missing(str(FORMAT)).all():
        raise StoreError(
            f"{path} has other columns than this qlens writes (schema {FORMAT}): export it again"
        )
    return table


def _table(
    rows: pl.DataFrame,
    atlas: pl.DataFrame | pl.LazyFrame,
    marks: pl.DataFrame,
    explanations: pl.DataFrame | None,
    observed: pl.DataFrame,
    texts: Sequence[str],
    provenance: Mapping[str, Any],
    *,
    csv: bool,
    raw: bool,
) -> pl.LazyFrame:
    keys = ["layer", "feature"]
    wanted = rows.lazy().select(pl.col(keys).cast(pl.Int32))
    atlas = atlas.lazy().select(list(ATLAS))
    _demand_rows(wanted, atlas)
    marks = marks.select(pl.col(keys).cast(pl.Int32), *MARKS)
    if explanations is None:
        explanations = pl.DataFrame(schema=dict.fromkeys(keys, pl.Int32) | {EXPLANATION: pl.String})
    explanations = explanations.join(wanted.collect(), on=keys, how="semi")
    about = _provenance(provenance, raw or not csv)
    if csv:
        marks, about = text_cells(marks, raw), text_cells(about, raw)
        explanations = text_cells(explanations, raw)
    # Lists become text one by one; strings are converted before they are repeated.
    strings = pl.Series([(json_text if csv else whole_characters)(text) for text in texts])
    named = [_named(ids, strings).alias(tokens) for ids, tokens in TOKENS.items()]
    blank = {
        "star": False, "reject": False, "label": "",
        "tags": pl.lit([], pl.List(pl.String)), "note": "", EXPLANATION: "",
    }  # fmt: skip
    joined = (
        wanted.join(atlas, on=keys, how="left", maintain_order="left")
        .join(marks.lazy(), on=keys, how="left", maintain_order="left")
        .join(explanations.lazy(), on=keys, how="left", maintain_order="left")
        .join(observed.lazy(), on=keys, how="left", maintain_order="left")
        .join(about.lazy(), on="layer", how="left", maintain_order="left")
        .with_columns(pl.col(name).fill_null(value) for name, value in blank.items())
        .collect()
    )
    cells = list(map(list_cell, LISTS)) if csv else []
    # In parts: polars would create the strings of all rows, ten times the numbers, at once.
    starts = range(0, max(1, joined.height), _ROWS_AT_A_TIME)
    parts = [joined[at : at + _ROWS_AT_A_TIME].lazy().with_columns(named) for at in starts]
    return pl.concat(parts).select(list(SCHEMA)).with_columns(cells)


def _observed(observed: pl.DataFrame | None) -> pl.DataFrame:
    schema: dict[Any, Any] = {"layer": pl.Int32(), "feature": pl.Int32(), **OBSERVED}
    return pl.DataFrame(schema=schema) if observed is None else observed.cast(schema)


def _demand_rows(wanted: pl.LazyFrame, atlas: pl.LazyFrame) -> None:
    keys = ["layer", "feature"]
    missing = wanted.join(atlas.select(keys), on=keys, how="anti").head(1).collect()
    for layer, feature in missing.rows():
        raise StoreError(f"the atlas has no feature {layer}:{feature}: build it with `qlens build`")


def _provenance(provenance: Mapping[str, Any], raw: bool) -> pl.DataFrame:
    """One row per layer."""
    reference = provenance["reference"]
    same = {
        "export_schema": FORMAT,
        "export_raw": raw,
        "reference": reference["origin"],
        **{f"reference_{name}": reference[name] for name in ("sha256", "samples", "length")},
        "qlens_version": provenance["versions"]["qlens"],
    }
    for name in ("model", "operators", "transition", "convention", "final_norm", "k"):
        same[name] = provenance[name]
    rows = [
        {
            "layer": layer["layer"],
            "dictionary": layer["dictionary"],
            "dictionary_sha256": layer["dictionary_sha256"],
            **same,
        }
        for layer in provenance["layers"]
    ]
    whole = [
        {name: whole_characters(v) if isinstance(v, str) else v for name, v in row.items()}
        for row in rows
    ]
    return pl.DataFrame(whole, {"layer": pl.Int32(), **PROVENANCE})


def _named(ids: str, strings: pl.Series) -> pl.Expr:
    # As an expression it would be evaluated again for every list, with all strings.
    token = pl.element().map_batches(strings.gather, pl.String, is_elementwise=True)
    return pl.col(ids).list.eval(token)
