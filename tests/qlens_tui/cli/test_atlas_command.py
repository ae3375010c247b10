"""`qlens atlas`: the same table whether interrupted, resumed or damaged."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lens_core.atlas import atlas as atlas_module
from lens_core.atlas.files import read_atlas
from tests.qlens_tui.workplace import D_MLP, FORBIDDEN, N_LAYERS, Workplace, make_workplace
from tests.waiting import PATIENCE, held, until

ROWS = N_LAYERS * D_MLP


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Operators are built, the atlas is not; not to be changed."""
    original = make_workplace(tmp_path_factory.mktemp("original"))
    built = original.document("build", original.config, "--no-atlas")
    assert built["atlas"] is None
    assert not (original.cache / "atlas").exists()
    return original


@pytest.fixture(scope="module")
def whole_pairs(original: Workplace) -> pl.DataFrame:
    """Made in one go, two features to a piece."""
    whole = original.with_cache("pairs")
    file = whole.folder / "pairs.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atlas_module, "ROWS_PER_PIECE", 2)
        whole.run("atlas", whole.config, "-o", str(file), QLENS_SHARED_CACHE=str(original.cache))
    return read_atlas(file).frame


@pytest.fixture
def place(original: Workplace, request: pytest.FixtureRequest) -> Workplace:
    """Operators to read, and a cache of one's own."""
    return original.with_cache(request.node.name)


