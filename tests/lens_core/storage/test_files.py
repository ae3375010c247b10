"""Files of tensors and text come back as they were, or are refused; and one process builds."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from lens_core.errors import StoreError
from lens_core.storage.files import (
    build_lock,
    cache_dir,
    fingerprint,
    open_tensors,
    verify_tensors,
    versions,
    write_bytes_atomically,
    write_tensors,
    write_text_atomically,
)
from lens_core.storage.maintenance import Usage, cache_clear, cache_info, cache_verify
from tests.lens_core.cache_files import JSON, one_line, run_python


def test_the_cache_directory_is_made_where_the_user_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path / "a" / "b"))
    assert cache_dir() == tmp_path / "a" / "b"
    assert cache_dir().is_dir()

    monkeypatch.delenv("QLENS_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir().is_relative_to(tmp_path)
    assert cache_dir().name == "qlens"


@pytest.mark.parametrize("place", ["{file}", "{file}/below", "/proc/qlens"])
def test_an_unusable_cache_directory_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("QLENS_CACHE_DIR", place.format(file=file))

    with pytest.raises(StoreError) as refused:
        cache_dir()

    assert "set QLENS_CACHE_DIR" in one_line(refused)
    assert place.format(file=file) in str(refused.value)


def test_a_cache_directory_that_cannot_be_written_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path))
    if os.geteuid() == 0:  # no mode bits stop root
        monkeypatch.setattr(os, "access", lambda *_: False)
    tmp_path.chmod(0o500)

    with pytest.raises(StoreError, match="cannot write to cache directory"):
        cache_dir()


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    one = fingerprint({"model": "m", "settings": {"k": 25, "off": ["attn.1"]}})
    other = fingerprint({"settings": {"off": ["attn.1"], "k": 25}, "model": "m"})

    assert one == other
    assert len(bytes.fromhex(one)) == 32


def test_a_fingerprint_never_changes_between_releases() -> None:
    canonical = rb'{"a":"\u00e9","b":[1,0.1,null,true]}'

    found = fingerprint({"b": [1, 0.1, None, True], "a": "é"})

    assert found == hashlib.sha256(canonical).hexdigest()


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3), st.text(max_size=3), JSON)
def test_another_value_gives_another_fingerprint(
    content: dict[str, Any], key: str, value: Any
) -> None:
    # 1, 1.0 and True are equal to Python but not the same setting.
    assume(repr(content.get(key, ...)) != repr(value))

    assert fingerprint(content) != fingerprint(content | {key: value})


@pytest.mark.parametrize(
    "content", [{"x": float("nan")}, {"x": float("inf")}, {"x": {1: 2}}, {"x": b""}, {"x": {1, 2}}]
)
def test_what_json_would_bend_has_no_fingerprint(content: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        fingerprint(content)


def test_versions_are_read_without_importing_anything() -> None:
    found = versions()
    assert found["torch"] == version("torch")
    assert set(found) == {"qlens", "torch", "transformers", "transformer_lens", "sae_lens"}

    code = (
        "import sys; from lens_core.storage import files as store;"
        "store.versions(); store.fingerprint({});"
        "heavy = {'torch', 'numpy', 'transformers', 'sae_lens', 'safetensors'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _tensors() -> dict[str, torch.Tensor]:
    stacked = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return {
        "double": torch.tensor([0.1, -0.0, 1e300], dtype=torch.float64),
        "short": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "flags": torch.tensor([[True, False]]),
        "ids": torch.tensor([1 << 40]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 5),
        "transposed": stacked[0].T,
        "view": stacked[0],
        "neighbour": stacked[1],
        "trained": torch.ones(2, requires_grad=True),
    }


def test_tensors_come_back_to_the_bit_with_their_metadata(tmp_path: Path) -> None:
    path = tmp_path / "new" / "operators.safetensors"
    tensors = _tensors()

    checksum = write_tensors(path, tensors, {"model": "é\n", "convention": "paper"})

    verify_tensors(path)
    with open_tensors(path) as file:
        assert file.metadata == {"model": "é\n", "convention": "paper", "sha256": checksum}
        assert file.keys() == sorted(tensors)
        for name, tensor in tensors.items():
            assert file.get(name).dtype == tensor.dtype
            assert torch.equal(file.get(name), tensor.detach())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_checksum_depends_on_the_content_alone(tmp_path: Path) -> None:
    tensors = _tensors()
    backwards = dict(reversed(tensors.items()))

    one = write_tensors(tmp_path / "one", tensors, {"a": "1", "b": "2"})

    assert write_tensors(tmp_path / "two", backwards, {"b": "2", "a": "1"}) == one
    assert write_tensors(tmp_path / "two", tensors, {"a": "1", "b": "3"}) != one
    flags = tensors["flags"]
    for changed in (
        {**tensors, "double": tensors["double"] + 1e-15},
        {**tensors, "flags": flags.to(torch.uint8)},
        {**tensors, "flags": flags.T},
        {("other" if name == "flags" else name): t for name, t in tensors.items()},
    ):
        assert write_tensors(tmp_path / "two", changed, {"a": "1", "b": "2"}) != one


def test_a_reader_of_the_cache_may_be_somebody_else(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()

    write_tensors(tmp_path / "t", {"a": torch.ones(1)}, {})
    write_text_atomically(tmp_path / "s", "x")

    for name in ("t", "s"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@settings(deadline=None)
@given(data=st.data())
def test_any_changed_byte_of_a_tensor_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    write_tensors(path, {"a": torch.arange(6.0), "b": torch.ones(2)}, {"model": "m"})
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    # Blanks that pad the header carry nothing.
    assume(content[at] != ord(" "))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    with pytest.raises(StoreError) as refused:
        verify_tensors(path)
    one_line(refused)


@settings(deadline=None)
@given(st.data())
def test_a_truncated_tensor_file_does_not_open(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "truncated.safetensors"
    write_tensors(path, {"a": torch.arange(6.0)}, {})
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])

    with pytest.raises(StoreError, match="is damaged or not finished"):
        open_tensors(path)


def test_a_file_that_is_no_tensor_file_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello, this is no safetensors file at all")
    with pytest.raises(StoreError, match="is damaged or not finished"):
        open_tensors(tmp_path / "text")
    with pytest.raises(StoreError, match="no such file"):
        open_tensors(tmp_path / "absent")
    with pytest.raises(StoreError, match="cannot read"):
        open_tensors(tmp_path)


def test_an_unknown_tensor_and_a_missing_checksum_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")

    with open_tensors(tmp_path / "foreign.safetensors") as file:
        with pytest.raises(StoreError, match="has no readable nothing"):
            file.get("nothing")
        with pytest.raises(StoreError, match="carries no checksum"):
            file.verify()


def test_the_checksums_place_in_the_metadata_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sha256"):
        write_tensors(tmp_path / "t", {}, {"sha256": "mine"})


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "no space left in {folder}: free some or set QLENS_CACHE_DIR"),
        (errno.EDQUOT, "no space left in {folder}: free some or set QLENS_CACHE_DIR"),
        (errno.EACCES, "cannot write {folder}/file: Permission denied: set QLENS_CACHE_DIR"),
    ],
)
@pytest.mark.parametrize("writer", ["text", "tensors", "safetensors"])
def test_a_failed_write_gets_one_line_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str, writer: str
) -> None:
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
    assert damage.removed
    assert damage.reason == "left by a killed writer"
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
