"""The whole app in a terminal with its engine, from first paint to export, and when killed.

A pseudo-terminal of our own stands in for the user's; the screen is what the app last painted
there, put together by a reader of the few sequences that Textual sends.
"""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from qlens_tui.app.last_visit import recall
from qlens_tui.export.write import read_export
from qlens_tui.triage.triage import Triage
from tests.prepared import prepared
from tests.qlens_tui.app.terminal import screen_of
from tests.qlens_tui.workplace import Workplace
from tests.waiting import PATIENCE, gone, until

SIZE = 40, 120  # rows, columns
ENGINE = "from qlens_tui.engine.process import main; main()"
WITH_ENGINE = """
import json, sys
from qlens_tui.cli.main import main
from qlens_tui.engine import client
client.COMMAND = json.loads(sys.argv.pop(1))
main()
"""


def with_engine(command: list[str]) -> list[str]:
    """Arguments of Python for the app with this command as its engine."""
    return ["-c", WITH_ENGINE, json.dumps(command)]


class Session:
    """A `qlens open` in a pseudo-terminal."""

    def __init__(
        self,
        place: Workplace,
        folder: Path,
        *args: str,
        fresh: bool = False,
        errors: int | None = None,
        **env: str,
    ) -> None:
        """With `fresh` all processes are as a user's; else the engine is a prepared one."""
        run = ["-m", "qlens_tui"] if fresh else with_engine(prepared(ENGINE))
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        environment = os.environ | {
            "QLENS_CACHE_DIR": str(place.cache), "QLENS_STATE_DIR": str(folder / "state"),
            "QLENS_DATA_DIR": str(folder / "data"), "TERM": "xterm-256color",
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **env,
        }  # fmt: skip
        for name in ("COLUMNS", "LINES"):  # of the terminal that the tests run in
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, *run, "open", place.config, *args],
            stdin=slave, stdout=slave, stderr=slave if errors is None else errors,
            env=environment, cwd=folder,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self.written = ""
        self._drawn = 0, ""  # the length of what was written, and the screen it makes
        self._dropped = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while not self._dropped:
            try:
                if not select.select([self.master], [], [], 0.1)[0]:
                    continue
                part = os.read(self.master, 65536)
            except OSError:
                return
            self.written += decoder.decode(part)

    @property
    def screen(self) -> str:
        written = self.written
        if self._drawn[0] != len(written):
            self._drawn = len(written), screen_of(written, SIZE[1], SIZE[0])
        return self._drawn[1]

    def until(self, shown: str | Callable[[str], bool]) -> str:
        wanted = shown if callable(shown) else lambda screen: shown in screen
        try:
            until(lambda: wanted(self.screen), f"{shown} is shown", self.process)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.screen}") from error
        return self.screen

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def look(self, opener: str, shown: str) -> None:
        """Open a screen by its key, and leave it."""
        self.press(opener)
        self.until(shown)
        self.press("\x1b")
        self.until(lambda screen: shown not in screen)

    @property
    def engines(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def ended(self) -> int:
        return self.process.wait(PATIENCE)

    def drop(self) -> None:
        """Close the other end of the terminal, as a broken connection does."""
        self._stop_reading()  # who reads holds it open
        os.close(self.slave)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, self.master)
        self.slave = nowhere

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._stop_reading()
        os.close(self.slave)
        os.close(self.master)

    def _stop_reading(self) -> None:
        """First of all: once our end is closed its number is the next session's, and who still
        reads there takes half of what that one writes."""
        self._dropped = True
        self._reader.join()


@pytest.fixture
def session(tiny_place, tmp_path, monkeypatch) -> Iterator[Callable[..., Session]]:
    monkeypatch.setenv("QLENS_STATE_DIR", str(tmp_path / "state"))
    opened: list[Session] = []

    def start(*args: str, fresh: bool = False) -> Session:
        opened.append(Session(tiny_place, tmp_path, *args, fresh=fresh))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def feature_left(place: Workplace) -> int | None:
    """The position where the next visit starts."""
    return recall(Path(place.config)).feature


def stars(folder: Path, place: Workplace) -> set[int]:
    with Triage(folder / "data" / "triage.sqlite3") as triage:
        found = triage._database.execute("SELECT sha256 FROM dictionaries").fetchall()
        return {
            feature for (sha,) in found for feature, mark in triage.marks(sha).items() if mark.star
        }


