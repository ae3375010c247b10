"""What is kept on disk, so that a result is found by its content, whole or not at all.

Everything here can be computed again, so the rule is: never show what cannot be
proven to be what was written. Keys are fingerprints of content (weights,
dictionary, reference, settings, versions), not names. A file is written beside
its place, synced and renamed; every file and every entry carries a SHA-256, and
what fails it counts as missing. Nothing is ever unpickled.

    <cache>/models/       weights converted once (safetensors)
    <cache>/operators/    <fingerprint>/*.safetensors
    <cache>/results/      per-feature results (diskcache, in SQLite)

Cost: hashing, about 1 s per GiB of tensors; a result is one SQLite row. torch,
numpy and safetensors are imported only by the functions that need them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import diskcache
import platformdirs
import psutil

from lens_core.errors import StoreError, UsageError

if TYPE_CHECKING:
    import torch

KINDS = ("models", "operators", "results")
SUMS = "SHA256SUMS"
PACKAGES = ("qlens", "torch", "transformers", "transformer_lens", "sae_lens")

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb(fs|\d)?|afs|afpfs|ncpfs|9p|lustre|gpfs|orangefs|pvfs2|panfs|wekafs"
    r"|(fuse\.)?(beegfs|ceph|davfs|gcsfuse|glusterfs|juicefs|rclone|s3fs|sshfs)"
)
_MAGIC = b"qlens result 1\n"
_DIGEST_BYTES = 32
# safetensors writes through a hidden file of its own, named like the second.
_TEMPORARY = re.compile(r".*\.tmp|\.tmp\w{6}")
_OF_PROCESS = re.compile(r".*\.(?P<host>[^.]+)@(?P<pid>\d+)-[0-9a-f]{8}\.tmp")
_LOCK = "build.lock"
_OWNER = re.compile(r"process \d+ on [\w-]+")
_STALE_SECONDS = 24 * 3600


def cache_dir() -> Path:
    """The cache directory, made if missing: QLENS_CACHE_DIR, or the platform's for qlens."""
    chosen = os.environ.get("QLENS_CACHE_DIR") or platformdirs.user_cache_dir("qlens", False)
    directory = Path(os.path.abspath(os.path.expanduser(chosen)))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise StoreError(
            f"cache directory {directory} is not a directory: set QLENS_CACHE_DIR to one"
        ) from None
    except OSError as error:
        raise _refusal(error, directory) from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreError(
            f"cannot write to cache directory {directory}: set QLENS_CACHE_DIR to one of yours"
        )
    return directory


def results_dir(cache: Path) -> Path:
    """Where the SQLite file of `cache` lives: local even if the cache is on the network.

    SQLite's locks and shared memory are not safe on network filesystems. Where
    no private local directory can be had it stays in the cache, and
    `ResultCache` then does without the write-ahead log.
    """
    if not is_network_filesystem(cache):
        return cache / "results"
    private = Path(tempfile.gettempdir()) / f"qlens-{os.getuid()}"
    with suppress(OSError):
        private.mkdir(mode=0o700, exist_ok=True)
        found = private.lstat()
        # Anybody can make a directory of this name in /tmp before us.
        ours = found.st_uid == os.getuid() and found.st_mode & 0o170077 == 0o040000
        if ours and not is_network_filesystem(private):
            return private / hashlib.sha256(os.fsencode(cache.absolute())).hexdigest()[:16]
    return cache / "results"


def is_network_filesystem(path: Path) -> bool:
    """Whether `path` (which need not exist yet) lies on a filesystem of another machine."""
    place = Path(os.path.realpath(path))
    kind, depth = "", -1
    for mount in psutil.disk_partitions(all=True):
        root = Path(mount.mountpoint)
        # `>=`: of two mounts on one directory the later hides the earlier.
        if place.is_relative_to(root) and len(root.parts) >= depth:
            kind, depth = mount.fstype, len(root.parts)
    return _NETWORK.fullmatch(kind.lower()) is not None


