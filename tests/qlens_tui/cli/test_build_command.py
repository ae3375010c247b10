"""`qlens build` and `merge`: the same result whether interrupted, sharded or damaged."""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
import signal
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from lens_core.operators.contents import missing_units
from lens_core.operators.plan import Unit
from lens_core.storage.files import LOCK, build_lock
from lens_core.storage.tensors import open_tensors
from tests.qlens_tui.workplace import N_LAYERS, Workplace, make_workplace
from tests.waiting import PATIENCE, held, until

D_MODEL = 16
PASSES = 3 * 2 * D_MODEL  # three families, two halves, one micro-batch each
DOCUMENT = {"directory", "bytes", "passes", "seconds", "complete", "atlas"}
Disk = namedtuple("Disk", "total used free")
TELLS_LOCKS = """
import fcntl, os
flock = fcntl.flock
def told(handle, how):
    with open({!r}, "a") as file:
        print(os.fstat(handle).st_ino, file=file)
    return flock(handle, how)
fcntl.flock = told
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def plain(original: Workplace) -> Workplace:
    """Built in one go."""
    plain = original.with_cache("plain")
    built = plain.document("build", plain.config)
    assert built["complete"]
    assert built["passes"] == PASSES
    return plain


@pytest.fixture
def place(original: Workplace, request: pytest.FixtureRequest) -> Workplace:
    """The same model with an empty cache."""
    return original.with_cache(request.node.name)


def _operators(place: Workplace) -> Path:
    (directory,) = (place.cache / "operators").iterdir()
    return directory


def _content(place: Workplace) -> dict[str, tuple[dict[str, str], dict[str, bytes]]]:
    """All that the files say, to the last bit; safetensors writes metadata in any order."""
    return {path.name: _read(path) for path in _operators(place).glob("*.safetensors")}


def _read(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    with open_tensors(path) as file:
        tensors = {name: file.get(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
        return file.metadata, tensors


def test_a_build_says_what_it_will_take_and_how_far_it_is(place: Workplace) -> None:
    result = place.run("build", place.config, "--no-atlas")

    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    takes = f"qlens: {PASSES} passes over batches of 2 x 20 tokens on cpu, about "
    assert lines[0].startswith(takes)
    assert lines[1].startswith("qlens: 88.0 KiB when finished, 156.0 KiB while building, in /")
    assert [line.split()[1] for line in lines[2:]] == [f"{tenth}0%" for tenth in range(1, 11)]
    assert "passes/s" in lines[5]
    assert "left" in lines[5]
    assert result.stdout.startswith("operators complete, ")


def test_the_document_of_a_build_tells_its_size(plain: Workplace) -> None:
    again = plain.document("build", plain.config)

    assert again.keys() == DOCUMENT
    assert again["directory"] == str(_operators(plain))
    assert again["bytes"] == sum(
        p.stat().st_size for p in _operators(plain).rglob("*") if p.is_file()
    )
    assert again["complete"]


def test_a_complete_build_is_not_made_again(plain: Workplace) -> None:
    before = _content(plain)

    result = plain.run("build", plain.config)

    assert result.exit_code == 0
    assert "complete: nothing to build" in result.stderr
    assert plain.document("build", plain.config)["passes"] == 0
    assert _content(plain) == before


def test_shards_in_one_cache_are_the_same_to_the_last_bit(
    place: Workplace, plain: Workplace
) -> None:
    first = place.run("build", place.config, "--shard", "2/3")

    assert first.exit_code == 0
    assert "--shard 1/3, --shard 3/3 are missing" in first.stderr
    assert "not complete" in first.stdout
    assert not place.document("build", place.config, "--shard", "1/3")["complete"]
    assert "run the other shards" in place.refusal(1, "merge", place.config)
    assert place.document("build", place.config, "--shard", "3/3")["complete"]
    assert _content(place) == _content(plain)


def test_merged_shards_of_two_machines_are_the_same_to_the_last_bit(
    place: Workplace, plain: Workplace
) -> None:
    one, two = place.with_cache("one"), place.with_cache("two")
    one.document("build", one.config, "--shard", "1/2")
    two.document("build", two.config, "--shard", "2/2")

    merged = place.document("merge", place.config, str(one.cache), str(_operators(two)))

    assert merged.keys() == DOCUMENT
    assert merged["atlas"] is None
    assert merged["complete"]
    assert _content(place) == _content(plain)
    assert place.document("show", place.config, "1:3")["method"] == "operator"


def test_merging_says_what_is_no_shard(place: Workplace, plain: Workplace) -> None:
    empty = place.folder / "empty"
    empty.mkdir()

    assert "holds no shard of these operators" in place.refusal(
        1, "merge", place.config, str(empty)
    )
    line = place.refusal(1, "merge", place.config, str(plain.cache))
    assert "QLENS_SHARED_CACHE" in line


def test_operators_of_another_reference_are_refused_and_leave_nothing_behind(
    place: Workplace, original: Workplace
) -> None:
    other = original.with_cache("other-reference")
    tokens = other.write("other.json", json.dumps([[1, 2, 3], [4, 5, 6]]))
    asked = ("build", other.config, "--reference-tokens", tokens)
    other.document(*asked, "--shard", "1/2")

    shards = place.refusal(1, "merge", place.config, str(_operators(other)))
    other.document(*asked)
    finished = place.refusal(1, "merge", place.config, str(_operators(other)))

    for line in (shards, finished):
        assert f"{_operators(other)} holds operators of another model, reference" in line
        assert "copy" not in line
    assert not (place.cache / "operators").exists()
    assert place.document("build", place.config)["complete"]


def test_a_file_in_place_of_the_operators_is_one_line(place: Workplace) -> None:
    shard = place.with_cache("shard")
    shard.document("build", shard.config, "--shard", "1/2")
    place.cache.mkdir()
    (place.cache / "operators").write_text("a file")

    for command in (["merge", place.config, str(shard.cache)], ["merge", place.config]):
        line = place.refusal(1, *command)
        assert str(place.cache / "operators") in line
        assert "Not a directory" in line
        assert "set QLENS_CACHE_DIR" in line
    built = place.run("build", place.config)
    assert (built.exit_code, built.stdout) == (1, "")
    assert "Not a directory" in built.stderr.splitlines()[-1]


def test_a_shared_cache_is_used_and_not_built_again(place: Workplace, plain: Workplace) -> None:
    shared = {"QLENS_SHARED_CACHE": str(plain.cache)}

    assert place.document("show", place.config, "1:3", **shared)["method"] == "operator"
    assert place.document("build", place.config, **shared)["directory"] == str(_operators(plain))


def test_a_build_survives_ctrl_c_and_goes_on_where_it_was(
    place: Workplace, plain: Workplace
) -> None:
    asked = ("build", place.config)
    computing = place.folder / "computing"
    first = held("lens_core.operators.build._sum_unit", computing, after=2)
    process = place.start_prepared(*asked, first=first)
    until(computing.exists, "the third unit is being computed", process)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=PATIENCE)

    kept = {path: path.stat().st_mtime_ns for path in _operators(place).glob("units/*.safetensors")}
    assert process.returncode == 130
    assert printed == ""
    last = errors.splitlines()[-1]
    assert f"interrupted: {len(kept)} of 6 units are kept in {_operators(place)}" in last
    assert "run the same command again" in last
    assert "Traceback" not in errors
    assert len(kept) == 2

    resumed = place.run(*asked)
    assert resumed.exit_code == 0
    assert "of them already done" in resumed.stderr
    assert place.document(*asked)["complete"]
    assert _content(place) == _content(plain)


def test_units_that_were_kept_are_not_computed_again(place: Workplace, plain: Workplace) -> None:
    place.document("build", place.config, "--shard", "1/2")

    assert place.document("build", place.config)["passes"] == PASSES // 2
    assert _content(place) == _content(plain)


def test_a_damaged_unit_is_computed_again(place: Workplace, plain: Workplace) -> None:
    place.document("build", place.config, "--shard", "1/2")
    _damage(next(_operators(place).glob("units/*.safetensors")))

    assert place.document("build", place.config)["complete"]
    assert _content(place) == _content(plain)


def test_damaged_means_are_repaired_from_the_sums(place: Workplace, plain: Workplace) -> None:
    shutil.copytree(plain.cache, place.cache)
    for path in _operators(place).glob("mean-*.safetensors"):
        _damage(path)

    shown = place.document("show", place.config, "1:3")

    other = plain.document("show", plain.config, "1:3")
    of, expected = shown["value"]["query_lens"], other["value"]["query_lens"]
    assert of["ids"] == expected["ids"]
    # A tensor in memory and one in a mapped file are aligned otherwise: the last bit may differ.
    assert of["scores"] == pytest.approx(expected["scores"], rel=1e-6)
    assert _content(place) == _content(plain)


def test_damaged_operators_are_one_line_and_can_be_built_again(
    place: Workplace, plain: Workplace
) -> None:
    shutil.copytree(plain.cache / "operators", place.cache / "operators")
    for path in _operators(place).glob("*.safetensors"):
        _damage(path)

    line = place.refusal(1, "show", place.config, "1:3", "--no-paths")

    assert "damaged" in line
    assert "run `qlens build` again" in line
    assert place.document("build", place.config)["complete"]
    assert _content(place) == _content(plain)


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_built(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1 << 20, (1 << 20) - 1000, 1000))

    result = place.run("build", place.config)

    assert result.exit_code == 1
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert "needs 156.0 KiB more" in line
    assert "1000 B free: free 155.0 KiB" in line
    assert "QLENS_CACHE_DIR" in line
    assert not list(place.cache.glob("operators/*/units/*"))


def test_a_second_builder_of_the_same_shard_is_told_who_is_first(place: Workplace) -> None:
    place.document("build", place.config, "--shard", "1/2")
    lock = _operators(place) / "locks" / "shard-2-of-2"
    with build_lock(lock):
        result = place.run("build", place.config, "--shard", "2/2")

    assert result.exit_code == 1
    assert "is building" in result.stderr.splitlines()[-1]


def test_a_shard_that_ends_while_another_one_counts_still_finishes_the_job(
    place: Workplace, plain: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[subprocess.Popen[str]] = []
    waits = place.folder / "waits"

    def count_while_the_last_shard_ends(directory: Path) -> list[Unit]:
        missing = missing_units(directory)
        ours = str((directory / "locks" / "assemble" / LOCK).stat().st_ino)
        shard = place.start_prepared(
            "build", place.config, "--shard", "2/2", "--json", first=TELLS_LOCKS.format(str(waits))
        )
        later.append(shard)
        until(lambda: not missing_units(directory), "the last shard has its units", shard)
        until(lambda: ours in waits.read_text().split(), "it is at the lock that we hold", shard)
        return missing

    monkeypatch.setattr("lens_core.operators.build.missing_units", count_while_the_last_shard_ends)
    first = place.run("build", place.config, "--shard", "1/2")
    printed, errors = later[0].communicate(timeout=PATIENCE)

    assert first.exit_code == 0
    assert "--shard 2/2 are missing" in first.stderr
    assert "not complete" in first.stdout
    assert later[0].returncode == 0, errors
    assert json.loads(printed)["complete"]
    assert _content(place) == _content(plain)


def test_a_filesystem_without_locks_is_refused_and_nothing_is_called_done(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = place.with_cache("shard")
    shard.document("build", shard.config, "--shard", "1/2")

    def no_locks(_handle: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)

    for command in (["merge", place.config, str(shard.cache)], ["merge", place.config]):
        assert "has no locks (No locks available)" in place.refusal(1, *command)
    built = place.run("build", place.config)
    assert (built.exit_code, built.stdout) == (1, "")
    assert "has no locks (No locks available)" in built.stderr.splitlines()[-1]


def test_a_lock_that_fails_at_the_last_step_fails_the_build(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.document("build", place.config, "--shard", "1/2")
    (_operators(place) / "locks" / "assemble" / "build.lock").unlink()
    (_operators(place) / "locks" / "assemble" / "build.lock").mkdir()

    last = place.run("build", place.config, "--shard", "2/2")

    assert (last.exit_code, last.stdout) == (1, "")
    assert "assemble/build.lock: Is a directory" in last.stderr.splitlines()[-1]


def test_operators_without_a_damaged_file_are_built_again(
    place: Workplace, plain: Workplace
) -> None:
    shutil.copytree(plain.cache / "operators", place.cache / "operators")
    sums = _operators(place) / "sums-002.safetensors"
    sums.write_bytes(sums.read_bytes()[:-8])

    verified = place.run("cache", "verify")
    assert verified.exit_code == 1
    assert sums.name in verified.stdout.replace("\n", "")
    assert place.run("cache", "verify", "--repair").exit_code == 0
    assert not sums.exists()

    shown = place.document("show", place.config, "1:3", "--no-paths")
    assert shown["method"] == "operator"
    assert "run `qlens build`" in place.run("cache", "verify").stderr
    again = place.run("build", place.config)
    assert again.exit_code == 0
    assert "nothing to build" not in again.stderr
    assert again.stdout.startswith("operators complete, ")
    assert _content(place) == _content(plain)
    assert place.document("show", place.config, "1:3")["method"] == "operator"
    assert place.document("cache", "verify")["whole"]


def test_every_site_of_the_model_has_its_operators(plain: Workplace) -> None:
    names = _content(plain)

    assert sum(name.startswith("mean-") for name in names) == 2 * N_LAYERS + 1
