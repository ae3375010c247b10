r"""An export's text in the cells of a CSV file, and back.

Spreadsheets also read CSV, so text in it is made visible and harmless:

- A list is JSON text in a cell, with invisible characters as `\u001b`.
- In other text, invisible characters (except newline and tab) become `\x1b`, `\u202e` or
  `\U000e0041`; backslashes in front of these, or of text that looks like them, are doubled.
- Text that a spreadsheet would run as a formula gets an apostrophe in front, unless `raw`;
  `export_raw` records which. Numbers are never changed.

`read_cells` returns exactly what was written.
"""

from __future__ import annotations

import json
import re

import polars as pl

from qlens_tui.export.columns import SCHEMA
from qlens_tui.text import neutralise_formula
from qlens_tui.triage.marks import whole_characters

_TEXTS = [name for name, dtype in SCHEMA.items() if dtype == pl.String]
LISTS = [name for name, dtype in SCHEMA.items() if isinstance(dtype, pl.List)]
"""The columns of lists."""
_READS_LIKE_ESCAPE = "x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}"
_HIDDEN = re.compile(rf"(\\*)({_READS_LIKE_ESCAPE}|[^\n\t -~])")
_ESCAPE = re.compile(rf"(\\+)({_READS_LIKE_ESCAPE})")


def text_cells(frame: pl.DataFrame, raw: bool) -> pl.DataFrame:
    """The frame with its texts as CSV cells, and each of its tags as JSON."""

    def each(name: str) -> pl.Series:
        cells = [_cell(text, raw) for text in frame[name]]
        return pl.Series(name, cells, pl.String)

    texts = [each(name) for name in frame.columns if name in _TEXTS]
    tags = [[json_text(tag) for tag in row] for row in frame["tags"]] if "tags" in frame else []
    if "tags" in frame:
        texts.append(pl.Series("tags", tags, pl.List(pl.String)))
    return frame.with_columns(texts)


def list_cell(name: str) -> pl.Expr:
    """A column of lists as JSON text; strings in them are JSON already (`json_text`)."""
    item = pl.element()
    if SCHEMA[name] == pl.List(pl.Float32):
        item = pl.when(item.is_finite()).then(item)
    text = item.cast(pl.String).fill_null("null")
    return pl.format("[{}]", pl.col(name).list.eval(text).list.join(",")).alias(name)


def json_text(text: str) -> str:
    """A JSON string without invisible characters."""
    quoted = json.dumps(whole_characters(text), ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in quoted)


def read_cells(table: pl.DataFrame) -> pl.DataFrame:
    """The table in a CSV file, from its cells as text."""
    raw = table["export_raw"].str.to_lowercase() == "true"
    columns = []
    for name, dtype in SCHEMA.items():
        cells = table[name]
        if name in _TEXTS:
            pairs = zip(cells.fill_null(""), raw, strict=True)
            columns.append(pl.Series(name, [_text_of_cell(*pair) for pair in pairs], dtype))
        elif dtype == pl.Boolean:
            columns.append(cells.str.to_lowercase() == "true")
        elif isinstance(dtype, pl.List):
            columns.append(cells.str.json_decode(dtype))
        else:
            columns.append(cells.cast(dtype))
    return pl.DataFrame(columns)


def _cell(text: str, raw: bool) -> str:
    escaped = _HIDDEN.sub(_escaped, text)
    return f"'{escaped}" if not raw and _runs(escaped.lstrip("'")) else escaped


def _text_of_cell(cell: str, raw: bool) -> str:
    escaped = cell[1:] if not raw and cell[:1] == "'" and _runs(cell.lstrip("'")) else cell
    return _ESCAPE.sub(_unescaped, escaped)


def _runs(text: str) -> bool:
    """Whether a spreadsheet would treat it as a formula."""
    return neutralise_formula(text) != text


def _escaped(found: re.Match[str]) -> str:
    slashes, text = found[1] * 2, found[2]
    if len(text) > 1:
        return slashes + text
    if text.isprintable():
        return found[0]
    code = ord(text)
    if code < 0x80:
        return f"{slashes}\\x{code:02x}"
    return f"{slashes}\\u{code:04x}" if code < 0x10000 else f"{slashes}\\U{code:08x}"


def _unescaped(found: re.Match[str]) -> str:
    slashes, escape = found[1], found[2]
    kept = "\\" * (len(slashes) // 2)
    return kept + (chr(int(escape[1:], 16)) if len(slashes) % 2 else escape)
