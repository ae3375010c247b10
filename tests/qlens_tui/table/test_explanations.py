"""Files of explanations: every format, every kind of damage, and whose they are."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lens_core.errors import LensError, UsageError
from qlens_tui.table.explanation_files import Found, read_explanations
from qlens_tui.table.explanations import Explanations
from qlens_tui.table.known_layer import KnownLayer

PLAIN = [(8, 5, "change, changed"), (9, 0, "begins\nhere"), (8, 6, 'says "so", twice')]
NAMED = KnownLayer(8, "s8", "sae 8", 100, neuronpedia="gpt2-small/8-res-jb")
NAMELESS = KnownLayer(8, "s8", "sae 8", 100)


def neuronpedia(feature: int, text: str, *, model: str = "gpt2-small", source: str = "8-res-jb"):
    return {
        "modelId": model, "layer": source, "index": str(feature), "description": text,
        "explanationModelName": "gpt-4o-mini", "typeName": "oai_token-act-pair",
        "embedding": [0.1, -0.2],
    }  # fmt: skip


def json_lines(records: list[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def plain_records() -> list[dict[str, Any]]:
    return [dict(zip(("layer", "feature", "text"), row, strict=True)) for row in PLAIN]


def in_csv(names: tuple[str, ...] = ("layer", "feature", "text"), rows: Any = PLAIN) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *rows])
    return text.getvalue().encode()


def found(tmp_path: Path, content: bytes, name: str = "said.jsonl") -> Found:
    file = tmp_path / name
    file.write_bytes(content)
    return read_explanations(file)


def rows(read: Found) -> list[tuple[Any, ...]]:
    return read.records.select("layer", "feature", "text").rows()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("said.jsonl", json_lines(plain_records())),
        ("said.txt", b"\xef\xbb\xbf" + json_lines(plain_records()).replace(b"\n", b"\r\n\r\n")),
        ("said.json", json.dumps(plain_records(), indent=2).encode()),
        ("said.csv", in_csv()),
        ("said.CSV", b"\xef\xbb\xbf" + in_csv(("layer", "index", "description"))),
        ("said.csv.gz", gzip.compress(in_csv(("layer", "feature", "explanation")))),
        ("said.ndjson.gz", gzip.compress(json_lines(plain_records()).rstrip())),
    ],
)
def test_every_format_says_the_same(tmp_path: Path, name: str, content: bytes) -> None:
    read = found(tmp_path, content, name)

    assert rows(read) == PLAIN
    assert (read.refused, read.why) == (0, "")
    assert read.records["source"].to_list() == ["", "", ""]


def test_a_download_of_neuronpedia_is_read_as_it_is(tmp_path: Path) -> None:
    for source in ("8-res-jb", "9-res-jb"):
        folder = tmp_path / "v1" / source
        folder.mkdir(parents=True)
        for batch in (0, 1):
            records = [neuronpedia(10 * batch + at, f"{source} {at}", source=source)
                       for at in (0, 1)]  # fmt: skip
            (folder / f"batch-{batch}.jsonl.gz").write_bytes(gzip.compress(json_lines(records)))
        (folder / "index.html").write_text("<html>")

    read = read_explanations(tmp_path / "v1")

    assert read.refused == 0
    assert len(rows(read)) == 8
    assert rows(read)[2] == (8, 10, "8-res-jb 0")
    assert set(read.records["source"]) == {"gpt2-small/8-res-jb", "gpt2-small/9-res-jb"}


RECORD = st.fixed_dictionaries(
    {
        "layer": st.integers(0, 12) | st.sampled_from(["8", "8-res-jb", "x", "", None, 8.5, [8]]),
        "feature": st.integers(0, 200) | st.sampled_from(["7", "-1", None, True, 1 << 40]),
        "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        | st.sampled_from(["\x1b[31m", " \u202e ", "[bold]", None]),
    }
)
# What Unicode calls white space; Python adds four control characters.
WHITE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and c not in "\x1c\x1d\x1e\x1f")
LINE = RECORD.map(lambda record: json.dumps(record).encode()) | st.sampled_from(
    [b"", b"  ", b"{", b"oops", b"5", b"[]", b'{"layer": 8', b"\xff\xfe{}", b"{}", b"\x00", b'"']
)


def as_number(value: Any, most: int) -> int | None:
    """A whole number as a person would read it from JSON."""
    text = value if isinstance(value, str) else json.dumps(value)
    digits = text.partition("-")[0] if most == 4 and "-" in text[1:] else text
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= most else None


@given(st.lists(LINE, max_size=12))
@example([b'{"layer": 8, "feature": 1, "text": "a"}', b"{", b"oops", b"5"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_good_lines_are_read_and_the_others_counted_whatever_stands_beside_them(
    tmp_path: Path, lines: list[bytes]
) -> None:
    wanted, refused, first = [], 0, 0
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else {}
        except ValueError:
            record = None
        if isinstance(record, dict) and (layer := as_number(record.get("layer"), 4)) is not None:
            feature = as_number(record.get("feature"), 9)
            text = (record.get("text") or "").strip(WHITE)
            if feature is not None and text:
                wanted.append((layer, feature, text))
                continue
        if line.strip():
            refused, first = refused + 1, first or number
    content = b"\n".join(lines)
    if content.lstrip().startswith((b"[", b"\xff\xfe")):
        return  # a list, or UTF-16, as a whole

    try:
        read = found(tmp_path, content)
    except UsageError:
        assert not wanted
        return

    assert rows(read) == wanted
    assert read.refused == refused
    assert not refused or read.why.startswith("line ")


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n",'), min_size=1)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), CELL), min_size=1, max_size=6))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_survives_csv(tmp_path: Path, said: list[tuple[int, int, str]]) -> None:
    stripped = ((layer, number, text.strip(WHITE)) for layer, number, text in said)
    wanted = [row for row in stripped if row[2]]
    if not wanted:
        return

    read = found(tmp_path, in_csv(rows=said), "said.csv")

    # A line break in a text is the same in every file; blank lines are left out.
    assert [(a, b, text.split()) for a, b, text in rows(read)] == [
        (a, b, text.split()) for a, b, text in wanted
    ]


def test_damaged_rows_of_csv_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    content = in_csv() + b'8,7\n8,8,"caf\xe9"\n8,9,"a"b\n8,x,no number\n8,10,good\n'

    read = found(tmp_path, content, "said.csv")

    assert rows(read) == [*PLAIN, (8, 10, "good")]
    assert read.refused == 4
    assert read.why.startswith("line 6 of said.csv has 2 cells, the head 3")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("said.jsonl", b"", "holds no explanations: it is empty"),
        ("said.jsonl", b"\n \n", "holds no explanations: it is empty"),
        ("said.csv", b"", "holds no explanations: it is empty"),
        ("said.jsonl", json.dumps(PLAIN[0]).encode(), "is not valid JSON|is not a JSON record"),
        ("said.jsonl", "{}".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        ("said.bin", bytes(range(256)) * 40, "line 1 of said.bin is not a JSON record"),
        ("said.jsonl", b"x" * (1 << 25), "has a line of more than 16 MiB"),
        ("said.csv", b"a,b\n1,2\n", "has no column layer"),
        ("said.csv", b"layer,feature\n1,2\n", "line 2 of said.csv has no text"),
        ("said.json", b"[{", "begins as a JSON list, but is not valid JSON"),
        ("said.gz", gzip.compress(b"", mtime=0), "it is empty"),
    ],
)
def test_a_file_without_explanations_is_one_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        found(tmp_path, content, name)

    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_no_file_a_device_and_a_folder_without_any_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("none here")
    for path, said in [
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path, "has no file of explanations"),
        (Path("/dev/zero"), "is not a regular file"),
    ]:
        with pytest.raises(LensError, match=said):
            read_explanations(path)


def test_what_was_read_before_compressed_data_ends_is_kept(tmp_path: Path) -> None:
    records = [neuronpedia(at, f"text {at * 7919}") for at in range(100)]

    read = found(tmp_path, gzip.compress(json_lines(records))[:-5], "batch-0.jsonl.gz")

    assert rows(read)[:2] == [(8, 0, "text 0"), (8, 1, "text 7919")]
    assert "batch-0.jsonl.gz ends early" in read.why


def test_a_file_of_damage_is_not_read_to_its_end(tmp_path: Path) -> None:
    content = json_lines(plain_records()) + b"oops\n" * 200_000

    read = found(tmp_path, content)

    assert rows(read) == PLAIN
    assert read.refused == 1001
    assert "line 4 of said.jsonl is not a JSON record" in read.why


def explanations(tmp_path: Path, *records: dict[str, Any]) -> Explanations:
    return Explanations(found(tmp_path, json_lines(list(records))))


def test_all_explanations_of_a_feature_are_shown_once_each_in_their_order(tmp_path: Path) -> None:
    said = explanations(
        tmp_path,
        neuronpedia(5, "war"),
        neuronpedia(6, "peace"),
        neuronpedia(5, "battles"),
        neuronpedia(5, "war"),
    )

    assert said.of(NAMED, 5) == "war | battles"
    assert said.of(NAMED, 6) == "peace"
    assert said.of(NAMED, 7) == said.of(NAMED, 100) == ""
    assert said.frame([NAMED]).rows() == [(8, 5, "war | battles"), (8, 6, "peace")]
    assert said.remarks({8: NAMED}, [8]) == []


def test_another_dictionarys_explanations_are_left_out_and_told(tmp_path: Path) -> None:
    said = explanations(
        tmp_path,
        neuronpedia(5, "ours", source="8-RES-jb"),
        neuronpedia(6, "theirs", source="8-res_post_32k-oai"),
        neuronpedia(7, "another model's", model="gemma-2-2b"),
    )

    assert list(said.column(NAMED))[5:8] == ["ours", "", ""]
    (remark,) = said.remarks({8: NAMED}, [8])
    assert remark.startswith("2 explanations left out, of ")
    assert remark.endswith("layer 8 is gpt2-small/8-res-jb")
    for name in ("gpt2-small/8-res_post_32k-oai", "gemma-2-2b/8-res-jb"):
        assert name in remark
    # The metadata does not say which of them it is.
    assert set(said.column(NAMELESS)) == {""}
    (remark,) = said.remarks({8: NAMELESS}, [8])
    assert remark.startswith("3 explanations left out, of ")
    assert remark.endswith("the metadata of layer 8 does not say which it is")


def test_one_source_that_cannot_be_checked_is_taken_and_told(tmp_path: Path) -> None:
    said = explanations(tmp_path, neuronpedia(5, "perhaps ours"), *plain_records())

    assert said.of(NAMELESS, 5) == "perhaps ours | change, changed"
    assert said.remarks({8: NAMELESS}, [8, 9]) == [
        "cannot tell whether gpt2-small/8-res-jb is this dictionary: its metadata does not say"
    ]


def test_unknown_features_are_left_out_and_counted(tmp_path: Path) -> None:
    said = explanations(
        tmp_path,
        {"layer": 8, "feature": 99, "text": "the last"},
        {"layer": 8, "feature": 100, "text": "one too many"},
        {"layer": 30, "feature": 0, "text": "no such layer"},
        {"layer": 9, "feature": 0, "text": "not read yet"},
    )

    assert said.of(NAMELESS, 99) == "the last"
    assert said.remarks({8: NAMELESS}, [8, 9]) == [
        "2 explanations left out, of features that the dictionary does not have, such as 8:100"
    ]


def test_an_address_needs_a_name_on_neuronpedia() -> None:
    assert NAMED.address(453) == "https://www.neuronpedia.org/gpt2-small/8-res-jb/453"
    assert NAMELESS.address(453) is None