def fingerprint(content: Mapping[str, object]) -> str:
    """Sha256 (hex) of `content` as canonical JSON: the order of keys does not matter.

    Floats count by their exact value, and as floats (1.0 is not 1). What JSON
    would bend into something else (NaN, keys that are not strings) is an error.
    """
    _demand_json(content)
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions that a result depends on; nothing is imported to find them out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _demand_json(value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys must be strings, got {key!r}")
            _demand_json(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _demand_json(item)
    elif not isinstance(value, str | int | float | None):
        raise TypeError(f"{type(value).__name__} is not a JSON value")


def temporary_beside(path: Path) -> Path:
    """A name for a file or directory to be made beside `path` and renamed to it when whole.

    It names its writer, so that upkeep can tell a killed writer's leftover
    from what is being written now.
    """
    writer = f"{_host()}@{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{path.name}.{writer}.tmp")


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one."""
    with _replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text_atomically(path: Path, text: str) -> None:
    """`write_bytes_atomically` for text, as UTF-8."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> str:
    """Write a safetensors file atomically; returns its checksum.

    The checksum covers names, types, shapes, bytes and metadata, and stands in
    the metadata under "sha256".
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if "sha256" in metadata:
        raise ValueError('metadata "sha256" is the checksum\'s own place')
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    checksum = _checksum(sorted(plain.items()), metadata)
    with _replacing(path) as temporary:
        try:
            save_file(plain, temporary, {**metadata, "sha256": checksum})
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise StoreError(f"cannot write {path}: {_line(error)}") from error
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    return checksum


def write_checksums(directory: Path) -> None:
    """Write SHA256SUMS (as `sha256sum` does) for files of `directory` that others wrote."""
    files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name != SUMS]
    sums = [f"{_file_sha256(path)}  {path.name}\n" for path in files]
    write_text_atomically(directory / SUMS, "".join(sums))


class TensorFile:
    """An open safetensors file; tensors are read when asked for."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt", device=device)
        except FileNotFoundError:
            raise StoreError(f"no such file: {path}") from None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or _line(error)}") from None
        except SafetensorError as error:
            raise StoreError(f"{path} is damaged or not finished: {_line(error)}") from None

    @cached_property
    def metadata(self) -> dict[str, str]:
        return dict(self._file.metadata() or {})

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(None, None, None)

    def keys(self) -> list[str]:
        return sorted(self._file.keys())

    def get(self, name: str) -> torch.Tensor:
        from safetensors import SafetensorError

        try:
            tensor: torch.Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise StoreError(f"{self.path} has no readable {name}: {_line(error)}") from None
        return tensor

    def verify(self) -> None:
        """Raise `StoreError` unless the file is, to the bit, what was written."""
        metadata = dict(self.metadata)
        written = metadata.pop("sha256", None)
        if written is None:
            raise StoreError(f"{self.path} carries no checksum: it cannot be trusted")
        if _checksum(((name, self.get(name)) for name in self.keys()), metadata) != written:
            raise StoreError(f"{self.path} is damaged: its checksum does not match")


def open_tensors(path: Path, *, device: str = "cpu") -> TensorFile:
    """Open a safetensors file; a missing, truncated or garbled one is a `StoreError`.

    This reads the header only: call `verify` before showing what the file says.
    """
    return TensorFile(path, device)


