"""The rule for ASCII, and the terminals that the app supports."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

import pytest

from qlens_tui.terminal import is_ascii, why_no_app


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


@pytest.mark.parametrize(
    ("environment", "ascii_only"),
    [
        ({}, False),
        ({"LANG": "en_US.UTF-8"}, False),
        ({"LANG": "de_DE.utf8@euro"}, False),
        ({"LANG": "en_US"}, False),  # says nothing: the stream's encoding does
        ({"LC_CTYPE": "UTF-8"}, False),
        ({"LANG": "C"}, True),
        ({"LC_ALL": "POSIX", "LANG": "en_US.UTF-8"}, True),
        ({"LC_ALL": "C.UTF-8", "LANG": "C"}, False),
        ({"LC_CTYPE": "en_US.UTF-8", "LANG": "C"}, False),
        ({"LC_CTYPE": "C.UTF-8", "LANG": "C"}, True),  # what Python makes of LANG=C alone
        ({"LC_CTYPE": "C.UTF-8"}, False),
        ({"LANG": "ja_JP.eucJP"}, True),
        ({"LC_ALL": "", "LANG": "de_DE.ISO-8859-15@euro"}, True),
        ({"LANG": "en_US.UTF-8", "TERM": "dumb"}, False),
    ],
)
def test_a_locale_that_is_not_utf8_means_ascii(
    environment: dict[str, str], ascii_only: bool
) -> None:
    assert is_ascii(stream("utf-8"), environment) is ascii_only


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "euc-jp"])
def test_a_stream_that_is_not_utf8_means_ascii(encoding: str) -> None:
    assert is_ascii(stream(encoding), {"LANG": "en_US.UTF-8"})


@pytest.mark.parametrize(
    "setting",
    [{"LC_ALL": "C"}, {"LANG": "C"}, {"LC_ALL": "xx_XX.ISO-8859-1"}, {"PYTHONIOENCODING": "ascii"}],
)
def test_every_byte_of_a_command_is_ascii_where_the_locale_is_not_utf8(
    setting: dict[str, str],
) -> None:
    bare = {name: value for name, value in os.environ.items() if name[:3] not in ("LC_", "LAN")}
    program = (
        "import sys\n"
        "from rich.text import Text\n"
        "from qlens_tui.cli.output import Output\n"
        "from qlens_tui.cli.progress import build_progress\n"
        "output = Output()\n"
        "output.show(Text('\\u2423caf\\u00e9'))\n"
        "output.note('caf\\u00e9 \\udce6')\n"
        "output.errors._force_terminal = True\n"
        "with build_progress(output, 0, 9) as draw: draw(4, 9)\n"
        "print('\\u2423', file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=bare | setting | {"COLUMNS": "60"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"caf" in done.stdout
    assert b"44%" in done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert rb"caf\u00e9 \xe6" in done.stderr


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("stdin", "stdout", "term", "why"),
    [
        (True, True, "xterm-256color", None),
        (False, True, "xterm", "standard input is none"),
        (True, False, "xterm", "standard output is none"),
        (True, True, "dumb", "TERM is dumb"),
        (True, True, "", "TERM is not set"),
    ],
)
def test_the_app_says_why_it_cannot_be_drawn(
    stdin: bool, stdout: bool, term: str, why: str | None
) -> None:
    said = why_no_app(Stream(stdin), Stream(stdout), {"TERM": term})

    assert said is None if why is None else said is not None and why in said


@pytest.mark.parametrize(
    ("stdin", "stdout", "term", "why"),
    [
        ("null", "terminal", "xterm", b"standard input is none"),
        ("terminal", "pipe", "xterm", b"standard output is none"),
        ("terminal", "terminal", "dumb", b"TERM is dumb"),
        ("terminal", "terminal", None, b"TERM is not set"),
    ],
)
def test_where_nothing_can_be_drawn_the_app_ends_with_one_line(
    stdin: str, stdout: str, term: str | None, why: bytes
) -> None:
    master, slave = pty.openpty()
    try:
        environment = {name: value for name, value in os.environ.items() if name != "TERM"}
        done = subprocess.run(
            [sys.executable, "-m", "qlens_tui", "demo"],
            env=environment | ({} if term is None else {"TERM": term}),
            stdin=slave if stdin == "terminal" else subprocess.DEVNULL,
            stdout=slave if stdout == "terminal" else subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 2
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(b"qlens: the app needs a terminal")
    assert why in line
