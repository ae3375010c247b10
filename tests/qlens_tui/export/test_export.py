"""Exports are read back unchanged, open in a spreadsheet, and run nothing there."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lens_core.atlas.files import SCHEMA as ATLAS
from lens_core.errors import LensError, StoreError, UsageError
from qlens_tui.export.columns import SCHEMA
from qlens_tui.export.write import CELL, ENDINGS, export, read_export
from qlens_tui.triage.marks import whole_characters
from qlens_tui.triage.triage import marks_frame
from tests.prepared import prepared
from tests.qlens_tui.workplace import HOSTILE

K = 4
VOCABULARY = (
    *HOSTILE, "\0", "a\0b", "\x9b31m", "\x85", "\u2028", "\u202e\u2066", "👩\u200d🔬",
    "日本", "\ue000", "[/", "[/bold]",
    "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1", " dry",
    "x" * 300, '"', "'", "'=1", ",", ";", "\\", "\\n", "\\x1b", "\\\x1b", '["', "null", "", "NaN",
    "\ud800", "\udfff!", "\ud83d\ude00", "<id 7>",
)  # fmt: skip
# Mirrors lens_core.atlas.atlas: what `merged_provenance` gives.
PROVENANCE: dict[str, Any] = {
    "model": "=model\ud800\x1b",
    "reference": {"samples": 16, "length": 32, "sha256": "c" * 64, "origin": "bundled"},
    "operators": "d" * 64,
    "transition": "full",
    "convention": "paper",
    "final_norm": "apply",
    "k": K,
    "versions": {"qlens": "0.1.0"},
    "layers": [
        {"layer": 8, "dictionary": "-sae\n8", "dictionary_sha256": "a" * 64},
        {"layer": 9, "dictionary": "sae 9", "dictionary_sha256": "b" * 64},
    ],
}
FIRST_COLUMNS = (
    "layer", "feature", "star", "reject", "label", "tags", "note", "explanation", "silent",
    "density",
)  # fmt: skip
LAST_COLUMNS = (
    "export_schema", "export_raw", "model", "dictionary", "dictionary_sha256", "reference",
    "reference_sha256", "reference_samples", "reference_length", "operators", "transition",
    "convention", "final_norm", "k", "qlens_version",
)  # fmt: skip
ANYTHING = st.text(
    st.characters(exclude_categories=[])
    | st.sampled_from("\\xuU01bn'\"=+-@,;\t\r\n \0\x1b\x7f\x9b\u202e\u2066\u200d\ud800＝")
)
no_marks = marks_frame(None, {})


def _atlas(features: int, vocabulary: int, layers: Sequence[int] = (8, 9)) -> pl.DataFrame:
    """Rows with every token of a vocabulary, and numbers that are easily changed."""
    floats = [0.1, 1 / 3, 1e-30, -3.4e38, 16_777_217.0, None, 0.0]

    def value(name: str, dtype: Any, at: int) -> Any:
        if dtype == pl.Int32:
            return at
        if dtype == pl.Boolean:
            return at % 2 == 0
        if dtype == pl.Float32:
            return floats[(at + len(name)) % len(floats)]
        size = 0 if name.startswith("context") and at % 3 == 0 else K
        if dtype == pl.List(pl.Float32):
            return [floats[(at + j) % 5] for j in range(size)]
        return [(at * K + j + len(name)) % vocabulary for j in range(size)]

    rows = [
        {name: value(name, dtype, feature) for name, dtype in ATLAS.items()} | {"layer": layer}
        for layer in layers
        for feature in range(features)
    ]
    return pl.DataFrame(rows, dict(ATLAS))


def _rows(*features: tuple[int, int]) -> pl.DataFrame:
    return pl.DataFrame(features, {"layer": pl.Int32, "feature": pl.Int32}, orient="row")


def _marks(*rows: tuple[int, int, bool, bool, str, list[str], str]) -> pl.DataFrame:
    return pl.DataFrame(rows, no_marks.schema, orient="row")


def _written(
    path: Path,
    *,
    rows: pl.DataFrame | None = None,
    marks: pl.DataFrame = no_marks,
    texts: Sequence[str] = VOCABULARY,
    explanations: pl.DataFrame | None = None,
    observed: pl.DataFrame | None = None,
    raw: bool = False,
    bom: bool = False,
) -> Path:
    atlas = _atlas(len(VOCABULARY), len(texts))
    every = atlas.select("layer", "feature") if rows is None else rows
    export(
        every, path, atlas=atlas, marks=marks, explanations=explanations, observed=observed,
        texts=texts, provenance=PROVENANCE, raw=raw, bom=bom,
    )  # fmt: skip
    return path


HOSTILE_MARKS = _marks(
    *((8, at, at % 2 == 0, True, text, ["b c", '"q"'], text) for at, text in enumerate(
        ["=cmd|' /C calc'!A0", "'=1", "''=1", "@x", "-\x1b", "\t1", "a\nb\r", "\\x1b", "\\\\\x1b",
         "\\u202e \u202e \\", 'say "hi", twice', "\ufeff", " =1", "日本 👩\u200d🔬", "\x9b2J", "\0"]
    )),
)  # fmt: skip


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("raw", [False, True])
def test_an_export_reads_back_as_the_rows_that_were_asked_for(
    tmp_path: Path, ending: str, raw: bool
) -> None:
    said = HOSTILE_MARKS.select("layer", "feature", explanation="label")
    steered = pl.DataFrame(
        {"layer": [9, 8], "feature": [2, 1], "fidelity": [0.25, 0.5], "fidelity_share": [None, 1.0]}
    )
    written = _written(
        tmp_path / f"x{ending}", marks=HOSTILE_MARKS, explanations=said[1:], observed=steered,
        raw=raw,
    )  # fmt: skip
    found = read_export(written)

    atlas = _atlas(len(VOCABULARY), len(VOCABULARY))
    assert dict(found.schema) == dict(SCHEMA)
    assert found.select(atlas.columns).equals(atlas)
    marked = found.filter("reject")
    assert marked.select(HOSTILE_MARKS.columns).equals(HOSTILE_MARKS)
    assert found["explanation"].to_list()[: said.height] == ["", *said["explanation"][1:]]
    assert set(found["explanation"][said.height :]) == {""}
    numbers = found.filter(pl.col("fidelity").is_not_null()).sort("fidelity")
    assert numbers.select(steered.columns).rows() == steered.rows()
    assert found["fidelity_share"].drop_nulls().to_list() == [1.0]
    unmarked = found.filter(~pl.col("reject"))
    assert unmarked["note"].unique().to_list() == unmarked["label"].unique().to_list() == [""]
    whole = [whole_characters(text) for text in VOCABULARY]
    for name in (name for name in SCHEMA if name.endswith("_tokens")):
        ids = found[name.replace("_tokens", "_ids")].to_list()
        assert found[name].to_list() == [[whole[i] for i in row] for row in ids]
    first, last = found.row(0, named=True), found.row(-1, named=True)
    assert (first["model"], first["dictionary"]) == ("=model\ufffd\x1b", "-sae\n8")
    assert (last["dictionary"], last["dictionary_sha256"]) == ("sae 9", "b" * 64)
    assert first["export_raw"] == (raw or ending != ".csv")


def test_the_columns_are_those_of_this_version_of_the_schema() -> None:
    names = tuple(SCHEMA)

    assert names[: len(FIRST_COLUMNS)] == FIRST_COLUMNS
    assert names[-len(LAST_COLUMNS) :] == LAST_COLUMNS
    for side in ("value", "key"):
        for lens in ("logit", "query", "first_order"):
            at = names.index(f"{side}_{lens}_ids")
            found = [name.removeprefix(f"{side}_{lens}_") for name in names[at : at + 3]]
            assert found == ["ids", "tokens", "scores"]
    assert set(ATLAS) < set(names)


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_stay_in_the_order_on_screen(tmp_path: Path, ending: str) -> None:
    asked = [(9, 3), (8, 7), (8, 3), (9, 0)]

    found = read_export(_written(tmp_path / f"x{ending}", rows=_rows(*asked)))

    assert found.select("layer", "feature").rows() == asked


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".ndjson"])
def test_many_rows_stay_in_their_order_too(tmp_path: Path, ending: str) -> None:
    asked = [(8 + at % 2, at * 7 % 19) for at in range(20_000)]

    found = read_export(_written(tmp_path / f"x{ending}", rows=_rows(*asked)))

    assert found.select("layer", "feature").rows() == asked
    tokens = found["value_logit_tokens"].to_list()
    ids = found["value_logit_ids"].to_list()
    assert tokens == [[whole_characters(VOCABULARY[i]) for i in row] for row in ids]


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_rows_are_a_table_too(tmp_path: Path, ending: str) -> None:
    found = read_export(_written(tmp_path / f"x{ending}", rows=_rows()))

    assert found.height == 0
    assert dict(found.schema) == dict(SCHEMA)


def _cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_a_csv_opens_as_a_spreadsheet_expects(tmp_path: Path) -> None:
    path = _written(tmp_path / "x.csv", marks=HOSTILE_MARKS)
    content = path.read_bytes()

    assert content.startswith(b'"layer","feature"')
    assert content.endswith(b"\r\n")
    rows = _cells(path)
    assert len(rows) == 2 * len(VOCABULARY)
    assert {len(row) for row in rows} == {len(SCHEMA)}
    # Numbers are numbers: neither quoted nor with an apostrophe.
    line = content.split(b"\r\n")[1]
    assert line.startswith(b'8,0,"true","true",')
    assert min(float(row["value_gain"]) for row in rows if row["value_gain"]) < -1e38
    assert json.loads(rows[0]["tags"]) == ["b c", '"q"']


def test_every_reader_finds_the_columns_with_a_byte_order_mark_or_without(tmp_path: Path) -> None:
    plain, marked = tmp_path / "plain.csv", tmp_path / "marked.csv"
    _written(plain, marks=HOSTILE_MARKS)
    _written(marked, marks=HOSTILE_MARKS, bom=True)

    assert marked.read_bytes() == b"\xef\xbb\xbf" + plain.read_bytes()
    assert list(csv.DictReader(plain.open(encoding="utf-8")).fieldnames or ()) == list(SCHEMA)
    for path in (plain, marked):  # a mark is what every CSV of an older version begins with
        assert pl.read_csv(path).columns == list(SCHEMA)
        assert read_export(path).equals(read_export(plain))


def test_what_a_spreadsheet_cuts_is_said_in_one_line_that_names_the_features(
    tmp_path: Path,
) -> None:
    fits, longer = "x" * CELL, "x" * (CELL - 1) + "\U0001f389"
    marks = _marks(
        *((8, at, True, False, "", [], longer if at else fits) for at in range(len(VOCABULARY))),
        (9, 0, True, False, "", [], "=" + fits[:-1]),  # and the apostrophe
    )
    atlas = _atlas(len(VOCABULARY), len(VOCABULARY))
    more = {"atlas": atlas, "texts": VOCABULARY, "provenance": PROVENANCE}

    for ending, rows, expected in (
        (".csv", [(8, 0)], []),
        (".csv", [(8, 0), (9, 0), (8, 3)], ["note of 9:0, 8:3"]),
        (".parquet", [(8, 3)], []),
        (".csv", [(8, at) for at in range(12)], ["note of 8:1, 8:2, ", "8:10 and 1 more"]),
    ):
        path = tmp_path / f"x{ending}"
        warnings = export(_rows(*rows), path, marks=marks, **more)
        assert len(warnings) == bool(expected)
        assert all(part in line for line in warnings for part in expected)
        notes = dict(marks.filter(layer=8)["feature", "note"].rows())
        found = read_export(path).filter(layer=8)
        assert found["note"].to_list() == [notes[at] for at in found["feature"]]


def test_lists_that_a_spreadsheet_cuts_are_said_too(tmp_path: Path) -> None:
    long = 6000
    atlas = _atlas(2, 3, (8,)).with_columns(
        pl.lit([1] * long, pl.List(pl.Int32)).alias("key_query_ids"),
        pl.lit([0.125] * long, pl.List(pl.Float32)).alias("key_query_scores"),
    )
    warnings = export(
        _rows((8, 1)), tmp_path / "x.csv", atlas=atlas, marks=no_marks, texts=["a", "b" * 9, "c"],
        provenance=PROVENANCE | {"k": long},
    )  # fmt: skip
    (line,) = warnings
    assert line.endswith("key_query_tokens, key_query_scores of 8:1")


def test_nothing_in_a_csv_drives_a_terminal_or_ends_a_string(tmp_path: Path) -> None:
    for raw in (False, True):
        text = _written(tmp_path / "x.csv", marks=HOSTILE_MARKS, raw=raw).read_text("utf-8")
        assert {c for c in text if not c.isprintable()} <= {"\n", "\t", "\r"}
        assert text.count("\r") == text.count("\r\n")


def _runs(cell: str) -> bool:
    return cell.lstrip(" ")[:1] in tuple("=+-@＝＋－＠") or cell[:1] in tuple("\t\r\n")


def test_no_text_in_a_csv_is_a_formula_unless_raw_is_asked_for(tmp_path: Path) -> None:
    texts = [name for name, dtype in SCHEMA.items() if dtype == pl.String or "List" in str(dtype)]

    for row in _cells(_written(tmp_path / "x.csv", marks=HOSTILE_MARKS)):
        assert not [name for name in texts if row[name] and _runs(row[name])]
    raw = _cells(_written(tmp_path / "x.csv", marks=HOSTILE_MARKS, raw=True))
    assert raw[0]["note"] == raw[0]["label"] == "=cmd|' /C calc'!A0"


def test_any_token_and_any_note_survive_a_csv(tmp_path: Path) -> None:
    atlas = _atlas(1, 2, (8,))

    @given(st.tuples(ANYTHING, ANYTHING), ANYTHING, st.booleans())
    @example(("\\\\x41", "\\"), "\\\x1b\\x1b", False)
    @example(("'", "\n"), "''=", True)
    @settings(max_examples=30, deadline=None)
    def survive(tokens: tuple[str, str], note: str, raw: bool) -> None:
        note = whole_characters(note)
        marks = _marks((8, 0, True, False, note, [], note))
        path = tmp_path / "x.csv"
        export(
            _rows((8, 0)), path, atlas=atlas, marks=marks, texts=tokens,
            provenance=PROVENANCE, raw=raw,
        )  # fmt: skip
        (found,) = read_export(path).to_dicts()

        assert found["note"] == found["label"] == note
        ids = found["value_query_ids"]
        assert found["value_query_tokens"] == [whole_characters(tokens[i]) for i in ids]
        (cells,) = _cells(path)
        assert json.loads(cells["value_query_tokens"]) == found["value_query_tokens"]

    survive()


def test_json_lines_are_one_document_a_line_with_the_tokens_as_they_are(tmp_path: Path) -> None:
    lines = _written(tmp_path / "x.ndjson").read_text("utf-8").split("\n")

    first = json.loads(lines[0])
    assert list(first) == list(SCHEMA)
    tokens = [whole_characters(VOCABULARY[i]) for i in first["key_logit_ids"]]
    assert first["key_logit_tokens"] == tokens


def test_a_feature_that_the_atlas_lacks_is_named_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("mine")

    with pytest.raises(StoreError, match="no feature 8:9999") as error:
        _written(path, rows=_rows((8, 1), (8, 9999)))

    assert "\n" not in str(error.value)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    """A limit on the size of files, in place of a full disk."""
    program = """