def verify_tensors(path: Path) -> None:
    """Raise `StoreError` unless the file is, to the bit, what `write_tensors` wrote."""
    with open_tensors(path) as file:
        file.verify()


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def _checksum(tensors: Iterable[tuple[str, torch.Tensor]], metadata: Mapping[str, str]) -> str:
    import torch

    whole = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in tensors:
        described = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        whole.update(json.dumps(described).encode())
        whole.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block succeeds."""
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        # safetensors makes files that only their owner may read; a cache can be shared.
        temporary.chmod(mode)
        _sync(temporary)
        temporary.replace(path)
        with suppress(OSError):  # not every filesystem can sync a directory
            _sync(path.parent)
    except OSError as error:
        raise _refusal(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname())[:64] or "_"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refusal(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"no space left in {path.parent}: free some or set QLENS_CACHE_DIR")
    reason = error.strerror or _line(error)
    return StoreError(f"cannot write {path}: {reason}: set QLENS_CACHE_DIR to a directory of yours")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextmanager
def build_lock(directory: Path) -> Iterator[None]:
    """Hold `directory` for one builder; a second one is told who has it.

    The operating system's lock, so a killed builder holds nothing.
    """
    import fcntl  # POSIX only, as is the terminal this is for

    path = directory / _LOCK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise _refusal(error, path) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(OSError):  # a full disk: the name is a courtesy
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {_host()}".encode())
    except BlockingIOError:
        owner = _OWNER.match(os.read(handle, 200).decode(errors="replace"))
        os.close(handle)
        raise StoreError(
            f"{owner[0] if owner else 'another process'} is building {directory}: "
            "wait for it or stop it"
        ) from None
    except OSError as error:
        os.close(handle)
        raise StoreError(
            f"the filesystem of {directory} has no locks ({error.strerror}): "
            "set QLENS_CACHE_DIR to a local directory"
        ) from None
    try:
        yield
    finally:
        os.close(handle)


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """diskcache's storage without pickle: plain keys, values of bytes, all inside SQLite.

    Its parent pickles what it cannot store and unpickles any row that says so,
    which makes a cache file run code. Here such a row is an error, and no row
    can name a file to read or remove.
    """

    def put(self, key: object) -> tuple[object, bool]:
        if type(key) is bytes:
            return sqlite3.Binary(key), True
        if type(key) is str or (type(key) is int and -(1 << 63) <= key < 1 << 63):
            return key, True
        raise TypeError(f"a cache key must be str, bytes or a 64-bit int, not {_kind(key)}")

    def get(self, key: Any, raw: object) -> object:
        if not raw or type(key) not in (str, bytes, int):
            raise _DamagedEntryError("its key is pickled")
        return key

    def store(
        self, value: object, read: bool, key: object = diskcache.UNKNOWN
    ) -> tuple[int, int, None, memoryview]:
        if read or type(value) is not bytes:
            raise TypeError(f"a cache value must be bytes, not {_kind(value)}")
        return 0, diskcache.core.MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
        if mode != diskcache.core.MODE_RAW or filename is not None or type(value) is not bytes:
            raise _DamagedEntryError("it is not plain bytes")
        return value

    def filename(self, key: object = None, value: object = None) -> tuple[str, str]:
        raise TypeError("results live inside the database")

    def remove(self, file_path: object) -> None:
        """Nothing: no row of ours has a file."""


class ResultCache:
    """Small results by key: dictionaries of JSON values and numpy arrays.

    Safe for several processes. The oldest entries go when the file reaches
    `size_limit` bytes. A damaged entry is dropped and counts as missing; a
    database that is damaged as a whole is set aside and begun anew.
    """

    def __init__(self, directory: Path, *, size_limit: int = 1 << 30) -> None:
        self.directory = directory
        self._size_limit = size_limit
        self._cache = self._opened()

    def __enter__(self) -> ResultCache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        with self._errors():
            return len(self._cache)

    def close(self) -> None:
        self._cache.close()

    def get(self, key: str) -> dict[str, Any] | None:
        """What was put under `key`, or None: missing, or not provably what was put."""
        try:
            with self._errors():
                entry = self._cache.get(key)
            return None if entry is None else _decoded(key, entry)
        except _DamagedEntryError:
            with self._errors():
                self._cache.delete(key)
        except _DamagedDatabaseError:
            self._begin_anew()
        return None

    def put(self, key: str, payload: Mapping[str, Any]) -> None:
        """Keep `payload`: JSON values (tuples come back as lists), and arrays at its top level."""
        entry = _encoded(key, payload)
        try:
            with self._errors():
                self._cache.set(key, entry)
        except _DamagedDatabaseError:
            self._begin_anew()
            with self._errors():
                self._cache.set(key, entry)

    def _opened(self) -> Any:
        try:
            return self._open()
        except _DamagedDatabaseError:
            _discard(self.directory)
            return self._open()

    def _open(self) -> Any:
        journal = "delete" if is_network_filesystem(self.directory) else "wal"
        # All settings, because diskcache would take missing ones from the file.
        settings = {
            **diskcache.DEFAULT_SETTINGS,
            "size_limit": self._size_limit,
            "sqlite_journal_mode": journal,
            "sqlite_mmap_size": 0,  # an error under a memory map kills the process
        }
        with self._errors():
            try:
                return diskcache.Cache(str(self.directory), timeout=10, disk=BytesDisk, **settings)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise _DamagedDatabaseError(_line(error)) from error

    def _begin_anew(self) -> None:
        self._cache.close()
        _discard(self.directory)
        self._cache = self._open()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except diskcache.Timeout:
            raise StoreError(
                f"cannot write to {self.directory}: it is locked by another process or read-only"
            ) from None
        except sqlite3.DatabaseError as error:
            raise _sqlite_refusal(error, self.directory) from error
        except OSError as error:
            raise _refusal(error, self.directory) from error


class _DamagedEntryError(Exception):
    pass


class _DamagedDatabaseError(Exception):
    pass


def _sqlite_refusal(error: sqlite3.DatabaseError, directory: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return _refusal(OSError(errno.ENOSPC, ""), directory)
    # Not ours (a table is missing), garbled, or moved away by another process's repair.
    garbled = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    if code & 0xFF in garbled or code == sqlite3.SQLITE_READONLY_DBMOVED:
        return _DamagedDatabaseError(_line(error))
    return StoreError(f"cannot use {directory}: {_line(error)}: set QLENS_CACHE_DIR to another")


def _encoded(key: str, payload: Mapping[str, Any]) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    arrays = {name: item for name, item in payload.items() if isinstance(item, np.ndarray)}
    rest = {name: item for name, item in payload.items() if name not in arrays}
    _demand_json(rest)
    little_endian = {
        name: np.require(array, array.dtype.newbyteorder("<"), "C")
        for name, array in arrays.items()
    }
    content = _MAGIC + save(little_endian, {"json": json.dumps(rest)})
    return content + _seal(key, content)


def _decoded(key: str, entry: bytes) -> dict[str, Any]:
    content, seal = entry[:-_DIGEST_BYTES], entry[-_DIGEST_BYTES:]
    if not content.startswith(_MAGIC) or _seal(key, content) != seal:
        raise _DamagedEntryError("its checksum does not match")
    from safetensors.numpy import load

    tensors = content[len(_MAGIC) :]
    header = json.loads(tensors[8 : 8 + int.from_bytes(tensors[:8], "little")])
    rest: dict[str, Any] = json.loads(header["__metadata__"]["json"])
    return rest | load(tensors)


def _seal(key: str, content: bytes) -> bytes:
    """The checksum covers the key: an entry moved under another key is damaged too."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass") + b"\0" + content).digest()