@pytest.fixture(autouse=True)
def _shared(original: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLENS_SHARED_CACHE", str(original.cache))


@pytest.fixture(scope="module")
def table(original: Workplace) -> pl.DataFrame:
    """Made in one go."""
    whole = original.with_cache("whole")
    file = whole.folder / "whole.parquet"
    made = whole.run("atlas", whole.config, "-o", str(file), QLENS_SHARED_CACHE=str(original.cache))
    assert made.exit_code == 0, made.stderr
    return read_atlas(file).frame


def _pieces(place: Workplace) -> list[Path]:
    return sorted(place.cache.glob("atlas/*/*.parquet"))


def test_a_run_says_how_far_it_is_and_sums_the_table_up(place: Workplace) -> None:
    file = place.folder / "table.parquet"
    result = place.run("atlas", place.config, "-o", str(file))

    assert result.exit_code == 0
    assert (
        result.stderr.splitlines()[-1]
        == f"qlens: tabulating layer 2 (3 of 3): 100% ({ROWS} of {ROWS} features)"
    )
    means, head, *rest = result.stdout.splitlines()
    layers, total, path = rest[:N_LAYERS], rest[N_LAYERS], "".join(rest[N_LAYERS + 1 :])
    names = "layer features silent value gain key gain value stab key stab"
    assert " ".join(head.split()) == names
    assert means.split() == ["mean"] * 4
    assert [line.split()[:2] for line in layers] == [[str(i), "24"] for i in range(N_LAYERS)]
    assert total.startswith(f"{ROWS} features, ")
    assert path == str(file)


def test_rows_are_what_show_prints(place: Workplace, table: pl.DataFrame) -> None:
    for layer, feature in ((0, 3), (1, 23), (2, 11)):
        shown = place.document("show", place.config, f"{layer}:{feature}", "--no-paths")
        row = table.filter(layer=layer, feature=feature).row(0, named=True)
        assert shown["method"] == "operator"
        for side in ("value", "key"):
            for ours, theirs in (("logit", "logit_lens"), ("query", "query_lens")):
                assert row[f"{side}_{ours}_ids"] == shown[side][theirs]["ids"]
                assert row[f"{side}_{ours}_tokens"] == shown[side][theirs]["tokens"]
                scores = shown[side][theirs]["scores"]
                assert row[f"{side}_{ours}_scores"] == pytest.approx(scores, rel=1e-4, abs=1e-6)
            assert row[f"{side}_query_moved"] == shown[side]["query_lens"]["moved"]
            assert row[f"{side}_stability"] == pytest.approx(shown[side]["stability"])
        for ours, theirs in (
            ("logit", "logit_lens"), ("query", "query_lens"), ("first_order", "first_order")
        ):  # fmt: skip
            length = row["key_norm" if ours == "logit" else f"key_{ours}_norm"]
            units = [score / length for score in row[f"key_{ours}_scores"]]
            assert units == pytest.approx(shown["key"][theirs]["unit_scores"], rel=1e-4, abs=1e-6)
        activity = shown["activity"]
        assert row["silent"] == activity["silent"]
        assert row["density"] == pytest.approx(activity["density"])
        places = [(each["sample"], each["position"]) for each in activity["contexts"]]
        assert list(zip(row["context_samples"], row["context_positions"], strict=True)) == places
        assert row["context_tokens"] == [each["token"] for each in activity["contexts"]]


def test_the_document_tells_the_layers_and_where_they_come_from(place: Workplace) -> None:
    file = place.folder / "table.ndjson"
    found = place.document("atlas", place.config, "--layers", "0,2", "-k", "3", "-o", str(file))

    assert found["file"] == str(file)
    assert found["bytes"] == file.stat().st_size
    assert found["rows"] == 2 * D_MLP
    assert [each["layer"] for each in found["layers"]] == [0, 2]
    assert [each["features"] for each in found["layers"]] == [D_MLP, D_MLP]
    rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
    assert len(rows) == 2 * D_MLP
    assert {len(row["key_query_ids"]) for row in rows} == {3}
    gains = [row["key_gain"] for row in rows if row["layer"] == 2]
    assert found["layers"][1]["key_gain"] == pytest.approx(sum(gains) / D_MLP, abs=1e-5)
    assert found["silent"] == sum(row["silent"] for row in rows)
    assert found["provenance"]["k"] == 3
    assert [each["layer"] for each in found["provenance"]["layers"]] == [0, 2]


def test_without_a_file_the_cache_is_filled_and_used_from_then_on(place: Workplace) -> None:
    assert place.document("atlas", place.config)["file"] is None
    before = {path: path.stat().st_mtime_ns for path in _pieces(place)}

    again = place.run("atlas", place.config)

    assert len(before) == N_LAYERS
    assert again.stderr == ""
    assert {path: path.stat().st_mtime_ns for path in _pieces(place)} == before


def test_a_build_makes_the_atlas_too_and_a_shard_does_not(original: Workplace) -> None:
    place = original.with_cache("built")
    alone = {"QLENS_SHARED_CACHE": ""}
    for shard in ("1/2", "2/2"):
        built = place.document("build", place.config, "--shard", shard, **alone)
        assert built["atlas"] is None
    assert not (place.cache / "atlas").exists()

    result = place.run("build", place.config, **alone)

    assert result.exit_code == 0
    assert "the operators are complete: nothing to build" in result.stderr
    assert f"100% ({ROWS} of {ROWS} features)" in result.stderr
    assert f"atlas complete, {ROWS} features of 3 layers" in result.stdout
    assert [layer["layer"] for layer in place.document("build", place.config, **alone)["atlas"]]
    assert place.run("atlas", place.config, **alone).stderr == ""


def test_one_build_makes_operators_and_atlas(original: Workplace, table: pl.DataFrame) -> None:
    place = original.with_cache("at-once")
    built = place.document("build", place.config, QLENS_SHARED_CACHE="")
    assert built["complete"]
    assert sum(layer["features"] for layer in built["atlas"]) == ROWS
    file = place.folder / "table.parquet"
    assert place.run("atlas", place.config, "-o", str(file), QLENS_SHARED_CACHE="").stderr == ""
    assert_frame_equal(read_atlas(file).frame, table, check_exact=True)


def test_without_operators_the_build_is_named(place: Workplace) -> None:
    line = place.refusal(1, "atlas", place.config, QLENS_SHARED_CACHE="")
    assert line == "qlens: no operators for this model and reference: run `qlens build` first"
    assert not (place.cache / "atlas").exists()


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        (["-o", "table.csv"], 2, "end its name in .parquet, or .ndjson for JSON lines"),
        (["-o", "nowhere/table.parquet"], 1, "there is no directory nowhere"),
        (["-o", "/"], 2, "end its name"),
        (["--layers", "1,7"], 2, "there is no dictionary for layer 7: layers are 0, 1, 2"),
        (["--layers", "x"], 2, "is not a list of layers"),
        (["-k", "0"], 2, "0 is not in the range"),
        (["--reference-tokens", "nowhere.json"], 1, "nowhere.json"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_computed(
    place: Workplace, asked: list[str], status: int, told: str
) -> None:
    assert told in place.refusal(status, "atlas", place.config, *asked)
    assert _pieces(place) == []


def test_what_operators_do_not_answer_is_said(place: Workplace) -> None:
    config = place.write(
        "exact.toml",
        Path(place.config).read_text("utf-8").replace("k = 5", 'k = 5\nconvention = "exact"'),
    )
    result = place.run("atlas", config, "--layers", "1")
    assert result.exit_code == 0
    assert "convention paper, final norm apply, whatever the config says" in result.stderr


def test_strings_from_outside_are_raw_in_the_file_and_shown_visibly(
    place: Workplace, table: pl.DataFrame
) -> None:
    file = place.folder / "a\x1b[31m\u202eb.parquet"
    result = place.run("atlas", place.config, "-k", "300", "-o", str(file))

    assert result.exit_code == 0
    assert not any(sign in result.stdout for sign in FORBIDDEN)
    tokens = set(read_atlas(file).frame["value_query_tokens"].explode())
    assert {"\x1b[31mred", "\u202elive", "a\nb"} <= tokens


@pytest.mark.parametrize("name", ["pieces", "table"])
def test_a_full_disk_is_one_line_and_loses_nothing(
    place: Workplace, table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = place.folder / "table.parquet"
    file.write_text("older")
    room = 2 if name == "pieces" else N_LAYERS
    synced, real = 0, os.fsync

    def full(handle: int) -> None:
        nonlocal synced
        # Files of the atlas only: results are kept by SQLite.
        synced += stat.S_ISREG(os.fstat(handle).st_mode)
        if synced > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr("lens_core.storage.sealed_parquet.os.fsync", full)
        result = place.run("atlas", place.config, "-o", str(file))

    assert (result.exit_code, result.stdout) == (1, "")
    assert "no space left in" in result.stderr.splitlines()[-1]
    assert len(_pieces(place)) == room
    assert file.read_text() == "older"
    assert not list(place.folder.rglob("*.tmp"))
    assert place.run("atlas", place.config, "-o", str(file)).exit_code == 0
    assert_frame_equal(read_atlas(file).frame, table, check_exact=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_leaves_whole_pieces_and_goes_on_where_it_was(
    place: Workplace,
    whole_pairs: pl.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
) -> None:
    file = place.folder / "table.parquet"
    writing = place.folder / "writing"
    process = place.start_prepared(
        "atlas", place.config, "-o", str(file),
        first="import lens_core.atlas.atlas as atlas; atlas.ROWS_PER_PIECE = 2\n"
        + held("lens_core.atlas.atlas.write_piece", writing, after=3),
    )  # fmt: skip
    until(writing.exists, "the fourth piece is being written", process)
    process.send_signal(how)
    printed, errors = process.communicate(timeout=PATIENCE)

    kept = {path: path.stat().st_mtime_ns for path in _pieces(place)}
    assert len(kept) == 3
    assert printed == ""
    assert not file.exists()
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command again to resume" in errors.splitlines()[-1]
        assert str(place.cache / "atlas") in errors.splitlines()[-1]
        assert "Traceback" not in errors
        assert not list(place.folder.rglob("*.tmp"))

    monkeypatch.setattr(atlas_module, "ROWS_PER_PIECE", 2)
    assert place.run("atlas", place.config, "-o", str(file)).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert_frame_equal(read_atlas(file).frame, whole_pairs, check_exact=True)


def test_the_cache_knows_atlases(place: Workplace, table: pl.DataFrame) -> None:
    place.document("atlas", place.config)
    usage: dict[str, Any] = place.document("cache", "info")["kinds"]
    size = sum(path.stat().st_size for path in place.cache.rglob("atlas/*/*"))
    assert usage["atlas"] == {"entries": N_LAYERS, "bytes": size}
    assert place.document("cache", "verify")["whole"]

    harmed = _pieces(place)[1]
    content = bytearray(harmed.read_bytes())
    content[300] ^= 1
    harmed.write_bytes(content)

    assert place.run("cache", "verify").exit_code == 1
    (damage,) = place.document("cache", "verify", "--repair")["damaged"]
    assert damage["path"] == str(harmed)
    assert damage["removed"]
    file = place.folder / "table.parquet"
    assert place.run("atlas", place.config, "-o", str(file)).exit_code == 0
    assert harmed.is_file()
    assert_frame_equal(read_atlas(file).frame, table, check_exact=True)

    freed = place.document("cache", "clear", "--kind", "atlas", "--yes")["freed"]
    assert freed == size
    assert place.document("cache", "info")["kinds"]["atlas"]["entries"] == 0
