"""The cache is counted, checked and cleared, also while other processes use it."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lens_core.errors import StoreError, UsageError
from lens_core.storage.checksum_lists import write_checksums
from lens_core.storage.files import build_lock, temporary_beside, write_text_atomically
from lens_core.storage.maintenance import Usage, cache_clear, cache_info, cache_verify
from lens_core.storage.results import ResultCache
from lens_core.storage.tensors import write_tensors
from tests.lens_core.cache_files import overwrite


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
        "contexts": (0, 0),
        "lenses": (0, 0),
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
    assert all(d.remains for d in found)
    assert "checksum does not match" in next(d.reason for d in found if d.path == damaged)
    assert all(path.exists() for path in (damaged, truncated, stray, hidden))

    repaired = cache_verify(tmp_path, repair=True)
    assert {d.path for d in repaired if d.outcome} == {damaged, truncated, stray, hidden}
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
        ["models", "operators", "atlas", "contexts", "lenses", "results", "leftovers"], 0
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
    overwrite(tmp_path / "results" / "cache.db")

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
    overwrite(tmp_path / "results" / "cache.db")
    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)

    assert [bool(d.outcome) for d in cache_verify(tmp_path, repair=True)] == [False, False]
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
    assert not any(d.remains for d in cache_verify(tmp_path, repair=True))


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

    with pytest.raises(
        UsageError, match="choose from models, operators, atlas, contexts, lenses, results"
    ):
        cache_clear(tmp_path, ["models", "weights"])
    assert cache_info(tmp_path)["models"].entries == 1
