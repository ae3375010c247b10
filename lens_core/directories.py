"""Every folder that qlens uses, and the environment variable that moves it.

    QLENS_CACHE_DIR      what can be computed again: models, operators, atlas, contexts,
                         lenses, results, logs
    QLENS_SHARED_CACHE   another user's cache, which is only read
    QLENS_DATA_DIR       marks, which cannot be computed again
    QLENS_STATE_DIR      where the app was left

An unset or empty variable means the platform's directory for qlens. Only `cache_dir` and
`results_dir` create a directory. No torch here.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs

from lens_core.errors import StoreError

CACHE, SHARED_CACHE = "QLENS_CACHE_DIR", "QLENS_SHARED_CACHE"
DATA, STATE = "QLENS_DATA_DIR", "QLENS_STATE_DIR"

# Folders of a cache.
MODELS, OPERATORS, ATLAS, CONTEXTS = "models", "operators", "atlas", "contexts"
LENS_FILES = "lenses"
RESULTS = "results"
LOGS, LOCKS = "logs", "locks"

_DEFAULTS = {
    CACHE: platformdirs.user_cache_dir,
    DATA: platformdirs.user_data_dir,
    STATE: platformdirs.user_state_dir,
}
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb(fs|\d)?|afs|afpfs|ncpfs|9p|lustre|gpfs|orangefs|pvfs2|panfs|wekafs"
    r"|(fuse\.)?(beegfs|ceph|davfs|gcsfuse|glusterfs|juicefs|rclone|s3fs|sshfs)"
)


def directory_of(variable: str) -> Path:
    """The directory for the variable `CACHE`, `DATA` or `STATE`; it need not exist."""
    chosen = os.environ.get(variable) or _DEFAULTS[variable]("qlens", appauthor=False)
    return Path(os.path.abspath(os.path.expanduser(chosen)))


def cache_dir() -> Path:
    """The cache directory, made if missing.

    Raises:
        StoreError: it cannot be made, or no file can be made in it.
    """
    directory = directory_of(CACHE)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StoreError(
            f"cache directory {directory} is not a directory: set {CACHE} to one"
        ) from None
    except OSError as error:
        raise StoreError(
            f"cannot make cache directory {directory}: {error.strerror}: "
            f"set {CACHE} to a directory of yours"
        ) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(
            f"cannot write to cache directory {directory}: set {CACHE} to one of yours"
        )
    return directory


def shared_cache_dir() -> Path | None:
    """Another user's cache to read from, if `QLENS_SHARED_CACHE` names one."""
    chosen = os.environ.get(SHARED_CACHE)
    return Path(os.path.expanduser(chosen)) if chosen else None


def caches(cache: Path) -> list[Path]:
    """The user's own `cache`, then the shared one."""
    shared = shared_cache_dir()
    return [cache] if shared is None else [cache, shared]


def data_dir() -> Path:
    """Where marks are kept."""
    return directory_of(DATA)


def state_dir() -> Path:
    """Where the app keeps its last visit."""
    return directory_of(STATE)


def variable_of(path: Path) -> str | None:
    """The variable that sets the directory of `path`; `None` for a path that a user gave."""
    for place in (Path(os.path.abspath(path)), Path(os.path.realpath(path))):
        for variable in _DEFAULTS:
            root = directory_of(variable)
            if place.is_relative_to(root) or place.is_relative_to(os.path.realpath(root)):
                return variable
    return None


def results_dir(cache: Path) -> Path:
    """Where the SQLite file of `cache` lives: local even if the cache is on the network.

    SQLite's locks and shared memory are not safe on network filesystems. If
    there is no private local directory it stays in the cache, and
    `ResultCache` then uses no write-ahead log.
    """
    if not is_network_filesystem(cache):
        return cache / RESULTS
    private = Path(tempfile.gettempdir()) / f"qlens-{os.getuid()}"
    with suppress(OSError):
        private.mkdir(mode=0o700, exist_ok=True)
        found = private.lstat()
        # Another user may have created a directory of this name in /tmp.
        ours = found.st_uid == os.getuid() and found.st_mode & 0o170077 == 0o040000
        if ours and not is_network_filesystem(private):
            return private / hashlib.sha256(os.fsencode(cache.absolute())).hexdigest()[:16]
    return cache / RESULTS


def is_network_filesystem(path: Path) -> bool:
    """Whether `path` (which need not exist yet) is on a network filesystem."""
    import psutil

    place = Path(os.path.realpath(path))
    kind, depth = "", -1
    for mount in psutil.disk_partitions(all=True):
        root = Path(mount.mountpoint)
        # `>=`: of two mounts on one directory the later hides the earlier.
        if place.is_relative_to(root) and len(root.parts) >= depth:
            kind, depth = mount.fstype, len(root.parts)
    return _NETWORK.fullmatch(kind.lower()) is not None