def _kind(value: object) -> str:
    return type(value).__name__


@dataclass(frozen=True)
class Usage:
    """What one kind takes: `entries` are models, operator sets, results, or stray files."""

    entries: int
    bytes: int


@dataclass(frozen=True)
class Damage:
    """Something in the cache that is not what was written."""

    path: Path
    reason: str
    removed: bool


def cache_info(directory: Path) -> dict[str, Usage]:
    """Entries and bytes by kind, and the "leftovers" of killed writers. Changes nothing."""
    usage = {}
    for kind in KINDS:
        root = _root(directory, kind)
        if kind == "results":
            entries = _count_results(root)
        else:
            children = os.listdir(root) if root.is_dir() else []
            entries = sum(not _TEMPORARY.fullmatch(name) for name in children)
        usage[kind] = Usage(entries, sum(map(_size, _files(root))))
    leftovers = _leftovers(directory)
    usage["leftovers"] = Usage(len(leftovers), sum(map(_size, leftovers)))
    return usage


def cache_verify(directory: Path, repair: bool = False) -> list[Damage]:
    """Check every file and entry of the cache; `repair` removes what is damaged.

    Reads everything once. What is removed is computed again when it is needed.
    """
    found = [Damage(path, "left by a killed writer", False) for path in _leftovers(directory)]
    for kind in ("models", "operators"):
        for path in _files(_root(directory, kind)):
            try:
                _verify_file(path, kind)
            except StoreError as error:
                found.append(Damage(path, str(error), False))
    if repair:
        found = [Damage(d.path, d.reason, _remove(d.path)) for d in found]
    return found + _verify_results(_root(directory, "results"), repair)


def cache_clear(directory: Path, kinds: Collection[str] = KINDS) -> int:
    """Remove all entries of `kinds`, and leftovers; returns how many bytes that freed.

    What is being built or written is not removed: that is a `StoreError`.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"the cache has no {kind!r}: choose from {', '.join(KINDS)}")
    before = _total(directory)
    roots = [_root(directory, kind) for kind in kinds if kind != "results"]
    with ExitStack() as locks:
        for root in roots:
            for path in _files(root):
                if path.name == _LOCK:
                    locks.enter_context(build_lock(path.parent))
            for path in filter(_is_live, _temporaries(root)):
                raise StoreError(f"{path} is being written: clear the cache when it is done")
        for root in filter(Path.is_dir, roots):
            for child in list(root.iterdir()):
                if not _remove(child):
                    raise StoreError(f"cannot remove {child}: is it somebody else's?")
    if "results" in kinds:
        _clear_results(_root(directory, "results"))
    for path in _leftovers(directory):
        _remove(path)
    return max(0, before - _total(directory))


def _root(directory: Path, kind: str) -> Path:
    return results_dir(directory) if kind == "results" else directory / kind


def _files(root: Path) -> Iterator[Path]:
    """The files under `root` that are not temporary."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not _TEMPORARY.fullmatch(name)]
        yield from (Path(folder, name) for name in sorted(names) if not _TEMPORARY.fullmatch(name))


def _temporaries(root: Path) -> Iterator[Path]:
    """Files and directories under `root` that have not got their name yet."""
    for folder, subfolders, names in os.walk(root):
        temporary = {name for name in subfolders + names if _TEMPORARY.fullmatch(name)}
        subfolders[:] = [name for name in subfolders if name not in temporary]
        yield from (Path(folder, name) for name in sorted(temporary))


