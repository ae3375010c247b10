"""Small results are read back unchanged or count as missing, and nothing is unpickled."""

from __future__ import annotations

import os
import pickle
import sqlite3
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lens_core.directories import is_network_filesystem, results_dir
from lens_core.errors import QlensWarning, StoreError
from lens_core.storage.maintenance import cache_clear, cache_info, cache_verify
from lens_core.storage.results import BytesDisk, ResultCache
from tests.lens_core.cache_files import JSON, one_line, overwrite, run_python, sql

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
            changed = sql(results, "UPDATE Cache SET mode = ?, value = ?", pickle_mode, bomb)
        elif crafted == "file":
            changed = sql(
                results,
                "UPDATE Cache SET mode = ?, value = NULL, filename = 'bomb.val'",
                pickle_mode,
            )
        elif crafted == "text":
            changed = sql(results, "UPDATE Cache SET mode = 1, value = 'plain text'")
        else:
            changed = sql(results, "UPDATE Cache SET raw = 0, key = ?", bomb)
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
        sql(tmp_path / "results", "UPDATE Cache SET value = ? WHERE key = 'a'", bytes(damaged))

        assert [bool(d.outcome) for d in cache_verify(tmp_path)] == [False]
        assert cache.get("a") is None
        assert cache_verify(tmp_path) == []
        assert cache.get("b") == {"k": 2}
        assert len(cache) == 1


def test_an_entry_moved_under_another_key_is_missing(tmp_path: Path) -> None:
    with ResultCache(tmp_path) as cache:
        cache.put("a", {"k": 1})
        sql(tmp_path, "UPDATE Cache SET key = 'b'")

        assert cache.get("b") is None


def _truncate(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2 + 100)


def _replace_by_another(database: Path) -> None:
    database.unlink()
    sql(database.parent, "CREATE TABLE Cache (mine)")


def _hijack_settings(database: Path) -> None:
    sql(database.parent, "INSERT INTO Settings VALUES ('_disk', 'x'), ('disk_x', 1)")
    sql(database.parent, "UPDATE Settings SET value = 'x' WHERE key = 'eviction_policy'")


@pytest.mark.parametrize(
    "damage",
    [overwrite, _truncate, _replace_by_another, _hijack_settings],
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
        sql(tmp_path / "results", "DROP TABLE Cache")

        assert cache.get("a") is None
        cache.put("a", {"k": 2})
        assert cache.get("a") == {"k": 2}
        sql(tmp_path / "results", "DROP TABLE Cache")
        cache.put("a", {"k": 3})
        assert cache.get("a") == {"k": 3}


def test_verify_reports_a_database_that_is_none_and_repair_removes_it(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    overwrite(tmp_path / "results" / "cache.db")

    (damage,) = cache_verify(tmp_path)
    assert damage.reason.startswith("not a readable database")
    assert damage.remains
    (damage,) = cache_verify(tmp_path, repair=True)
    assert damage.outcome == "removed"
    assert cache_verify(tmp_path) == []


def test_a_full_disk_and_a_read_only_database_get_one_line(tmp_path: Path) -> None:
    with ResultCache(tmp_path) as cache:
        cache.put("a", {"k": 1})
        connection = cache._cache._con
        ((pages,),) = connection.execute("PRAGMA page_count").fetchall()
        connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        with pytest.warns(QlensWarning) as told:
            cache.put("b", {"x": np.zeros(100_000)})
        assert f"results are not kept: no space left in {tmp_path}: free some" in str(
            told[0].message
        )
        assert cache.get("a") == {"k": 1}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cache.put("c", {"x": np.zeros(100_000)})  # it was said

    with ResultCache(tmp_path) as cache:
        cache._cache._con.execute("PRAGMA query_only = 1").fetchall()
        with pytest.warns(QlensWarning, match="read"):
            cache.put("c", {"k": 1})
        assert cache.get("a") == {"k": 1}


def test_a_results_directory_that_cannot_be_made_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path))
    (tmp_path / "file").touch()

    with pytest.raises(StoreError) as refused:
        ResultCache(tmp_path / "file" / "results")
    assert "set QLENS_CACHE_DIR" in one_line(refused)


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
        import sys; from pathlib import Path; from lens_core.storage.results import ResultCache
        me = sys.argv[2]
        with ResultCache(Path(sys.argv[1])) as cache:
            for i in range(40):
                cache.put(f"{me}:{i}", {"by": me, "i": i})
                shared = cache.get(f"shared:{i}")
                assert shared is None or shared["i"] == i
                cache.put(f"shared:{i}", {"by": me, "i": i})
    """
    writers = [run_python(code, tmp_path, me) for me in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]

    with ResultCache(tmp_path) as cache:
        assert len(cache) == 4 * 40
        for me in "abc":
            assert cache.get(f"{me}:39") == {"by": me, "i": 39}


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
