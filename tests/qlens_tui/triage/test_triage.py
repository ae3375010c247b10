"""Marks survive damage, full disks, older formats, and undo in any order."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qlens_tui.triage.database
from lens_core.errors import LensError, StoreError, UsageError
from qlens_tui.triage.database import VERSION, triage_path
from qlens_tui.triage.marks import (
    LABEL_LENGTH,
    NOTE_LENGTH,
    DictionaryName,
    Mark,
    label_text,
    note_text,
    tag_name,
)
from qlens_tui.triage.triage import Triage, marks_frame
from tests.waiting import PATIENCE

SAE = DictionaryName("a" * 64, "res 2304", "SmolLM2-135M", 8)
OTHER = DictionaryName("b" * 64, "res 2304", "SmolLM2-135M", 12)
ANYTHING = st.text(st.characters(exclude_categories=[]) | st.sampled_from("\0\r\n\t\x1b\ud800,"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "triage.sqlite3"


@pytest.fixture
def triage(path: Path) -> Iterator[Triage]:
    with Triage(path) as opened:
        yield opened


def _one_line(error: pytest.ExceptionInfo[LensError], *parts: str) -> None:
    (line,) = str(error.value).splitlines()
    for part in parts:
        assert part in line


def test_marks_are_there_when_the_file_is_opened_again(path: Path) -> None:
    with Triage(path) as triage:
        triage.apply({SAE: [5]}, star=True, add=["keep", "food"], note="kiln\n窯 👩‍🔬")
        triage.apply({SAE: [5]}, label="kilns, 窯")
        triage.apply({SAE: [6], OTHER: [5]}, reject=True)

    with Triage(path) as triage:
        assert triage.mark(SAE.sha256, 5) == Mark(
            star=True, label="kilns, 窯", tags=("food", "keep"), note="kiln\n窯 👩‍🔬"
        )
        assert triage.marks(SAE.sha256) == {
            5: triage.mark(SAE.sha256, 5),
            6: Mark(reject=True),
        }
        assert triage.marks(OTHER.sha256) == {5: Mark(reject=True)}
        assert triage.mark(SAE.sha256, 7) == Mark()
        assert triage.marks("c" * 64) == {}


def test_a_mark_taken_off_leaves_none(triage: Triage) -> None:
    triage.apply({SAE: [5]}, star=True, reject=True, label="a", note="x", add=["keep"])
    triage.apply({SAE: [5]}, star=False, reject=False, label="", note=" ", remove=["keep"])

    assert triage.marks(SAE.sha256) == {}
    assert triage.tags() == []


def test_toggling_a_set_marks_all_of_it_before_it_unmarks_all(triage: Triage) -> None:
    triage.apply({SAE: [2]}, star=True)

    first = triage.toggle({SAE: [1, 2, 3]}, "star")
    assert first is not None
    assert (first.what, first.changed) == ("star", 2)
    second = triage.toggle({SAE: [1, 2, 3]}, "star")
    assert second is not None
    assert (second.what, second.changed) == ("unstar", 3)
    assert triage.marks(SAE.sha256) == {}


def test_an_edit_that_changes_nothing_is_no_step_to_undo(triage: Triage) -> None:
    triage.apply({SAE: [1]}, star=True)

    assert triage.apply({SAE: [1]}, star=True) is None
    assert triage.apply({SAE: []}, star=True) is None
    assert triage.apply({}, reject=True) is None
    assert triage.undo() is not None
    assert triage.undo() is None
    assert triage.marks(SAE.sha256) == {}


def test_an_edit_of_many_features_is_one_undo(triage: Triage) -> None:
    triage.apply({SAE: range(100, 200)}, star=True, note="a range")
    before = triage.marks(SAE.sha256)

    triage.apply({SAE: range(1, 10_000, 3), OTHER: [7]}, note="a filtered set", add=["odd"])
    assert triage.mark(SAE.sha256, 100) == Mark(star=True, tags=("odd",), note="a filtered set")
    undone = triage.undo()

    assert undone is not None
    assert undone.changed == 2 * (3333 + 1)
    assert triage.marks(SAE.sha256) == before
    assert triage.marks(OTHER.sha256) == {}


def test_neighbours_that_were_not_alike_get_back_what_each_of_them_had(triage: Triage) -> None:
    triage.apply({SAE: [5]}, note="five")
    triage.apply({SAE: [7]}, note="seven")
    triage.apply({OTHER: [9]}, note="nine")
    before = triage.marks(SAE.sha256), triage.marks(OTHER.sha256)

    # The last feature of one dictionary and the first of the next follow each other too.
    triage.apply({SAE: range(4, 9), OTHER: range(9, 12)}, note="all")
    triage.undo()

    assert (triage.marks(SAE.sha256), triage.marks(OTHER.sha256)) == before


def test_dictionaries_are_not_taken_for_neighbours(triage: Triage) -> None:
    triage.apply({SAE: [8], OTHER: [9]}, star=True)
    triage.undo()
    assert triage.marks(SAE.sha256) == triage.marks(OTHER.sha256) == {}

    triage.redo()
    assert set(triage.marks(SAE.sha256)) == {8}
    assert set(triage.marks(OTHER.sha256)) == {9}


def test_very_many_features_are_marked_and_unmarked_in_one_step(triage: Triage) -> None:
    step = triage.apply({SAE: range(100_000)}, star=True)

    assert step is not None
    assert step.changed == 100_000
    frame = marks_frame(triage, {8: SAE.sha256})
    assert frame["feature"].to_list() == list(range(100_000))
    assert frame["star"].all()
    assert triage.undo() is not None
    assert marks_frame(triage, {8: SAE.sha256}).is_empty()
    # What was done to neighbours alike is one row of history.
    with sqlite3.connect(triage.path) as reader:
        assert reader.execute("SELECT COUNT(*) FROM changes").fetchone() == (1,)


def test_a_person_can_read_the_file(triage: Triage) -> None:
    triage.apply({SAE: [5]}, star=True, label="fire", add=["b", "a"], note="kiln")

    with sqlite3.connect(triage.path) as reader:
        (row,) = reader.execute("SELECT * FROM features").fetchall()

    assert row[:6] == ("SmolLM2-135M", "res 2304", 8, 5, 1, 0)
    assert row[6] == "fire"
    assert sorted(row[7].split(", ")) == ["a", "b"]
    assert row[8] == "kiln"


def test_a_dictionary_is_found_by_its_content_under_its_latest_name(triage: Triage) -> None:
    triage.apply({SAE: [5]}, star=True)
    renamed = DictionaryName(SAE.sha256, "name\ud800", "elsewhere", 9)
    triage.apply({renamed: [6]}, star=True)

    assert set(triage.marks(SAE.sha256)) == {5, 6}
    with sqlite3.connect(triage.path) as reader:
        rows = reader.execute("SELECT name, model, layer FROM dictionaries").fetchall()
    assert rows == [("name\ufffd", "elsewhere", 9)]


def test_tags_are_offered_the_most_used_first(triage: Triage) -> None:
    triage.apply({SAE: range(3)}, add=["often"])
    triage.apply({OTHER: range(2)}, add=["sometimes"])
    triage.apply({SAE: [9]}, add=["mistyped"])
    triage.undo()

    assert triage.tags() == ["often", "sometimes"]


def test_marks_join_a_table_by_layer_and_feature(triage: Triage) -> None:
    triage.apply({SAE: [1]}, star=True, label="l", add=["b", "a"])
    triage.apply({OTHER: [1, 2]}, reject=True, note="x")

    frame = marks_frame(triage, {8: SAE.sha256, 12: OTHER.sha256, 13: "c" * 64})

    assert frame.rows() == [
        (8, 1, True, False, "l", ["a", "b"], ""),
        (12, 1, False, True, "", [], "x"),
        (12, 2, False, True, "", [], "x"),
    ]
    assert marks_frame(None, {8: SAE.sha256}).schema == frame.schema
    assert frame.schema["tags"] == pl.List(pl.String)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [(" keep ", "keep"), ("two   words\n", "two words"), ("a\u00a0b", "a b"), ("e\u0301", "é")],
)
def test_a_tag_is_trimmed_and_composed(typed: str, kept: str) -> None:
    assert tag_name(typed) == kept


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "needs a name"), (" \n", "needs a name"), ("a,b", "comma"), ("a\nb", "U+000A"),
        ("a\0b", "U+0000"), ("\x1b[2J", "U+001B"), ("a\u202eb", "U+202E"), ("\ud800", "U+D800"),
        ("a\u200bb", "U+200B"), ("x" * 65, "at most 64"),
    ],
)  # fmt: skip
def test_a_tag_that_would_confuse_is_refused_in_one_line(
    triage: Triage, typed: str, said: str
) -> None:
    with pytest.raises(UsageError) as error:
        triage.apply({SAE: [1]}, star=True, add=[typed])

    _one_line(error, said, ": ")
    assert str(error.value).isascii()
    assert triage.marks(SAE.sha256) == {}


@given(ANYTHING)
def test_what_a_tag_may_be_called_stays_as_it_is(text: str) -> None:
    try:
        name = tag_name(text)
    except UsageError:
        return
    assert tag_name(name) == name
    assert name.isprintable()
    assert "," not in name


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (" what  burns, and how ", "what burns, and how"), ("-", "-"), (" \u00a0 ", ""),
        ("e\u0301", "é"), ("=1+1", "=1+1"),
    ],
)  # fmt: skip
def test_a_label_is_one_line_of_any_visible_words(triage: Triage, typed: str, kept: str) -> None:
    triage.apply({SAE: [1]}, label="before")
    triage.apply({SAE: [1]}, label=typed)
    assert triage.mark(SAE.sha256, 1).label == label_text(typed) == kept
    triage.undo()
    assert triage.mark(SAE.sha256, 1).label == "before"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("a\nb", "U+000A"), ("\x1b[2J", "U+001B"), ("a\u202eb", "U+202E"), ("\ud800", "U+D800"),
        ("a\0b", "U+0000"), ("x" * (LABEL_LENGTH + 1), "at most 200"),
    ],
)  # fmt: skip
def test_a_label_that_would_confuse_is_refused_in_one_line(
    triage: Triage, typed: str, said: str
) -> None:
    triage.apply({SAE: [1]}, label="before")
    with pytest.raises(UsageError) as error:
        triage.apply({SAE: [1]}, star=True, label=typed)

    _one_line(error, said, "a label", ": ")
    assert triage.marks(SAE.sha256) == {1: Mark(label="before")}


@given(ANYTHING)
def test_what_a_label_may_say_stays_as_it_is(text: str) -> None:
    try:
        label = label_text(text)
    except UsageError:
        return
    assert label_text(label) == label
    assert label.isprintable()
    assert len(label.splitlines()) <= 1


def test_any_note_is_kept_but_for_what_no_file_can_hold(triage: Triage) -> None:
    @given(ANYTHING)
    @settings(max_examples=60, deadline=None)
    def keep(text: str) -> None:
        triage.apply({SAE: [1]}, note=text)
        kept = triage.mark(SAE.sha256, 1).note

        assert kept == note_text(text) == note_text(kept)
        kept.encode("utf-8")
        if text.strip() and not any(c in "\r\0" or "\ud800" <= c <= "\udfff" for c in text):
            assert kept == text

    keep()
    triage.apply({SAE: [1]}, note="a\r\nb\rc\0\ud83d\ude00\ud83d.")
    assert triage.mark(SAE.sha256, 1).note == "a\nb\nc\ufffd\U0001f600\ufffd."


def test_a_note_without_end_is_refused_in_one_line(triage: Triage) -> None:
    with pytest.raises(UsageError) as error:
        triage.apply({SAE: [1]}, note="x" * (NOTE_LENGTH + 1))

    _one_line(error, "100,001", "shorten it")


def test_a_bad_feature_changes_nothing_and_the_next_edit_is_none_the_worse(
    triage: Triage,
) -> None:
    bad: Any = [1, 2, "3"]
    with pytest.raises(TypeError):
        triage.apply({SAE: bad}, star=True)

    triage.apply({SAE: [7]}, star=True)
    assert set(triage.marks(SAE.sha256)) == {7}


def test_the_file_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QLENS_DATA_DIR", str(tmp_path / "mine"))
    with Triage() as triage:
        triage.apply({SAE: [1]}, star=True)

    assert triage_path() == tmp_path / "mine" / "triage.sqlite3"
    assert triage_path().is_file()


@pytest.mark.parametrize(("network", "journal"), [(False, "wal"), (True, "delete")])
def test_a_write_ahead_log_is_for_local_disks_only(
    monkeypatch: pytest.MonkeyPatch, path: Path, network: bool, journal: str
) -> None:
    with Triage(path) as triage:
        triage.apply({SAE: [1]}, star=True)
    monkeypatch.setattr(qlens_tui.triage.database, "is_network_filesystem", lambda _path: network)

    with Triage(path) as triage:
        triage.apply({SAE: [2]}, star=True)
        with sqlite3.connect(path) as reader:
            assert reader.execute("PRAGMA journal_mode").fetchone() == (journal,)
        assert set(triage.marks(SAE.sha256)) == {1, 2}


def test_a_file_of_a_newer_qlens_is_refused_and_left_as_it_is(triage: Triage) -> None:
    triage.apply({SAE: [1]}, star=True)
    with sqlite3.connect(triage.path) as writer:
        writer.execute(f"PRAGMA user_version = {VERSION + 1}")

    with pytest.raises(StoreError) as error:
        Triage(triage.path)

    _one_line(error, str(triage.path), "newer qlens", "update qlens")


def test_another_programs_database_is_not_touched(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as writer:
        writer.execute("CREATE TABLE bookmarks (url)")
    before = path.read_bytes()

    with pytest.raises(StoreError) as error:
        Triage(path)

    _one_line(error, str(path), "another program")
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["garbage", "header", "pages"])
def test_a_damaged_file_is_named_with_the_fix_and_kept(path: Path, damage: str) -> None:
    with Triage(path) as triage:
        triage.apply({SAE: range(5000)}, star=True, note="x")
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        content = bytearray(b"these are my notes\n" * 100)
    else:
        start = 0 if damage == "header" else 4096 * 2
        content[start:] = b"\xff" * (len(content) - start)
    path.write_bytes(content)

    with pytest.raises(StoreError) as error, Triage(path) as triage:
        triage.apply({SAE: range(5000)}, star=False)

    _one_line(error, str(path), "damaged", "move it away")
    assert path.read_bytes() == content


def test_text_that_is_no_utf_8_counts_as_damage(triage: Triage) -> None:
    triage.apply({SAE: [1]}, note="x")
    with sqlite3.connect(triage.path) as writer:
        writer.execute("UPDATE marks SET value = CAST(x'ff' AS TEXT)")

    with pytest.raises(StoreError) as error:
        triage.marks(SAE.sha256)

    _one_line(error, "damaged")


def test_a_full_disk_is_one_line_and_what_was_there_stays(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    connect = sqlite3.connect

    def small(*args: Any, **more: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*args, **more)
        database.execute("PRAGMA max_page_count = 30")
        return database

    with Triage(path) as triage:
        triage.apply({SAE: [1]}, star=True)
    monkeypatch.setattr(sqlite3, "connect", small)
    with Triage(path) as triage:
        with pytest.raises(StoreError) as error:
            triage.apply({SAE: range(50_000)}, star=True)
        _one_line(error, "no space left", str(path.parent), "nothing was changed")
        assert triage.marks(SAE.sha256) == {1: Mark(star=True)}
        triage.apply({SAE: [2]}, star=True)
        assert set(triage.marks(SAE.sha256)) == {1, 2}


def test_a_file_that_was_deleted_while_open_is_not_written_to(triage: Triage) -> None:
    triage.apply({SAE: [1]}, star=True)
    triage.path.unlink()

    for edit in (lambda: triage.apply({SAE: [2]}, star=True), triage.undo):
        with pytest.raises(StoreError) as error:
            edit()
        _one_line(error, str(triage.path), "moved or replaced")


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError) as error:
        Triage(tmp_path / "file" / "data" / "triage.sqlite3")

    _one_line(error, "QLENS_DATA_DIR")


def test_where_nothing_may_be_written_marks_are_read_and_edits_refused(
    triage: Triage, path: Path, tmp_path: Path
) -> None:
    triage.apply({SAE: [1]}, star=True)
    triage.close()
    program = """
