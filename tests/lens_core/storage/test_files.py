"""Files are complete or unchanged, and only one process builds at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lens_core.errors import StoreError
from lens_core.storage.files import build_lock, write_bytes_atomically, write_text_atomically
from lens_core.storage.maintenance import Usage, cache_clear, cache_info, cache_verify
from lens_core.storage.tensors import write_tensors
from tests.lens_core.cache_files import one_line, run_python


def test_a_reader_of_the_cache_may_be_somebody_else(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()

    write_tensors(tmp_path / "t", {"a": torch.ones(1)}, {})
    write_text_atomically(tmp_path / "s", "x")

    for name in ("t", "s"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "no space left in {folder}: free some, or set QLENS_CACHE_DIR to a larger"),
        (errno.EDQUOT, "no space left in {folder}: the disk quota is used up: free some, or set"),
        (errno.EACCES, "cannot write {folder}/file: Permission denied: set QLENS_CACHE_DIR"),
    ],
)
@pytest.mark.parametrize("writer", ["text", "tensors", "safetensors"])
def test_a_failed_write_gets_one_line_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str, writer: str
) -> None:
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path))
    path = tmp_path / "file"
    write_bytes_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    def fail_in_rust(*_: object) -> None:
        # What safetensors raises on a full disk.
        raise SafetensorError(f"Error: I/O error: {os.strerror(code)} (os error {code})")

    if writer == "safetensors":
        monkeypatch.setattr("safetensors.torch.save_file", fail_in_rust)
    else:
        monkeypatch.setattr(os, "fsync", fail)

    def write() -> None:
        if writer == "text":
            write_text_atomically(path, "new")
        else:
            write_tensors(path, {"a": torch.ones(1)}, {})

    with pytest.raises(StoreError) as refused:
        write()

    assert one_line(refused).startswith(told.format(folder=tmp_path))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_writer_killed_in_the_middle_leaves_the_old_file_and_a_leftover(tmp_path: Path) -> None:
    path = tmp_path / "operators" / "f" / "note.json"
    write_text_atomically(path, "old")
    code = (
        "import os, sys; from pathlib import Path; from lens_core.storage import files as store;"
        "os.fsync = lambda _: os.kill(os.getpid(), 9);"
        "store.write_text_atomically(Path(sys.argv[1]), 'new')"
    )
    assert run_python(code, path).wait() == -signal.SIGKILL

    assert path.read_text() == "old"
    assert cache_info(tmp_path)["leftovers"] == Usage(entries=1, bytes=3)
    (damage,) = cache_verify(tmp_path, repair=True)
    assert damage.outcome == "removed"
    assert damage.reason == "left by a killed process"
    assert os.listdir(path.parent) == ["note.json"]


def test_what_a_living_process_is_writing_is_no_leftover(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from lens_core.storage import files as store;"
        "os.fsync = lambda _: print('writing', flush=True) or sys.stdin.read();"
        "store.write_text_atomically(Path(sys.argv[1]), 'new')"
    )
    with run_python(code, tmp_path / "operators" / "x.json") as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert len(os.listdir(tmp_path / "operators")) == 1

        assert cache_verify(tmp_path, repair=True) == []
        with pytest.raises(StoreError, match=r"x\.json.* is being written"):
            cache_clear(tmp_path)
        writer.communicate("")
    assert (tmp_path / "operators" / "x.json").read_text() == "new"


def test_a_builder_is_told_which_process_is_already_building(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lens_core.storage.files import build_lock\n"
        "with build_lock(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    with run_python(code, tmp_path / "set") as builder:
        assert builder.stdout is not None
        builder.stdout.readline()

        with (
            pytest.raises(StoreError, match=rf"^process {builder.pid} on \S+ is building "),
            build_lock(tmp_path / "set"),
        ):
            pytest.fail("two builders at once")
        with build_lock(tmp_path / "another"):
            pass
        builder.kill()
        builder.wait()

    with (
        build_lock(tmp_path / "set"),  # a killed builder holds nothing
        pytest.raises(StoreError, match=f"process {os.getpid()} on"),
        build_lock(tmp_path / "set"),
    ):
        pytest.fail("two builders at once")


def test_a_filesystem_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)

    with pytest.raises(StoreError) as refused, build_lock(tmp_path):
        pytest.fail("built without a lock")
    assert "has no locks (No locks available): set QLENS_CACHE_DIR" in one_line(refused)
