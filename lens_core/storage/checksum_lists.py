"""SHA256SUMS lists next to files that other programs wrote: writing and checking them.

    5891b5b5...be03  cfg.json             GNU, also with `*` before the name or `\\` before the sum
    SHA256 (cfg.json) = 5891b5b5...be03   BSD

Any tool may have left such a list, for these files or for others. A line that can be parsed and
whose file exists must match. A line that cannot be parsed is not treated as damage; a warning
says that it was not used.

Cost: hashing, about 1 s per GiB.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from pathlib import Path, PurePosixPath

from lens_core.errors import DamagedError, QlensWarning, cannot_read
from lens_core.storage.files import write_text_atomically

SUMS = "SHA256SUMS"
_GNU = re.compile(r"(?P<escaped>\\?)(?P<sum>[0-9a-fA-F]{64}) [ *](?P<name>.+)")
_BSD = re.compile(r"(?P<escaped>\\?)SHA256 ?\((?P<name>.+)\) ?= ?(?P<sum>[0-9a-fA-F]{64})")
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}


def write_checksums(directory: Path) -> None:
    """Write SHA256SUMS (as `sha256sum` does) for files of `directory` that others wrote."""
    files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name != SUMS]
    sums = [f"{file_sha256(path)}  {path.name}\n" for path in files]
    write_text_atomically(directory / SUMS, "".join(sums))


def read_checksums(directory: Path) -> tuple[list[tuple[str, str]], int]:
    """Name and checksum of each line of the list in `directory`, and the number of other lines.

    Empty lines and comments do not count. No list: no lines.

    Raises:
        StoreError: there is a list, but it cannot be read.
    """
    path = directory / SUMS
    try:
        lines = path.read_text("utf-8-sig", errors="replace").splitlines()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise cannot_read(error, path) from error
    lines = [line.strip() for line in lines if line.strip() and line.strip()[0] not in "#;"]
    found = [match for line in lines if (match := _GNU.fullmatch(line) or _BSD.fullmatch(line))]
    return [(_name(match), match["sum"].lower()) for match in found], len(lines) - len(found)


def verify_checksums(directory: Path) -> None:
    """Compare the files of `directory` with its list, if it has one.

    Listed files that do not exist are skipped: they may not have been copied. A list that matches
    none of several files belongs to other files; a warning says so.

    Raises:
        DamagedError: a file is not what the list says.
        StoreError: the list or a file cannot be read.
    """
    listed, unread = read_checksums(directory)
    if unread:
        _warn(
            f"{unread} of {len(listed) + unread} lines of {directory / SUMS} are not SHA-256 "
            "checksums: they were not used"
        )
    fit: list[Path] = []
    unfit: list[Path] = []
    for name, written in listed:
        place = PurePosixPath(name)
        path = directory / place
        if place.is_absolute() or ".." in place.parts or not path.is_file():
            continue
        (fit if file_sha256(path) == written else unfit).append(path)
    if unfit and fit:
        raise DamagedError(f"{unfit[0]} is damaged: it is not what {SUMS} lists")
    if len(unfit) == 1:
        raise DamagedError(
            f"{unfit[0]} is not what {SUMS} beside it lists: copy it again, or remove {SUMS} if "
            "it belongs to other files"
        )
    if unfit:
        _warn(f"{directory / SUMS} matches none of the {len(unfit)} files that it lists: not used")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise cannot_read(error, path) from error


def _name(match: re.Match[str]) -> str:
    if not match["escaped"]:
        return match["name"]
    return re.sub(r"\\[\\nr]", lambda found: _ESCAPES[found[0]], match["name"])


def _warn(text: str) -> None:
    warnings.warn(text, QlensWarning, stacklevel=3)
