"""Marks with several sessions on one file: kills, and undo in any order."""

from __future__ import annotations

import itertools
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qlens_tui.triage.marks import DictionaryName, Mark
from qlens_tui.triage.triage import Triage
from tests.waiting import PATIENCE

SAE = DictionaryName("a" * 64, "res 2304", "SmolLM2-135M", 8)
OTHER = DictionaryName("b" * 64, "res 2304", "SmolLM2-135M", 12)
PROLOGUE = f"""
import sys
from pathlib import Path
from qlens_tui.triage.marks import DictionaryName
from qlens_tui.triage.triage import Triage
SAE = {SAE!r}
triage = Triage(Path(sys.argv[1]))
print("open", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "triage.sqlite3"


@pytest.fixture
def triage(path: Path) -> Iterator[Triage]:
    with Triage(path) as opened:
        yield opened


def _session(path: Path, program: str) -> subprocess.Popen[str]:
    """Another process on the same file, which has opened it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + program, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def _killed(process: subprocess.Popen[str], after: int) -> list[str]:
    """What a process said until it was killed, `after` lines from now."""
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=PATIENCE)
    return [line.strip() for line in [*said, *rest.splitlines()]]


def test_an_undo_leaves_alone_what_another_session_changed_since(
    triage: Triage, path: Path
) -> None:
    triage.apply({SAE: range(4)}, note="mine", star=True)
    with Triage(path) as other:
        other.apply({SAE: [2]}, note="theirs")
        other.apply({SAE: [3]}, note="")

    undone = triage.undo()

    assert undone is not None
    assert (undone.changed, undone.left_alone) == (6, 2)
    assert triage.marks(SAE.sha256) == {2: Mark(note="theirs")}
    redone = triage.redo()
    assert redone is not None
    assert (redone.changed, redone.left_alone) == (6, 2)
    assert triage.mark(SAE.sha256, 2) == Mark(star=True, note="theirs")
    assert triage.mark(SAE.sha256, 3) == Mark(star=True)


def test_an_undo_is_not_fooled_by_a_mark_set_again_by_another_session(
    triage: Triage, path: Path
) -> None:
    triage.apply({SAE: [1]}, star=True)
    with Triage(path) as other:
        other.toggle({SAE: [1]}, "star")
        other.toggle({SAE: [1]}, "star")

    undone = triage.undo()

    assert undone is not None
    assert (undone.changed, undone.left_alone) == (0, 1)
    assert triage.mark(SAE.sha256, 1) == Mark(star=True)


def test_two_sessions_see_and_keep_both_edits(path: Path) -> None:
    each = """
for feature in range(300):
    triage.apply({SAE: [feature]}, **CHANGE)
print("done", flush=True)
"""
    star = _session(path, each.replace("CHANGE", "{'star': True}"))
    tag = _session(path, each.replace("CHANGE", "{'add': ['keep'], 'note': 'both'}"))
    for process in (star, tag):
        assert process.communicate(timeout=PATIENCE)[0] == "done\n"
        assert process.returncode == 0

    with Triage(path) as triage:
        both = Mark(star=True, tags=("keep",), note="both")
        assert triage.marks(SAE.sha256) == dict.fromkeys(range(300), both)


def test_sessions_may_open_a_new_file_at_the_same_time(path: Path) -> None:
    program = "triage.apply({SAE: [int(sys.stdin.readline())]}, star=True)"
    barrier = threading.Barrier(4)
    processes = []

    def run(number: int) -> None:
        barrier.wait()
        process = _session(path, program)
        process.communicate(f"{number}\n", timeout=PATIENCE)
        processes.append(process)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [process.returncode for process in processes] == [0] * 4
    with Triage(path) as triage:
        assert set(triage.marks(SAE.sha256)) == set(range(4))


def test_a_session_is_told_of_anothers_edits_and_not_of_its_own(triage: Triage, path: Path) -> None:
    with Triage(path) as other:
        assert not triage.changed_elsewhere()
        triage.apply({SAE: [1]}, star=True)
        assert not triage.changed_elsewhere()
        assert other.changed_elsewhere()
        assert not other.changed_elsewhere()

        other.apply({SAE: [1]}, reject=True)
        assert triage.changed_elsewhere()
        assert triage.mark(SAE.sha256, 1) == Mark(star=True, reject=True)


def test_every_mark_acknowledged_before_a_kill_is_found(path: Path) -> None:
    process = _session(
        path,
        """
for feature in range(10_000):
    triage.apply({SAE: [feature]}, star=True)
    print(feature, flush=True)
""",
    )
    acknowledged = [int(line) for line in _killed(process, after=25)]

    with Triage(path) as triage:
        found = set(triage.marks(SAE.sha256))
    assert set(acknowledged) <= found
    assert len(found) <= len(acknowledged) + 1


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_bulk_edit_is_whole_or_not_at_all_after_a_kill(path: Path, after: int) -> None:
    size = 50_000
    process = _session(
        path,
        f"""
for number in range(100):
    triage.apply({{SAE: range({size})}}, note=str(number))
    print(number, flush=True)
""",
    )
    acknowledged = _killed(process, after)

    with Triage(path) as triage:
        marks = triage.marks(SAE.sha256)
        assert len(marks) in (0, size)
        notes = {mark.note for mark in marks.values()}
        assert len(notes) <= 1
        if acknowledged:
            assert int(notes.pop()) - int(acknowledged[-1]) in (0, 1)
        # And the file can be worked with.
        assert triage.apply({SAE: [1]}, star=True) is not None
    with sqlite3.connect(path) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