import os, sys
from pathlib import Path
from lens_core.errors import StoreError
import qlens_tui.triage.database
from qlens_tui.triage.marks import DictionaryName
from qlens_tui.triage.triage import Triage
if os.getuid() == 0:  # root may write anywhere
    os.setgid(65534), os.setuid(65534)
path = Path(sys.argv[1])
triage = Triage(path)
print(sorted(triage.marks("a" * 64)))
for attempt in (
    lambda: triage.apply({DictionaryName("a" * 64, "res 2304", "SmolLM2-135M", 8): [2]}, star=True),
    lambda: Triage(path.parent / "new.sqlite3"),
    lambda: Triage(path.parent / "new" / "new.sqlite3"),
):
    try:
        attempt()
    except StoreError as error:
        print(error)
"""
    path.chmod(0o444)
    path.parent.chmod(0o555)
    opened = [parent for parent in path.parent.parents if parent != parent.parent]
    modes = {parent: parent.stat().st_mode for parent in opened}
    try:
        if os.getuid() == 0:
            for parent in opened:
                parent.chmod(modes[parent] | 0o055)
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            capture_output=True, text=True, timeout=PATIENCE, check=True,
        )  # fmt: skip
    finally:
        path.parent.chmod(0o755)
        for parent, mode in modes.items():
            if os.getuid() == 0:
                parent.chmod(mode)

    marks, edit, new, deeper = done.stdout.splitlines()
    assert marks == "[1]"
    assert edit.startswith(f"cannot write {path}: nothing was changed")
    assert new.startswith("cannot make")
    assert deeper.startswith("cannot make")
    assert all("QLENS_DATA_DIR" in line for line in (edit, new, deeper))


def test_triage_needs_neither_torch_nor_polars() -> None:
    program = "import qlens_tui.triage.triage, sys; print({'torch', 'polars'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == "set()\n"
