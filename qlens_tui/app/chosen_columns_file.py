"""The chosen columns of a configuration's table, saved for the next start.

One small JSON file per configuration, beside that of the last visit. A file that this version
cannot read is not used and not lost: it is renamed before another is written in its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from lens_core.errors import StoreError
from lens_core.storage.files import write_text_atomically
from qlens_tui.app.last_visit import state_file
from qlens_tui.table.chosen_columns import NARROWEST, WIDEST, ChosenColumn

FORMAT = 1
_ENDING = ".columns.json"
_NAME = re.compile(r"[a-z_]+( bars?)?")


def chosen_columns(config: Path) -> tuple[ChosenColumn, ...]:
    """The columns chosen in `config`; empty if none were. `StoreError`: the file cannot be read."""
    file = state_file(config, _ENDING)
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise StoreError(f"chosen columns not used: cannot read {file} ({error})") from error
    try:
        found = json.loads(text)
        version = found["format"]
        columns = tuple(map(_column, found["columns"])) if version == FORMAT else ()
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"chosen columns not used: {file} is damaged; C chooses anew") from error
    if version != FORMAT:
        raise StoreError(f"chosen columns not used: {file} is of another version of qlens")
    if len({each.name for each in columns}) < len(columns):
        raise StoreError(f"chosen columns not used: {file} is damaged; C chooses anew")
    return columns


def keep_columns(config: Path, columns: Sequence[ChosenColumn]) -> None:
    """Save the choice; `StoreError` or `OSError` if that fails."""
    file = state_file(config, _ENDING)
    try:
        chosen_columns(config)
    except StoreError:
        if file.exists():
            names = (file.with_name(f"{file.name}.{number}") for number in count(1))
            file.rename(next(name for name in names if not name.exists()))
    document = {"format": FORMAT, "config": str(config), "columns": list(map(asdict, columns))}
    write_text_atomically(file, json.dumps(document, indent=1) + "\n")


def _column(saved: Any) -> ChosenColumn:
    name, width = saved["name"], saved["width"]
    is_width = width is None or (type(width) is int and NARROWEST <= width <= WIDEST)
    if type(name) is str and _NAME.fullmatch(name) and is_width:
        return ChosenColumn(name, width)
    raise ValueError(f"{saved!r} is not a column")
