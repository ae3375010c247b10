"""The files that a configuration's answers are made from, and whether they are as they were.

What a session is made of is known by content once its model is loaded. Before that, this module
says whether the files are those of an earlier session, whose content was noted then
(`qlens_tui.engine.kept_sessions`): local files by inode, size and times, where a time of change
cannot be set back; files of the hub by the commit or the hash that its cache names them by. A data
set of the hub that was streamed leaves no file, and counts by its name alone. Nothing is read, so
that this takes milliseconds; no torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lens_core.config import Config
from lens_core.dictionaries.formats import format_of
from lens_core.documents import BUNDLED
from lens_core.errors import LensError
from lens_core.hub import cached_blob, cached_commits
from lens_core.model_files import find_model
from lens_core.storage.fingerprint import fingerprint, versions
from lens_core.storage.results import RESULTS_FORMAT

# Seconds. A file that was written twice within a tick of the file system's clock looks unchanged.
_TICK = 2.0


@dataclass(frozen=True)
class Inputs:
    """A configuration, and the state of its files at a time (seconds since the epoch).

    `files`: inode, size, time of modification and of change, by path. `hub`: commits and hashes.
    What is missing, or cannot be looked at, is left out.
    """

    asked: dict[str, Any]
    files: dict[str, tuple[int, ...]]
    hub: dict[str, str]
    time: float = field(compare=False)

    @property
    def sha256(self) -> str:
        """Sha256 of all this, of qlens's formats and of the versions of its libraries (hex)."""
        content = {"asked": self.asked, "files": self.files, "hub": self.hub}
        return fingerprint(content | {"format": RESULTS_FORMAT, "versions": versions()})

    def still_hold(self, now: Inputs) -> bool:
        """Whether what was read since these inputs were noted is what `now` describes.

        What the hub's cache got meanwhile is no change: its files are never written again.
        """
        newest = max((modified for _, _, modified, _ in self.files.values()), default=0)
        return self.files == now.files and newest < (self.time - _TICK) * 1e9


def inputs_of(config: Config) -> Inputs:
    """What `config` names, as it is on this machine now."""
    files: dict[str, tuple[int, ...]] = {}
    hub: dict[str, str] = {}
    now = time.time()
    for path in _files(config):
        with suppress(OSError):
            blob = cached_blob(path)
            if blob is not None:
                hub[str(path)] = blob
                continue
            found = path.stat()
            files[str(path)] = (
                found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns,
            )  # fmt: skip
    for repository, kind in _repositories(config):
        hub |= cached_commits(repository, kind)
    return Inputs(_asked(config), files, hub, now)


def _asked(config: Config) -> dict[str, Any]:
    """The sections on which answers depend, as JSON; of `[compute]` the precision alone."""
    sections = (config.model, config.dictionary, config.reference, config.lens)
    asked: dict[str, Any] = {
        section.section: {name: _plain(value) for name, value in asdict(section).items()}
        for section in sections
    }
    return asked | {"dtype": config.compute.dtype}


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _files(config: Config) -> Iterator[Path]:
    with suppress(LensError, OSError):
        model = find_model(config.model, offline=True, beside=config.path.parent)
        yield from (_files_in(model) if model.is_dir() else [model])
    source = config.reference.parsed_source
    if source.kind == "bundled":
        yield BUNDLED
    elif source.kind in ("text", "tokens"):
        yield Path(source.location)
    with suppress(LensError, OSError):
        for folder in format_of(config.dictionary).folders(config.dictionary):
            yield from _files_in(folder)


def _repositories(config: Config) -> Iterator[tuple[str, str]]:
    """Repositories of the hub, apart from the model's, and their kinds."""
    source = config.reference.parsed_source
    if source.kind == "hub":
        yield source.location, "dataset"
    with suppress(LensError, OSError):
        repository = format_of(config.dictionary).repository(config.dictionary)
        if repository is not None:
            yield repository, "model"


def _files_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_file())