def _leftovers(directory: Path) -> list[Path]:
    """Temporaries that no living process is writing."""
    roots = dict.fromkeys([directory, results_dir(directory).parent])
    found = [path for root in roots for path in _temporaries(root)]
    live = {path for path in found if _is_live(path)}
    # A hidden file of safetensors belongs to the writer of the file beside it.
    busy = {path.parent for path in live}
    return [p for p in found if p not in live and not (p.parent in busy and p.name[0] == ".")]


def _verify_file(path: Path, kind: str) -> None:
    """Check a file by the sums beside it, or by the checksum within.

    A model's file may have neither: its weights are checked when it is loaded,
    and here only that it is whole.
    """
    listed = re.compile(rf"([0-9a-f]{{64}})  {re.escape(path.name)}")
    with suppress(OSError):
        sums = (path.parent / SUMS).read_text("utf-8", errors="replace").splitlines()
        for written in filter(None, map(listed.fullmatch, sums)):
            if _file_sha256(path) != written[1]:
                raise StoreError(f"{path} is damaged: its checksum does not match")
            return
    if path.suffix == ".safetensors":
        with open_tensors(path) as file:
            if "sha256" in file.metadata or kind != "models":
                file.verify()


def _is_live(path: Path) -> bool:
    writer = _OF_PROCESS.fullmatch(path.name)
    if writer is None:
        return False
    if writer["host"] == _host():
        return bool(psutil.pid_exists(int(writer["pid"])))
    # Another machine's process cannot be asked; a write does not take a day.
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime < _STALE_SECONDS
    return False


def _size(path: Path) -> int:
    with suppress(OSError):  # another process may have just removed it
        return sum(map(_size, _files(path))) if path.is_dir() else path.lstat().st_size
    return 0


def _total(directory: Path) -> int:
    return sum(usage.bytes for usage in cache_info(directory).values())


def _remove(path: Path) -> bool:
    """Remove a file or a directory, never what a link points to; False if it stays."""
    with suppress(OSError, StoreError):
        if path.is_dir() and not path.is_symlink():
            _discard(path)
        else:
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def _discard(directory: Path) -> None:
    """Take a directory away in one step, then delete it."""
    aside = temporary_beside(directory)
    try:
        directory.rename(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refusal(error, directory) from error
    shutil.rmtree(aside, ignore_errors=True)


def _connected(root: Path, mode: str) -> sqlite3.Connection:
    place = quote(str(root / diskcache.core.DBNAME))
    return sqlite3.connect(f"file:{place}?mode={mode}", uri=True, timeout=10)


def _count_results(root: Path) -> int:
    with suppress(sqlite3.Error), closing(_connected(root, "ro")) as database:
        return int(database.execute("SELECT COUNT(*) FROM Cache").fetchone()[0])
    return 0


def _verify_results(root: Path, repair: bool) -> list[Damage]:
    path = root / diskcache.core.DBNAME
    if not path.exists():
        return []
    damaged: list[tuple[int, str]] = []
    try:
        with closing(_connected(root, "rw")) as database:
            rows = database.execute("SELECT rowid, key, raw, mode, filename, value FROM Cache")
            disk = BytesDisk(str(root))
            for rowid, key, raw, mode, filename, value in rows:
                try:
                    name = disk.get(key, raw)
                    _decoded(str(name), disk.fetch(mode, filename, value, False))
                except _DamagedEntryError as error:
                    damaged.append((rowid, f"entry {rowid} is damaged: {error}"))
            if repair:
                with database:
                    database.executemany(
                        "DELETE FROM Cache WHERE rowid = ?", [(rowid,) for rowid, _ in damaged]
                    )
    except sqlite3.DatabaseError as error:
        refusal = _sqlite_refusal(error, root)
        if not isinstance(refusal, _DamagedDatabaseError):
            raise refusal from error
        return [Damage(path, f"not a readable database: {refusal}", repair and _remove(root))]
    return [Damage(path, reason, repair) for _, reason in damaged]


def _clear_results(root: Path) -> None:
    """Empty the database in place, for other processes may have it open; else remove it."""
    if not root.is_dir():
        return
    try:
        with closing(_connected(root, "rw")) as database:
            with database:
                database.execute("DELETE FROM Cache")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError as error:
        # Garbled, or so full a disk that nothing can even be deleted inside the file.
        if not _remove(root):
            raise _refusal(OSError(errno.EACCES, _line(error)), root) from error
