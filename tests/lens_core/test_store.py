"""What is kept on disk comes back as it was, or counts as missing; and nothing is unpickled."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pickle
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import SafetensorError
from safetensors.torch import save_file

from lens_core.errors import StoreError, UsageError
from lens_core.results import BytesDisk, ResultCache
from lens_core.store import (
    build_lock,
    cache_dir,
    fingerprint,
    is_network_filesystem,
    open_tensors,
    results_dir,
    temporary_beside,
    verify_tensors,
    versions,
    write_bytes_atomically,
    write_checksums,
    write_tensors,
    write_text_atomically,
)
from lens_core.upkeep import Usage, cache_clear, cache_info, cache_verify

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


def _one_line(refused: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message


def _run(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


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

    assert "set QLENS_CACHE_DIR" in _one_line(refused)
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
        "import sys; from lens_core import store; store.versions(); store.fingerprint({});"
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
    _one_line(refused)


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

    assert _one_line(refused).startswith(told.format(folder=tmp_path))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_writer_killed_in_the_middle_leaves_the_old_file_and_a_leftover(tmp_path: Path) -> None:
    path = tmp_path / "operators" / "f" / "note.json"
    write_text_atomically(path, "old")
    code = (
        "import os, sys; from pathlib import Path; from lens_core import store;"
        "os.fsync = lambda _: os.kill(os.getpid(), 9);"
        "store.write_text_atomically(Path(sys.argv[1]), 'new')"
    )
    assert _run(code, path).wait() == -signal.SIGKILL

    assert path.read_text() == "old"
    assert cache_info(tmp_path)["leftovers"] == Usage(entries=1, bytes=3)
    (damage,) = cache_verify(tmp_path, repair=True)
    assert damage.removed
    assert damage.reason == "left by a killed writer"
    assert os.listdir(path.parent) == ["note.json"]


def test_what_a_living_process_is_writing_is_no_leftover(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from lens_core import store;"
        "os.fsync = lambda _: print('writing', flush=True) or sys.stdin.read();"
        "store.write_text_atomically(Path(sys.argv[1]), 'new')"
    )
    with _run(code, tmp_path / "operators" / "x.json") as writer:
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
        "import sys; from pathlib import Path; from lens_core.store import build_lock\n"
        "with build_lock(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    with _run(code, tmp_path / "set") as builder:
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
    assert "has no locks (No locks available): set QLENS_CACHE_DIR" in _one_line(refused)


ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.dtype(">f4")]),
    hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
)


@settings(deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dictionaries(st.text(max_size=4), JSON, max_size=3),
    st.dictionaries(st.sampled_from("xyz"), ARRAYS, max_size=2),
)
def test_a_result_comes_back_as_it_was_put(
    tmp_path_factory: pytest.TempPathFactory,
    key: str,
    plain: dict[str, Any],
    arrays: dict[str, np.ndarray[Any, Any]],
) -> None:
    with ResultCache(tmp_path_factory.getbasetemp() / "results") as cache:
        cache.put(key, plain | arrays)
        found = cache.get(key)

    assert found is not None
    assert found.keys() == (plain | arrays).keys()
    for name, value in plain.items():
        if name not in arrays:
            assert repr(found[name]) == repr(value)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype.newbyteorder("<")
        np.testing.assert_array_equal(found[name], array)


def test_a_result_that_was_never_put_is_missing_and_a_second_put_replaces(tmp_path: Path) -> None:
    with ResultCache(tmp_path) as cache:
        assert cache.get("a") is None
        cache.put("a", {"k": 1})
        cache.put("a", {"k": 2})
        assert cache.get("a") == {"k": 2}
        assert len(cache) == 1
    with ResultCache(tmp_path) as again:
        assert again.get("a") == {"k": 2}


@pytest.mark.parametrize("payload", [{"x": {1, 2}}, {"x": {1: 2}}, {"x": object()}, {"x": b"b"}])
def test_a_payload_that_is_no_json_is_refused_and_not_pickled(
    tmp_path: Path, payload: dict[str, Any]
) -> None:
    with ResultCache(tmp_path) as cache:
        with pytest.raises(TypeError):
            cache.put("a", payload)
        assert len(cache) == 0


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def _sql(results: Path, statement: str, *values: object) -> int:
    database = sqlite3.connect(results / "cache.db")
    with database:
        changed = database.execute(statement, values).rowcount
    database.close()
    return changed


@pytest.mark.parametrize("crafted", ["value", "file", "text", "key"])
def test_a_row_that_claims_to_be_pickled_is_never_unpickled(tmp_path: Path, crafted: str) -> None:
    results, exploded = tmp_path / "results", tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(exploded))
    pickle.loads(bomb)  # the bomb works
    exploded.rmdir()
    with ResultCache(results) as cache:
        cache.put("a", {"k": 1})
        (results / "bomb.val").write_bytes(bomb)
        pickle_mode = 4
        if crafted == "value":
            changed = _sql(results, "UPDATE Cache SET mode = ?, value = ?", pickle_mode, bomb)
        elif crafted == "file":
            changed = _sql(
                results,
                "UPDATE Cache SET mode = ?, value = NULL, filename = 'bomb.val'",
                pickle_mode,
            )
        elif crafted == "text":
            changed = _sql(results, "UPDATE Cache SET mode = 1, value = 'plain text'")
        else:
            changed = _sql(results, "UPDATE Cache SET raw = 0, key = ?", bomb)
        assert changed == 1

        (damage,) = cache_verify(tmp_path)
        assert "is damaged" in damage.reason
        assert cache.get("a") is None
        assert len(cache) == (1 if crafted == "key" else 0)
        assert len(cache_verify(tmp_path, repair=True)) == (1 if crafted == "key" else 0)
        assert len(cache) == 0
    assert not exploded.exists()
    assert (results / "bomb.val").exists()  # no row makes us remove a file


@pytest.mark.parametrize("value", [object(), "text", 3, None, bytearray(b"x"), [b"x"]])
def test_the_disk_takes_bytes_and_nothing_else(tmp_path: Path, value: object) -> None:
    disk = BytesDisk(str(tmp_path))

    with pytest.raises(TypeError):
        disk.store(value, read=False)
    with pytest.raises(TypeError):
        disk.store(b"x", read=True)
    if not isinstance(value, str | int):
        with pytest.raises(TypeError):
            disk.put(value)
    with pytest.raises(TypeError):
        disk.put(1 << 64)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("at", [0, 20, -1])
def test_a_damaged_entry_is_missing_and_dropped(tmp_path: Path, at: int) -> None:
    with ResultCache(tmp_path / "results") as cache:
        cache.put("a", {"k": 1, "x": np.arange(3)})
        cache.put("b", {"k": 2})
        ((value,),) = sqlite3.connect(tmp_path / "results/cache.db").execute(
            "SELECT value FROM Cache WHERE key = 'a'"
        )
        damaged = bytearray(value)
        damaged[at] ^= 1
        _sql(tmp_path / "results", "UPDATE Cache SET value = ? WHERE key = 'a'", bytes(damaged))

        assert [d.removed for d in cache_verify(tmp_path)] == [False]
        assert cache.get("a") is None
        assert cache_verify(tmp_path) == []
        assert cache.get("b") == {"k": 2}
        assert len(cache) == 1


def test_an_entry_moved_under_another_key_is_missing(tmp_path: Path) -> None:
    with ResultCache(tmp_path) as cache:
        cache.put("a", {"k": 1})
        _sql(tmp_path, "UPDATE Cache SET key = 'b'")

        assert cache.get("b") is None


def _overwrite(database: Path) -> None:
    database.write_bytes(b"this is not a database, but it is long enough to be taken for one" * 99)


def _truncate(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2 + 100)


def _replace_by_another(database: Path) -> None:
    database.unlink()
    _sql(database.parent, "CREATE TABLE Cache (mine)")


def _hijack_settings(database: Path) -> None:
    _sql(database.parent, "INSERT INTO Settings VALUES ('_disk', 'x'), ('disk_x', 1)")
    _sql(database.parent, "UPDATE Settings SET value = 'x' WHERE key = 'eviction_policy'")


@pytest.mark.parametrize(
    "damage",
    [_overwrite, _truncate, _replace_by_another, _hijack_settings],
    ids=lambda f: f.__name__,
)
def test_a_damaged_database_is_begun_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    results = tmp_path / "results"
    with ResultCache(results) as cache:
        for key in "abcdef":
            cache.put(key, {"x": np.zeros(2000)})
    damage(results / "cache.db")

    with ResultCache(results) as cache:
        assert cache.get("a") is None or cache.get("a")["x"].shape == (2000,)
        cache.put("g", {"k": 1})
        assert cache.get("g") == {"k": 1}
    assert cache_info(tmp_path)["leftovers"].entries == 0


def test_a_database_damaged_while_it_is_open_is_begun_anew(tmp_path: Path) -> None:
    with ResultCache(tmp_path / "results") as cache:
        cache.put("a", {"k": 1})
        _sql(tmp_path / "results", "DROP TABLE Cache")

        assert cache.get("a") is None
        cache.put("a", {"k": 2})
        assert cache.get("a") == {"k": 2}
        _sql(tmp_path / "results", "DROP TABLE Cache")
        cache.put("a", {"k": 3})
        assert cache.get("a") == {"k": 3}


def test_verify_reports_a_database_that_is_none_and_repair_removes_it(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    _overwrite(tmp_path / "results" / "cache.db")

    (damage,) = cache_verify(tmp_path)
    assert damage.reason.startswith("not a readable database")
    assert not damage.removed
    (damage,) = cache_verify(tmp_path, repair=True)
    assert damage.removed
    assert cache_verify(tmp_path) == []


def test_a_full_disk_and_a_read_only_database_get_one_line(tmp_path: Path) -> None:
    with ResultCache(tmp_path) as cache:
        cache.put("a", {"k": 1})
        connection = cache._cache._con
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        with pytest.raises(StoreError) as refused:
            cache.put("b", {"x": np.zeros(100_000)})
        assert _one_line(refused).startswith(f"no space left in {tmp_path.parent}: free some")
        assert cache.get("a") == {"k": 1}

        connection.execute("PRAGMA query_only = 1").fetchall()
        with pytest.raises(StoreError) as refused:
            cache.put("c", {"k": 1})
        assert "read" in _one_line(refused)
        assert cache.get("a") == {"k": 1}


def test_a_results_directory_that_cannot_be_made_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreError) as refused:
        ResultCache(tmp_path / "file" / "results")
    assert "set QLENS_CACHE_DIR" in _one_line(refused)


def test_the_oldest_results_go_when_the_cache_is_full(tmp_path: Path) -> None:
    limit = 1 << 20
    with ResultCache(tmp_path, size_limit=limit) as cache:
        for i in range(400):
            cache.put(str(i), {"x": np.full(1000, float(i))})
        newest, oldest = cache.get("399"), cache.get("0")
    size = (tmp_path / "cache.db").stat().st_size

    assert newest is not None
    assert newest["x"][0] == 399
    assert oldest is None
    assert limit / 4 < size < limit * 1.1


def test_processes_share_results(tmp_path: Path) -> None:
    code = """if True:
        import sys; from pathlib import Path; from lens_core.results import ResultCache
        me = sys.argv[2]
        with ResultCache(Path(sys.argv[1])) as cache:
            for i in range(40):
                cache.put(f"{me}:{i}", {"by": me, "i": i})
                shared = cache.get(f"shared:{i}")
                assert shared is None or shared["i"] == i
                cache.put(f"shared:{i}", {"by": me, "i": i})
    """
    writers = [_run(code, tmp_path, me) for me in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]

    with ResultCache(tmp_path) as cache:
        assert len(cache) == 4 * 40
        for me in "abc":
            assert cache.get(f"{me}:39") == {"by": me, "i": 39}


def _filled(directory: Path) -> Path:
    """A cache of one model, two operator sets of two files each, and three results."""
    tensors = {"a": torch.arange(100.0)}
    write_tensors(directory / "models" / "m" / "model.safetensors", tensors, {})
    for operators in ("one", "two"):
        write_tensors(directory / "operators" / operators / "key.safetensors", tensors, {})
        write_tensors(directory / "operators" / operators / "value.safetensors", tensors, {})
        write_text_atomically(directory / "operators" / operators / "manifest.json", "{}")
    with ResultCache(directory / "results") as cache:
        for key in "abc":
            cache.put(key, {"k": 1})
    return directory


def test_info_counts_entries_and_bytes_by_kind(tmp_path: Path) -> None:
    empty = cache_info(tmp_path)
    assert {kind: (u.entries, u.bytes) for kind, u in empty.items()} == {
        "models": (0, 0),
        "operators": (0, 0),
        "atlas": (0, 0),
        "results": (0, 0),
        "leftovers": (0, 0),
    }
    assert os.listdir(tmp_path) == []

    usage = cache_info(_filled(tmp_path))

    file = (tmp_path / "models" / "m" / "model.safetensors").stat().st_size
    assert usage["models"] == Usage(1, file)
    assert usage["operators"] == Usage(2, 4 * file + 4)
    assert usage["results"].entries == 3
    assert usage["results"].bytes >= 4096


def test_verify_finds_what_is_damaged_and_repair_removes_just_that(tmp_path: Path) -> None:
    assert cache_verify(_filled(tmp_path)) == []
    damaged = tmp_path / "operators" / "one" / "key.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    truncated = tmp_path / "models" / "m" / "model.safetensors"
    os.truncate(truncated, 60)
    stray = tmp_path / "operators" / "two" / "value.safetensors.tmp"
    stray.write_bytes(b"half")
    hidden = tmp_path / "operators" / "two" / ".tmpQ1w2E3"
    hidden.write_bytes(b"half")

    found = cache_verify(tmp_path)
    assert {d.path for d in found} == {damaged, truncated, stray, hidden}
    assert not any(d.removed for d in found)
    assert "checksum does not match" in next(d.reason for d in found if d.path == damaged)
    assert all(path.exists() for path in (damaged, truncated, stray, hidden))

    repaired = cache_verify(tmp_path, repair=True)
    assert {d.path for d in repaired if d.removed} == {damaged, truncated, stray, hidden}
    assert cache_verify(tmp_path) == []
    assert (tmp_path / "operators" / "one" / "value.safetensors").exists()
    assert cache_info(tmp_path)["results"].entries == 3


def test_clear_removes_the_kinds_it_is_told_and_says_how_much(tmp_path: Path) -> None:
    _filled(tmp_path)
    (tmp_path / "operators" / "x.tmp").write_bytes(b"12345")
    before = cache_info(tmp_path)

    freed = cache_clear(tmp_path, ["operators"])

    after = cache_info(tmp_path)
    assert freed == before["operators"].bytes + 5
    assert after["operators"] == Usage(0, 0)
    assert after["leftovers"].entries == 0
    assert (after["models"], after["results"].entries) == (before["models"], 3)

    assert cache_clear(tmp_path) > 0
    assert {kind: u.entries for kind, u in cache_info(tmp_path).items()} == dict.fromkeys(
        ["models", "operators", "atlas", "results", "leftovers"], 0
    )
    assert cache_clear(tmp_path / "absent") == 0


def test_clear_leaves_a_running_app_with_a_cache_that_works(tmp_path: Path) -> None:
    with ResultCache(tmp_path / "results") as running:
        running.put("a", {"x": np.zeros(100_000)})
        assert cache_clear(tmp_path) > 800_000

        assert running.get("a") is None
        running.put("b", {"k": 2})
        with ResultCache(tmp_path / "results") as another:
            assert another.get("b") == {"k": 2}


def test_an_app_outlives_the_removal_of_its_results(tmp_path: Path) -> None:
    with ResultCache(tmp_path / "results") as running:
        running.put("a", {"k": 1})
        shutil.rmtree(tmp_path / "results")

        for key in "bc":
            running.put(key, {"k": 2})
            assert running.get(key) == {"k": 2}


def test_a_full_disk_can_still_be_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(sqlite3.Connection):
        def execute(self, *_: object) -> sqlite3.Cursor:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    _filled(tmp_path)
    connect = sqlite3.connect
    with monkeypatch.context() as disk:
        disk.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Full))
        cache_clear(tmp_path)

    assert not (tmp_path / "results").exists()
    assert cache_info(tmp_path)["operators"].entries == 0


def test_clear_removes_a_database_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    _overwrite(tmp_path / "results" / "cache.db")

    assert cache_clear(tmp_path, ["results"]) > 0
    assert not (tmp_path / "results" / "cache.db").exists()


def test_operators_that_are_being_built_are_not_cleared(tmp_path: Path) -> None:
    _filled(tmp_path)

    with (
        build_lock(tmp_path / "operators" / "two"),
        pytest.raises(StoreError, match=f"process {os.getpid()} on .* is building"),
    ):
        cache_clear(tmp_path)

    assert (tmp_path / "operators" / "two" / "key.safetensors").exists()


def test_what_cannot_be_removed_is_not_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    _filled(tmp_path)
    os.truncate(tmp_path / "models" / "m" / "model.safetensors", 60)
    _overwrite(tmp_path / "results" / "cache.db")
    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)

    assert [d.removed for d in cache_verify(tmp_path, repair=True)] == [False, False]
    with pytest.raises(StoreError, match=f"cannot remove {tmp_path}/models/m"):
        cache_clear(tmp_path)
    with pytest.raises(StoreError, match=f"cannot write {tmp_path}/results"):
        cache_clear(tmp_path, ["results"])


@pytest.mark.parametrize("kind", ["operators", "models"])
def test_shards_and_models_that_are_being_made_are_not_cleared(tmp_path: Path, kind: str) -> None:
    _filled(tmp_path)
    with ExitStack() as busy:
        if kind == "operators":
            busy.enter_context(
                build_lock(tmp_path / "operators" / "two" / "locks" / "shard-1-of-2")
            )
        else:
            temporary_beside(tmp_path / "models" / "another").mkdir()

        with pytest.raises(StoreError, match=r"is building|is being written"):
            cache_clear(tmp_path)
        assert cache_verify(tmp_path, repair=True) == []

    usage = cache_info(tmp_path)
    assert (usage["models"].entries, usage["operators"].entries) == (1, 2)
    assert usage["results"].entries == 3


def test_files_that_others_wrote_are_checked_by_the_sums_beside_them(tmp_path: Path) -> None:
    model = tmp_path / "models" / "m"
    model.mkdir(parents=True)
    save_file({"a": torch.ones(4)}, model / "model.safetensors")
    (model / "config.json").write_text("{}")
    assert cache_verify(tmp_path) == []
    os.truncate(model / "model.safetensors", 70)
    (damage,) = cache_verify(tmp_path)
    assert "not finished" in damage.reason

    save_file({"a": torch.ones(4)}, model / "model.safetensors")
    write_checksums(model)
    assert cache_verify(tmp_path) == []
    for name in ("model.safetensors", "config.json"):
        content = bytearray((model / name).read_bytes())
        content[-1] ^= 1
        (model / name).write_bytes(content)
    assert [d.path.name for d in cache_verify(tmp_path)] == ["config.json", "model.safetensors"]
    assert all(d.removed for d in cache_verify(tmp_path, repair=True))


def test_the_sums_are_those_of_the_usual_tool(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(b"hello\n")

    write_checksums(tmp_path)

    hello = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert (tmp_path / "SHA256SUMS").read_text() == f"{hello}  a b\n"


def test_clear_never_follows_a_link_out_of_the_cache(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.safetensors").write_bytes(b"mine")
    cache = _filled(tmp_path / "cache")
    (cache / "models" / "link").symlink_to(outside)

    cache_clear(cache)

    assert (outside / "mine.safetensors").read_bytes() == b"mine"
    assert not os.path.lexists(cache / "models" / "link")


def test_an_unknown_kind_is_refused_before_anything_is_removed(tmp_path: Path) -> None:
    _filled(tmp_path)

    with pytest.raises(UsageError, match="choose from models, operators, atlas, results"):
        cache_clear(tmp_path, ["models", "weights"])
    assert cache_info(tmp_path)["models"].entries == 1


def _mount(monkeypatch: pytest.MonkeyPatch, **kinds: str) -> None:
    mounts = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in kinds.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)


@pytest.mark.parametrize("order", [1, -1])
def test_the_longest_mount_decides_whether_a_path_is_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    home = tmp_path / "home"
    mounts = {
        "/": "ext4",
        str(home): "nfs4",
        str(home / "scratch"): "xfs",
        str(home / "team"): "fuse.sshfs",
        str(tmp_path / "hom"): "ext4",
    }
    _mount(monkeypatch, **dict(list(mounts.items())[::order]))

    assert is_network_filesystem(home / "me" / "not yet there")
    assert is_network_filesystem(home / "team")
    assert not is_network_filesystem(home / "scratch" / "x")
    assert not is_network_filesystem(tmp_path)
    assert not is_network_filesystem(tmp_path / "homes")


def _journal(results: Path) -> str:
    database = sqlite3.connect(results / "cache.db")
    ((mode,),) = database.execute("PRAGMA journal_mode").fetchall()
    database.close()
    return str(mode)


def test_the_write_ahead_log_is_for_local_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _mount(monkeypatch, **{"/": "ext4", str(tmp_path / "far"): "nfs"})

    for place, journal in [("near", "wal"), ("far", "delete")]:
        with ResultCache(tmp_path / place) as cache:
            cache.put("a", {"k": 1})
            assert cache.get("a") == {"k": 1}
            assert _journal(tmp_path / place) == journal


def test_results_of_a_network_cache_live_on_a_local_disk_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, far = tmp_path / "tmp", tmp_path / "far"
    local.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(local))
    _mount(monkeypatch, **{"/": "ext4", str(far): "nfs"})

    place = results_dir(far / "cache")
    assert place.is_relative_to(local)
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert results_dir(far / "cache") == place != results_dir(far / "other")
    assert results_dir(tmp_path / "near") == tmp_path / "near" / "results"

    with ResultCache(place) as cache:
        cache.put("a", {"k": 1})
    assert cache_info(far / "cache")["results"].entries == 1
    cache_clear(far / "cache")
    assert cache_info(far / "cache")["results"].entries == 0


@pytest.mark.parametrize("squat", ["open", "link", "file"])
def test_a_temporary_directory_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squat: str
) -> None:
    local, far = tmp_path / "tmp", tmp_path / "far"
    local.mkdir()
    private = local / f"qlens-{os.getuid()}"
    if squat == "open":
        private.mkdir()
        private.chmod(0o777)
    elif squat == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        private.symlink_to(tmp_path / "elsewhere")
    else:
        private.touch(0o700)
    monkeypatch.setattr("tempfile.tempdir", str(local))
    _mount(monkeypatch, **{"/": "ext4", str(far): "nfs"})

    assert results_dir(far) == far / "results"