def test_the_main_job_from_first_paint_to_csv_and_a_kill_loses_no_mark(
    session, tiny_place, tmp_path
):
    first = session(fresh=True)
    first.until("? help")
    first.until(" ready")
    first.until("exact on")
    first.press("jj")
    first.until("VALUE  0:2")
    first.press("s")
    first.press("jjs")
    first.until("VALUE  0:4")
    first.press("e\r")
    first.until("features.csv")
    first.press("\r")
    first.until("features to")
    assert read_export(tmp_path / "features.csv")["feature"].len() == 24
    first.press("js")
    first.until(lambda screen: re.search(r">\s+5 \*", screen) is not None)
    until(lambda: feature_left(tiny_place) == 5, "the place is kept", first.process)

    engines = first.engines
    assert engines
    first.process.send_signal(signal.SIGKILL)
    first.ended()
    assert gone(*engines)
    assert stars(tmp_path, tiny_place) == {2, 4, 5}

    second = session()
    second.until(lambda screen: all(re.search(rf"\b{row} \*", screen) for row in (2, 4, 5)))
    second.until(lambda screen: re.search(r">\s+5 \*", screen) is not None)


def ends_in_order(app: Session, number: signal.Signals) -> None:
    """Nothing of the app is left after this signal: no engine, no mode of the terminal."""
    raw = termios.tcgetattr(app.slave)
    assert raw != app.before
    engines = app.engines
    assert engines
    app.process.send_signal(number)
    app.ended()
    assert termios.tcgetattr(app.slave) == app.before
    for left in ("\x1b[?1049l", "\x1b[?25h"):  # the other screen, and the cursor shown
        until(lambda left=left: left in app.written, "the terminal is put back")
    assert not re.search(r"\x1b\[[\d;]*m\x1b\[[\d;]*m", app.written)  # compact_output
    assert gone(*engines)


def test_with_ascii_not_a_character_beyond_it_is_written_and_sigterm_ends_in_order(
    session, tiny_place
):
    app = session("--ascii")
    app.until("exact on")
    app.press("jj")
    app.until("VALUE  0:2")
    app.look("?", "Next feature")
    app.look("o", "sort by")
    app.look("w", "d cancel")
    app.look("\x10", "type words of it to narrow")
    app.look("v", "rejects")
    app.press("u")
    app.until("nothing to undo")
    ends_in_order(app, signal.SIGTERM)
    assert feature_left(tiny_place) == 2
    assert app.written.isascii()
    assert "+---" in app.written


def test_a_dropped_line_leaves_the_terminal_sane_and_the_place_remembered(session, tiny_place):
    app = session()
    app.until("exact on")
    app.press("jjj")
    app.until("VALUE  0:3")
    ends_in_order(app, signal.SIGHUP)
    assert feature_left(tiny_place) == 3


def test_an_app_whose_terminal_is_gone_ends_and_remembers(session, tiny_place, tmp_path):
    app = session()
    app.until("exact on")
    app.press("jjj")
    app.until("VALUE  0:3")
    app.press("s")
    until(lambda: stars(tmp_path, tiny_place) == {3}, "the star is kept", app.process)
    engines = app.engines
    app.drop()
    app.ended()
    assert gone(*engines)
    assert stars(tmp_path, tiny_place) == {3}
    assert feature_left(tiny_place) == 3


def test_an_engine_that_is_killed_comes_back_and_quitting_leaves_none(session):
    app = session()
    app.until("exact on")
    (engine,) = app.engines
    engine.kill()
    another = lambda: next((each for each in app.engines if each != engine), None)  # noqa: E731
    until(another, "another engine runs", app.process)
    app.until(lambda screen: re.search(r"\bready\b", screen.splitlines()[0]) is not None)
    app.press("j")
    app.until("VALUE  0:1")
    engines = app.engines
    assert engines
    app.press("q")
    assert app.ended() == 0
    assert gone(*engines)


def test_without_a_terminal_it_says_what_to_use_instead(tiny_place):
    assert "qlens show" in tiny_place.refusal(2, "open", tiny_place.config)
