"""What is kept on disk, so that a result is found by its content, whole or not at all.

Everything here can be computed again, so the rule is: never show what cannot be
proven to be what was written. Keys are fingerprints of content (weights,
dictionary, reference, settings, versions), not names. A file is written beside
its place, synced and renamed; every file and every entry carries a SHA-256, and
what fails it counts as missing. Nothing is ever unpickled.

    <cache>/models/       weights converted once (safetensors)
    <cache>/operators/    <fingerprint>/*.safetensors
    <cache>/atlas/        <fingerprint>/*.parquet, a layer each
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
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import psutil

from lens_core.errors import DamagedError, StoreError

if TYPE_CHECKING:
    import torch

SUMS = "SHA256SUMS"
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
PACKAGES = ("qlens", "torch", "transformers", "transformer_lens", "sae_lens")

_NETWORK = re.compile(
    r"nfs\d?|cifs|smb(fs|\d)?|afs|afpfs|ncpfs|9p|lustre|gpfs|orangefs|pvfs2|panfs|wekafs"
    r"|(fuse\.)?(beegfs|ceph|davfs|gcsfuse|glusterfs|juicefs|rclone|s3fs|sshfs)"
)
LOCK = "build.lock"
_OWNER = re.compile(r"process \d+ on [\w-]+")


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
        raise refusal_of(error, directory) from None
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
    demand_json(content)
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


def demand_json(value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys must be strings, got {key!r}")
            demand_json(item)
    elif isinstance(value, list | tuple):
        for item in value:
            demand_json(item)
    elif not isinstance(value, str | int | float | None):
        raise TypeError(f"{type(value).__name__} is not a JSON value")


def temporary_beside(path: Path) -> Path:
    """A name for a file or directory to be made beside `path` and renamed to it when whole.

    It names its writer, so that upkeep can tell a killed writer's leftover
    from what is being written now.
    """
    writer = f"{host_name()}@{os.getpid()}-{secrets.token_hex(4)}"
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
                raise StoreError(f"cannot write {path}: {one_line(error)}") from error
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    return checksum


def write_checksums(directory: Path) -> None:
    """Write SHA256SUMS (as `sha256sum` does) for files of `directory` that others wrote."""
    files = [path for path in sorted(directory.iterdir()) if path.is_file() and path.name != SUMS]
    sums = [f"{file_sha256(path)}  {path.name}\n" for path in files]
    write_text_atomically(directory / SUMS, "".join(sums))


def verify_checksums(directory: Path) -> None:
    """Raise `DamagedError` unless the files that SHA256SUMS lists and are there are what they were.

    A directory without such a list has nothing to say; a list that cannot be read is damage.
    """
    try:
        listed = (directory / SUMS).read_text("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"cannot read {directory / SUMS}: {error.strerror}") from error
    lines = [_SUM.fullmatch(line) for line in listed if line.strip()]
    if not lines or None in lines:
        raise DamagedError(f"{directory / SUMS} is damaged: it is no list of checksums")
    for written, name in (line.groups() for line in lines if line is not None):
        path = directory / name
        # A list may name files that nobody brought along; what is read must be whole.
        if path.is_file() and file_sha256(path) != written.lower():
            raise DamagedError(f"{path} is damaged: it is not what {SUMS} lists")


class TensorFile:
    """An open safetensors file; tensors are read when asked for."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt", device=device)
        except FileNotFoundError:
            raise DamagedError(f"no such file: {path}") from None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or one_line(error)}") from None
        except SafetensorError as error:
            raise DamagedError(f"{path} is damaged or not finished: {one_line(error)}") from None

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
            raise DamagedError(f"{self.path} has no readable {name}: {one_line(error)}") from None
        return tensor

    def verify(self) -> None:
        """Raise `StoreError` unless the file is, to the bit, what was written."""
        metadata = dict(self.metadata)
        written = metadata.pop("sha256", None)
        if written is None:
            raise DamagedError(f"{self.path} carries no checksum: it cannot be trusted")
        if _checksum(((name, self.get(name)) for name in self.keys()), metadata) != written:
            raise DamagedError(f"{self.path} is damaged: its checksum does not match")


def open_tensors(path: Path, *, device: str = "cpu") -> TensorFile:
    """Open a safetensors file; a missing, truncated or garbled one is a `StoreError`.

    This reads the header only: call `verify` before showing what the file says.
    """
    return TensorFile(path, device)


def verify_tensors(path: Path) -> None:
    """Raise `StoreError` unless the file is, to the bit, what `write_tensors` wrote."""
    with open_tensors(path) as file:
        file.verify()


def file_sha256(path: Path) -> str:
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
        raise refusal_of(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def host_name() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname())[:64] or "_"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refusal_of(error: OSError, path: Path) -> StoreError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"no space left in {path.parent}: free some or set QLENS_CACHE_DIR")
    reason = error.strerror or one_line(error)
    return StoreError(f"cannot write {path}: {reason}: set QLENS_CACHE_DIR to a directory of yours")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextmanager
def build_lock(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `directory` for one builder; a second one waits, or is told who has it.

    The operating system's lock, so a killed builder holds nothing.
    """
    import fcntl  # POSIX only, as is the terminal this is for

    path = directory / LOCK
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise refusal_of(error, path) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        with suppress(OSError):  # a full disk: the name is a courtesy
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {host_name()}".encode())
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


def discard(directory: Path) -> None:
    """Take a directory away in one step, then delete it."""
    aside = temporary_beside(directory)
    try:
        directory.rename(aside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refusal_of(error, directory) from error
    shutil.rmtree(aside, ignore_errors=True)


def remove(path: Path) -> bool:
    """Remove a file or a directory, never what a link points to; False if it stays."""
    with suppress(OSError, StoreError):
        if path.is_dir() and not path.is_symlink():
            discard(path)
        else:
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)