CELL = tuple[int, str]


class TwoSessions(RuleBasedStateMachine):
    """Two sessions on one file, against a simple model of their marks.

    A cell is a pile of values, each with the edit that laid it there. An edit lays one on
    top of every cell that it changes; undo takes it away where it is on top; redo lays it
    there again where the pile is as the edit found it.
    """

    counter = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.piles: dict[CELL, list[tuple[int, str]]] = {}
        self.done: tuple[list[Any], list[Any]] = ([], [])
        self.undone: tuple[list[Any], list[Any]] = ([], [])
        self.edits = 0

    @initialize(folder=st.just(None))
    def open(self, folder: None) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "triage.sqlite3"
        self.sessions = (Triage(path), Triage(path))

    def teardown(self) -> None:
        for session in getattr(self, "sessions", ()):
            session.close()
        self.folder.cleanup()

    def _top(self, cell: CELL) -> tuple[int, str]:
        return (self.piles.get(cell) or [(0, "")])[-1]

    @rule(
        who=st.integers(0, 1),
        features=st.lists(st.integers(0, 6), max_size=7),
        change=st.fixed_dictionaries(
            {},
            optional={
                "star": st.booleans(),
                "reject": st.booleans(),
                "label": st.sampled_from(["", "a", "c"]),
                "note": st.sampled_from(["", "a", "b"]),
                "add": st.sets(st.sampled_from(["x", "y"])).map(sorted),
                "remove": st.sets(st.sampled_from(["x", "y"])).map(sorted),
            },
        ),
    )
    def edit(self, who: int, features: list[int], change: dict[str, Any]) -> None:
        values: dict[str, str] = {}
        for kind in ("star", "reject"):
            if kind in change:
                values[kind] = "on" if change[kind] else ""
        values |= {kind: change[kind] for kind in ("label", "note") if kind in change}
        values |= {f"tag {tag}": "on" for tag in change.get("add", ())}
        values |= {f"tag {tag}": "" for tag in change.get("remove", ())}
        self._lay(who, features, values)
        step = self.sessions[who].apply({SAE: features}, **change)
        self._compare(who, step)

    @rule(who=st.integers(0, 1), features=st.sets(st.integers(0, 6), min_size=1))
    def toggle(self, who: int, features: set[int]) -> None:
        all_on = all(self._top((feature, "star"))[1] for feature in features)
        self._lay(who, sorted(features), {"star": "" if all_on else "on"})
        self._compare(who, self.sessions[who].toggle({SAE: features}, "star"))

    def _lay(self, who: int, features: list[int], values: dict[str, str]) -> None:
        self.edits += 1
        self.latest: dict[CELL, tuple[int, str]] = {}
        for cell in itertools.product(set(features), values):
            if self._top(cell)[1] != values[cell[1]]:
                self.latest[cell] = self._top(cell)
                self.piles.setdefault(cell, []).append((self.edits, values[cell[1]]))

    def _compare(self, who: int, step: Any) -> None:
        assert (step is None) == (not self.latest)
        if step is not None:
            assert step.changed == len(self.latest)
            on_top = {cell: self._top(cell) for cell in self.latest}
            self.done[who].append((self.latest, on_top))
            self.undone[who].clear()

    @rule(who=st.integers(0, 1))
    def undo(self, who: int) -> None:
        step = self.sessions[who].undo()
        assert (step is None) == (not self.done[who])
        if step is None:
            return
        below, laid = self.done[who].pop()
        self.undone[who].append((below, laid))
        mine = [cell for cell in laid if self._top(cell) == laid[cell]]
        others = [c for c in laid if self._top(c) not in (laid[c], below[c])]
        assert (step.changed, step.left_alone) == (len(mine), len(others))
        for cell in mine:
            self.piles[cell].pop()

    @rule(who=st.integers(0, 1))
    def redo(self, who: int) -> None:
        step = self.sessions[who].redo()
        assert (step is None) == (not self.undone[who])
        if step is None:
            return
        below, laid = self.undone[who].pop()
        self.done[who].append((below, laid))
        free = [cell for cell in laid if self._top(cell) == below[cell]]
        others = [c for c in laid if self._top(c) not in (laid[c], below[c])]
        assert (step.changed, step.left_alone) == (len(free), len(others))
        for cell in free:
            self.piles.setdefault(cell, []).append(laid[cell])

    @invariant()
    def both_sessions_see_what_lies_on_top(self) -> None:
        if not hasattr(self, "sessions"):
            return
        expected = {}
        for feature in range(7):
            tags = tuple(tag for tag in "xy" if self._top((feature, f"tag {tag}"))[1])
            star, reject = (bool(self._top((feature, k))[1]) for k in ("star", "reject"))
            label, note = (self._top((feature, kind))[1] for kind in ("label", "note"))
            mark = Mark(star, reject, label, tags, note)
            if mark != Mark():
                expected[feature] = mark
        for session in self.sessions:
            assert session.marks(SAE.sha256) == expected


TestTwoSessions = TwoSessions.TestCase
TestTwoSessions.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
