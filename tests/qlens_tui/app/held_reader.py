"""A reader of rows that can be held up."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qlens_tui.table.row_reader import RowReader
from qlens_tui.table.rows import Rows
from tests.waiting import PATIENCE


class HeldReader:
    """Reads rows only when it may, as a large table on a busy machine does."""

    def __init__(self, reader: RowReader, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reading, self.may_read = threading.Event(), threading.Event()
        read = reader.read

        def held(*args: Any, **options: Any) -> Rows:
            self.reading.set()
            assert self.may_read.wait(PATIENCE)
            return read(*args, **options)

        monkeypatch.setattr(reader, "read", held)
