"""Cache files for tests: values that can be written to them, and damage."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 60), 1 << 60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def one_line(refused: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


def sql(results: Path, statement: str, *values: object) -> int:
    database = sqlite3.connect(results / "cache.db")
    with database:
        changed = database.execute(statement, values).rowcount
    database.close()
    return changed


def overwrite(database: Path) -> None:
    database.write_bytes(b"this is not a database, but it is long enough to be taken for one" * 99)
