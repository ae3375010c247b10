"""A flipped byte never turns into another mark; backups are made, kept and restored."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_core.errors import DamagedError, StoreError, UsageError
from qlens_tui.triage import backups
from qlens_tui.triage.backups import FOLDER, KEPT, backups_of, damage_of_file, restore, salvage
from qlens_tui.triage.database import NAME
from qlens_tui.triage.marks import DictionaryName, Mark
from qlens_tui.triage.triage import Triage
from tests.qlens_tui.workplace import Workplace

SAE = DictionaryName("a" * 64, "resid_post", "SmolLM2-135M", 10)
OTHER = DictionaryName("b" * 64, "resid_post", "SmolLM2-135M", 12)
MARKS = {
    453: Mark(star=True, tags=("keep", "war"), note="change, in the sense of money"),
    454: Mark(reject=True),
    455: Mark(star=True, label="war, as a name"),
}
UNLABELLED = {feature: replace(mark, label="") for feature, mark in MARKS.items()}


def _filled(path: Path) -> Path:
    with Triage(path) as triage:
        triage.apply({SAE: [453, 455]}, star=True)
        triage.apply({SAE: [453]}, note=MARKS[453].note, add=["war", "keep"])
        triage.apply({SAE: [455]}, label=MARKS[455].label)
        triage.apply({SAE: [454]}, reject=True, add=["mistyped"])
        triage.apply({SAE: [454]}, remove=["mistyped"])
        triage.apply({OTHER: [7]}, star=True)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _filled(tmp_path_factory.mktemp("whole") / NAME)


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / NAME))


def _replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) > 0
    path.write_bytes(content.replace(old, new))


def _sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def _is_part(mark: Mark, whole: Mark) -> bool:
    """Whether all that `mark` says is true, though it may say less than `whole`."""
    return (
        mark.star <= whole.star
        and mark.reject <= whole.reject
        and mark.label in ("", whole.label)
        and set(mark.tags) <= set(whole.tags)
        and mark.note in ("", whole.note)
    )


def _demand_true_or_told(path: Path, *, lacking: bool = False) -> None:
    """No read returns a mark that was not made; missing marks were reported on opening.

    `lacking`: something may be, untold.
    """
    truth = {SAE.sha256: MARKS, OTHER.sha256: {7: Mark(star=True)}}
    with suppress(DamagedError, StoreError), Triage(path) as triage:
        for sha256, whole in truth.items():
            with suppress(DamagedError):
                marks = triage.marks(sha256)
                assert marks == whole or triage.warning or lacking
                assert all(_is_part(mark, whole[feature]) for feature, mark in marks.items())
            for feature in (7, 453, 454, 456):
                with suppress(DamagedError):
                    mark = triage.mark(sha256, feature)
                    assert mark == whole.get(feature, Mark()) or triage.warning or lacking
                    assert _is_part(mark, whole.get(feature, Mark()))
        with suppress(DamagedError):
            tags = triage.tags()
            assert tags == ["keep", "war"] or triage.warning or lacking
            assert set(tags) <= {"keep", "war"}


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_flipped_bit_leaves_the_marks_as_they_were_or_is_told(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    content = bytearray(whole.read_bytes())
    at = data.draw(st.sampled_from([at for at, byte in enumerate(content) if byte]))
    content[at] ^= data.draw(st.integers(1, 255))
    (folder / NAME).write_bytes(content)
    _demand_true_or_told(folder / NAME)
    shutil.rmtree(folder)


def test_a_flipped_byte_anywhere_in_a_dense_file_is_no_other_mark(path: Path) -> None:
    # All of the header, the tables' definitions, the rows and what links them, in few bytes.
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = delete")
        database.execute("PRAGMA page_size = 512")
        database.execute("VACUUM")
    Triage(path).close()  # backed up, which then does not take its time again
    whole = path.read_bytes()
    assert len(whole) < 10_000
    for at in range(0, len(whole), 29):
        changed = bytes([whole[at] ^ (1 + at % 255)])
        path.write_bytes(whole[:at] + changed + whole[at + 1 :])
        _demand_true_or_told(path)
        for log in ("-wal", "-shm"):
            Path(f"{path}{log}").unlink(missing_ok=True)


def test_a_table_whose_definition_is_damaged_is_not_read_as_another(path: Path) -> None:
    """`id INTEGER` and then no PRIMARY KEY: SQLite finds that file in order, without an id."""
    _replace(path, b"id INTEGER PRIMARY KEY,\n    sha256", b"id INTEGER\0PRIMARY KEY,\n    sha256")
    _demand_true_or_told(path)
    with pytest.raises(DamagedError):
        Triage(path)


def test_a_damaged_note_is_told_and_all_else_stays_usable(path: Path) -> None:
    _replace(path, b"sense of money", b"tense of money")
    said = "the note of feature 453 of resid_post (layer 10) is damaged"

    with Triage(path) as triage:
        assert triage.warning.startswith(f"{path} is damaged: {said}: `qlens triage restore`")
        without = Mark(star=True, tags=("keep", "war"))
        assert triage.marks(SAE.sha256) == MARKS | {453: without}
        assert triage.marks(OTHER.sha256) == {7: Mark(star=True)}
        assert triage.tags() == ["keep", "war"]
        assert triage.apply({SAE: [453, 455]}, star=False) is not None
        assert triage.undo() is not None
        assert triage.marks(SAE.sha256) == MARKS | {453: without}
        # What an edit found could not be told, so that an undo would make it true.
        with pytest.raises(
            DamagedError, match="the note of feature 453 is damaged and was not changed"
        ):
            triage.apply({SAE: [455, 453]}, note="another")
        assert triage.marks(SAE.sha256) == MARKS | {453: without}
    assert damage_of_file(path) == [said]


def test_damage_in_a_file_that_is_only_read_is_told_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace(path, b"sense of money", b"tense of money")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Triage(path) as triage:
        assert "the note of feature 453" in triage.warning
        assert triage.marks(SAE.sha256)[455] == MARKS[455]


def test_damage_that_comes_while_the_file_is_open_is_an_error(path: Path) -> None:
    with Triage(path) as triage:
        assert triage.warning == ""
        _sql(path, "UPDATE marks SET value = 'forged' WHERE value LIKE 'change%'")

        with pytest.raises(DamagedError, match="the note of feature 453"):
            triage.marks(SAE.sha256)
        with pytest.raises(DamagedError, match="the note of feature 453"):
            triage.mark(SAE.sha256, 453)
        assert triage.mark(SAE.sha256, 455) == MARKS[455]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE marks SET value = 'x' WHERE value LIKE 'change%'", "the note of feature 453"),
        ("UPDATE marks SET value = 'x' WHERE value LIKE 'war,%'", "the label of feature 455"),
        ("UPDATE marks SET feature = 9 WHERE feature = 455", "the star of feature 9"),
        ("UPDATE marks SET edit = 9 WHERE feature = 455", "the star of feature 455"),
        ("UPDATE marks SET dictionary = 2 WHERE feature = 455", "the star of feature 455"),
        ("UPDATE fields SET tag = 'keez' WHERE tag = 'keep'", "the tag keez of feature 453"),
        ("DELETE FROM fields WHERE tag = 'keep'", "a mark of feature 453"),
        ("UPDATE dictionaries SET sha256 = 'c' WHERE layer = 10", "the note of feature 453"),
        ("DELETE FROM dictionaries WHERE layer = 10", "the dictionary of 8 marks is missing"),
    ],
)
def test_what_another_program_changed_is_found(path: Path, statement: str, said: str) -> None:
    _sql(path, statement)

    assert any(said in line for line in damage_of_file(path))
    _demand_true_or_told(path)
    with Triage(path) as triage:
        assert "is damaged" in triage.warning


def test_an_undo_of_a_damaged_record_changes_nothing(path: Path) -> None:
    with Triage(path) as triage:
        triage.apply({SAE: [453]}, note="second")
        before = triage.marks(SAE.sha256)
        _sql(path, "UPDATE changes SET before = 'forged' WHERE after = 'second'")

        with pytest.raises(DamagedError, match="the record of 'note' is damaged"):
            triage.undo()
        assert triage.marks(SAE.sha256) == before


@pytest.mark.parametrize("content", [b"", b"x", b"SQLite format 3\0"])
def test_a_file_that_was_cut_off_is_not_taken_for_a_new_one(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(DamagedError, match="qlens triage restore") as told:
        Triage(path)
    assert "\n" not in str(told.value)
    assert path.read_bytes() == content
    assert damage_of_file(path)


def test_a_file_cut_off_in_the_middle_is_told(path: Path) -> None:
    content = path.read_bytes()
    for size in range(1, len(content), 1999):
        path.write_bytes(content[:size])
        with pytest.raises(DamagedError, match="qlens triage restore"):
            Triage(path)
        assert path.read_bytes() == content[:size]


def test_the_log_of_a_file_that_is_gone_is_not_applied_to_a_new_one(path: Path) -> None:
    with Triage(path) as triage:
        triage.apply({SAE: [1]}, star=True)
        log = Path(shutil.copy(f"{path}-wal", path.with_name("log")))
    path.unlink()
    log.rename(f"{path}-wal")

    with pytest.raises(DamagedError, match="is missing, and there is a backup of it"):
        Triage(path)
    path.with_name(FOLDER).rename(path.with_name("away"))
    with pytest.raises(DamagedError, match="is missing but its log"):
        Triage(path)
    assert not path.exists()
    path.with_name("away").rename(path.with_name(FOLDER))
    restore(path, backups_of(path)[0].path)
    with Triage(path) as triage:
        assert triage.marks(SAE.sha256) == MARKS


def test_a_directory_in_the_files_place_is_told(path: Path) -> None:
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedError, match="is a directory, not a file"):
        Triage(path)


def test_a_new_file_is_never_seen_empty(tmp_path: Path) -> None:
    with Triage(tmp_path / NAME) as triage:
        assert triage.marks(SAE.sha256) == {}
    assert os.listdir(tmp_path) == [NAME]
    assert damage_of_file(tmp_path / NAME) == []


def _as_version(path: Path, version: int) -> None:
    """Write the marks of a file as an older version did: 1 had no seals, both had no labels."""
    old = path.with_name("old")
    sealed = ", seal" if version > 1 else ""
    with closing(sqlite3.connect(old)) as database, database:
        database.executescript(Path(__file__).with_name(f"version_{version}.sql").read_text())
        database.execute("DELETE FROM fields")
        database.execute("ATTACH ? AS new", (str(path),))
        ours = "field IN (SELECT id FROM fields)"
        for table, columns, kept in (
            ("dictionaries", "id, sha256, name, model, layer", "TRUE"),
            ("fields", "id, kind, tag", "kind <> 'label'"),
            ("marks", f"dictionary, feature, field, value, edit{sealed}", ours),
            ("edits", "id, at, what", "TRUE"),
            (
                "changes",
                f"edit, dictionary, field, first, last, before, before_edit, after{sealed}",
                ours,
            ),
        ):
            database.execute(f"INSERT INTO {table} SELECT {columns} FROM new.{table} WHERE {kept}")
    old.replace(path)


@pytest.mark.parametrize("version", [1, 2])
def test_marks_of_an_older_file_are_all_kept_sealed_and_backed_up(path: Path, version: int) -> None:
    _as_version(path, version)
    with Triage(path) as triage:
        assert triage.warning == ""
        assert triage.marks(SAE.sha256) == UNLABELLED
        assert triage.marks(OTHER.sha256) == {7: Mark(star=True)}
        assert triage.apply({SAE: [455]}, add=["peace"], label=MARKS[455].label) is not None
        assert triage.mark(SAE.sha256, 455) == replace(MARKS[455], tags=("peace",))
        triage.undo()

    assert damage_of_file(path) == []
    with closing(sqlite3.connect(path)) as reader:
        assert reader.execute("SELECT MAX(label) FROM features").fetchone() == (None,)
        assert reader.execute("SELECT COUNT(*) FROM history WHERE kind = 'label'").fetchone() == (
            1,
        )
    (backup,) = backups_of(path)
    assert (backup.features, backup.damage) == (4, "")
    restore(path, backup.path)  # which is of that version
    with Triage(path) as triage:
        assert triage.marks(SAE.sha256) == UNLABELLED


def test_two_sessions_may_open_an_older_file_at_the_same_time(path: Path) -> None:
    _as_version(path, 2)
    opened = []

    def session() -> None:
        with Triage(path) as triage:
            opened.append(triage.marks(SAE.sha256))

    sessions = [threading.Thread(target=session) for _ in range(4)]
    for each in sessions:
        each.start()
    for each in sessions:
        each.join()
    assert opened == [UNLABELLED] * 4


def test_a_field_that_was_damaged_in_an_older_file_is_told_and_all_else_kept(path: Path) -> None:
    _as_version(path, 2)
    _sql(path, "UPDATE fields SET tag = CAST(x'ff77' AS TEXT) WHERE tag = 'war'")
    with Triage(path) as triage:
        assert "w of feature 453 of resid_post (layer 10) is damaged" in triage.warning
        marks = triage.marks(SAE.sha256)
    assert marks == UNLABELLED | {453: replace(UNLABELLED[453], tags=("keep",))}


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_file_that_cannot_be_written_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    _as_version(path, version)
    monkeypatch.setattr(os, "access", lambda *_: False)

    with Triage(path) as triage:
        assert triage.marks(SAE.sha256) == UNLABELLED
        assert triage.tags() == ["keep", "war"]
        assert "cannot write" in triage.warning
        with pytest.raises(StoreError, match="cannot write"):
            triage.apply({SAE: [1]}, star=True)


def test_opening_backs_up_what_changed_and_keeps_the_last_few(tmp_path: Path) -> None:
    path = tmp_path / NAME
    for number in range(KEPT + 3):
        with Triage(path) as triage:
            triage.apply({SAE: [number]}, star=True)
        for _ in range(2):  # nothing changed: no other copy
            Triage(path).close()

    found = backups_of(path)

    assert [each.features for each in found] == list(range(KEPT + 3, 3, -1))
    assert not any(each.damage for each in found)


def test_a_file_that_is_gone_is_told_with_its_backups_and_never_begun_anew(path: Path) -> None:
    Triage(path).close()
    held = backups_of(path)
    path.unlink()

    for _ in range(KEPT + 1):
        with pytest.raises(
            DamagedError, match=r"there is a backup .*`qlens triage restore latest`"
        ):
            Triage(path)

    assert not path.exists()
    assert backups_of(path) == held
    restore(path, held[0].path)
    with Triage(path) as triage:
        assert triage.marks(SAE.sha256) == MARKS
        assert triage.warning == ""


def test_an_export_of_marks_whose_file_is_gone_says_so(path: Path) -> None:
    Triage(path).close()
    path.unlink()
    place, data = Workplace(path.parent), {"QLENS_DATA_DIR": str(path.parent)}

    for scope in (["--starred"], ["--where", "layer = 1"]):
        to = str(path.with_name("a.csv"))
        line = place.refusal(1, "export", "smollm2-neurons", *scope, "-o", to, **data)
        assert "is missing, and there is a backup of it" in line
    assert not path.exists()


def test_the_copies_of_a_file_that_another_replaced_are_kept(path: Path) -> None:
    Triage(path).close()
    (held,) = backups_of(path)
    path.unlink()
    shutil.move(path.with_name(FOLDER), path.with_name("away"))
    Triage(path).close()
    shutil.move(path.with_name("away"), path.with_name(FOLDER))

    for number in range(KEPT + 3):
        with Triage(path) as triage:
            triage.apply({SAE: [number]}, star=True)

    assert held in backups_of(path)
    assert len(backups_of(path)) == KEPT + 1


def test_a_restore_removes_no_copy_of_the_edits_that_it_took_back(path: Path) -> None:
    for number in range(3):
        with Triage(path) as triage:
            triage.apply({OTHER: [number]}, star=True)
    newest, *_, first = [each.path for each in backups_of(path)]
    restore(path, first)
    for number in range(KEPT + 3):
        with Triage(path) as triage:
            triage.apply({SAE: [number]}, star=True)

    assert newest.exists()
    assert not first.exists()


def test_damage_is_never_backed_up(path: Path) -> None:
    Triage(path).close()
    with Triage(path) as triage:
        triage.apply({OTHER: [9]}, star=True)
    _replace(path, b"sense of money", b"tense of money")

    with Triage(path) as triage:
        assert "the note of feature 453" in triage.warning

    (backup,) = backups_of(path)
    assert backup.damage == ""


def test_a_backup_is_put_back_and_what_was_there_is_kept(path: Path) -> None:
    with Triage(path) as triage:  # it backs up
        triage.apply({SAE: range(100)}, reject=True)
    damaged = path.read_bytes()[:-5000]
    path.write_bytes(damaged)
    (backup,) = backups_of(path)

    done = restore(path, backup.path)

    assert done.features == len(MARKS) + 1
    assert done.replaced is not None
    assert done.replaced.read_bytes() == damaged
    with Triage(path) as triage:
        assert triage.marks(SAE.sha256) == MARKS


def test_a_session_that_has_the_file_open_sees_that_it_was_replaced(path: Path) -> None:
    Triage(path).close()
    with Triage(path) as triage:
        triage.apply({SAE: [1]}, star=True)
        restore(path, backups_of(path)[0].path)

        with pytest.raises(StoreError, match="moved or replaced"):
            triage.apply({SAE: [2]}, star=True)
    with Triage(path) as triage:
        assert triage.marks(SAE.sha256) == MARKS


def test_a_damaged_backup_is_not_put_back(path: Path) -> None:
    Triage(path).close()
    with Triage(path) as triage:
        triage.apply({SAE: [1]}, star=True)
    Triage(path).close()
    newest, older = backups_of(path)
    _replace(newest.path, b"sense of money", b"tense of money")
    before = path.read_bytes()

    with pytest.raises(StoreError, match="use another backup"):
        restore(path, newest.path)
    assert path.read_bytes() == before
    assert backups.find_backup(path, "latest") == older.path
    assert [bool(each.damage) for each in backups_of(path)] == [True, False]
    with pytest.raises(UsageError, match="no backup"):
        backups.find_backup(path, "3")


def test_what_is_undamaged_can_be_kept_without_a_backup(path: Path) -> None:
    _replace(path, b"sense of money", b"tense of money")

    done = salvage(path)

    assert done.replaced is not None
    with Triage(path) as triage:
        marks = triage.marks(SAE.sha256)
        assert marks == MARKS | {453: Mark(star=True, tags=("keep", "war"))}
        assert triage.marks(OTHER.sha256) == {7: Mark(star=True)}
    assert damage_of_file(path) == []


def test_a_salvage_keeps_true_marks_only_wherever_the_damage_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = delete")
    whole, kept = path.read_bytes(), 0
    for at in [at for at, byte in enumerate(whole) if byte][::53]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 5]) + whole[at + 1 :])
        with suppress(StoreError):
            salvage(path)
            assert damage_of_file(path) == []
            _demand_true_or_told(path, lacking=True)
            kept += 1
        for other in path.parent.iterdir():
            if other != path and other.is_file():
                other.unlink()
    assert kept > 10


def test_a_restore_that_fails_leaves_the_file_where_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Triage(path).close()
    before, (backup,) = path.read_bytes(), backups_of(path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(StoreError, match="no space left"):
            restore(path, backup.path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == ["backups", NAME]


HARM: dict[str, Callable[[Path], object]] = {
    "note": lambda path: _replace(path, b"sense of money", b"tense of money"),
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"these are my notes" * 500),
}


@pytest.mark.parametrize("harm", HARM)
def test_the_commands_find_damage_and_put_a_backup_back(path: Path, harm: str) -> None:
    place = Workplace(path.parent)
    data = {"QLENS_DATA_DIR": str(path.parent)}
    assert place.document("cache", "verify", **data)["whole"]
    Triage(path).close()
    listed = place.document("triage", "restore", **data)["backups"]
    HARM[harm](path)

    verified = place.run("cache", "verify", "--repair", "--json", **data)
    assert verified.exit_code == 1
    (damage,) = json.loads(verified.stdout)["damaged"]
    assert damage["path"] == str(path)
    assert not damage["removed"]
    if harm == "note":
        assert "the note of feature 453" in damage["reason"]
    declined = place.run("triage", "restore", "latest", **data)
    assert (declined.exit_code, declined.stdout) == (1, "")

    done = place.document("triage", "restore", "latest", "--yes", **data)

    assert done["source"] == listed[0]["path"]
    assert (done["replaced"] is None) == (harm == "gone")
    assert place.document("cache", "verify", **data)["whole"]
    assert done["features"] == 4
    with Triage(path) as triage:
        assert triage.marks(SAE.sha256) == MARKS


def test_triage_commands_without_marks_say_so(tmp_path: Path) -> None:
    place, data = Workplace(tmp_path), {"QLENS_DATA_DIR": str(tmp_path / "data")}

    assert "none yet" in place.run("triage", "restore", **data).stdout
    assert "no undamaged backup" in place.refusal(2, "triage", "restore", "latest", **data)
    assert "there is no" in place.refusal(2, "triage", "restore", "--salvage", "--yes", **data)
    assert "not both" in place.refusal(2, "triage", "restore", "1", "--salvage", **data)
    assert not (tmp_path / "data").exists()


def test_a_full_disk_does_not_block_the_reading_of_marks(whole: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        path = Path(shutil.copy(whole, disk / NAME))
        with open(disk / "fill", "wb", buffering=0) as fill, suppress(OSError):
            while True:
                fill.write(bytes(4096))

        with Triage(path) as triage:
            assert triage.marks(SAE.sha256) == MARKS
            assert "no space left" in triage.warning
            with pytest.raises(StoreError, match=r"no space left .*nothing was changed"):
                triage.apply({SAE: [1]}, star=True)
            (disk / "fill").unlink()
            assert triage.apply({SAE: [1]}, star=True) is not None  # there is room by now
        with open(disk / "fill", "wb", buffering=0) as fill, suppress(OSError):
            while True:
                fill.write(bytes(4096))
        with pytest.raises(StoreError, match="no space left"):
            Triage(disk / "new" / NAME)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