import resource, signal, sys
from pathlib import Path
from tests.qlens_tui.export.test_export import _written
from lens_core.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for path in sys.argv[1:]:
    try:
        _written(Path(path))
    except StoreError as error:
        print(error)
"""
    paths = [tmp_path / f"x{ending}" for ending in (".csv", ".parquet", ".ndjson")]
    for path in paths:
        path.write_text("mine")

    done = subprocess.run(prepared(program, *map(str, paths)), capture_output=True, text=True)

    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"cannot write {path}: ")
        assert path.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("x.xlsx", UsageError, "end its name in .csv"),
        ("x", UsageError, "end its name in .csv"),
        ("none/x.csv", StoreError, "there is no directory"),
        ("folder.csv", StoreError, "it is a directory"),
        ("x" * 300 + ".csv", StoreError, "File name too long"),
    ],
)
def test_a_destination_that_cannot_be_is_one_line(
    tmp_path: Path, name: str, error: type[LensError], said: str
) -> None:
    (tmp_path / "folder.csv").mkdir()

    with pytest.raises(error) as raised:
        _written(tmp_path / name)

    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b'{"a": 1}\n', b"\xff\xfe\0", None])
def test_what_is_no_export_is_refused_in_one_line(
    tmp_path: Path, ending: str, content: bytes | None
) -> None:
    path = tmp_path / f"x{ending}"
    if content == b"" and ending in (".ndjson", ".jsonl"):
        pytest.skip("JSON lines without a row")
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(StoreError) as raised:
        read_export(path)

    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ending", [".csv", ".ndjson"])
def test_another_version_of_the_schema_is_refused(tmp_path: Path, ending: str) -> None:
    path = _written(tmp_path / f"x{ending}", rows=_rows((8, 1)))
    content = path.read_bytes()
    old = {".csv": (b',4,"false",', b',3,"false",'), ".ndjson": (b'_schema":4', b'_schema":3')}
    path.write_bytes(content.replace(*old[ending]))
    assert path.read_bytes() != content

    with pytest.raises(StoreError, match="export it again"):
        read_export(path)
