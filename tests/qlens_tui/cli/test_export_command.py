"""`qlens export`: which features it writes, and what it refuses."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from qlens_tui.export.write import read_export
from qlens_tui.triage.marks import DictionaryName
from qlens_tui.triage.triage import Triage
from tests.qlens_tui.workplace import D_MLP, N_LAYERS, Workplace, make_workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = make_workplace(tmp_path_factory.mktemp("export"))
    assert place.run("build", place.config).exit_code == 0
    return place


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Workplace) -> Path:
    """Marks of a user on the dictionaries of `place`."""
    monkeypatch.setenv("QLENS_DATA_DIR", str(tmp_path / "data"))
    document = place.document("atlas", place.config)
    names = [
        DictionaryName(each["dictionary_sha256"], each["dictionary"], "tiny", each["layer"])
        for each in document["provenance"]["layers"]
    ]
    with Triage() as triage:
        triage.apply({names[0]: [3, 4], names[2]: [0]}, star=True)
        triage.apply({names[1]: [5], names[2]: [0]}, add=["food"], note="=1\n2")
        triage.apply({names[1]: [6]}, reject=True)
        triage.apply({names[2]: [8]}, label="=what burns")
        triage.apply({names[1]: [7]}, star=True)
        triage.undo()
    return tmp_path


def _exported(place: Workplace, data: Path, *args: str) -> list[tuple[int, int]]:
    path = data / "out.csv"
    document = place.document("export", place.config, "-o", str(path), *args)
    found = read_export(path)
    assert document["rows"] == found.height
    assert document["bytes"] == path.stat().st_size
    return found.select("layer", "feature").rows()


@pytest.mark.parametrize(
    ("args", "rows"),
    [
        ([], [(0, 3), (0, 4), (1, 5), (1, 6), (2, 0), (2, 8)]),
        (["--starred"], [(0, 3), (0, 4), (2, 0)]),
        (["--starred", "--layers", "1-2"], [(2, 0)]),
        (["--tag", " food "], [(1, 5), (2, 0)]),
        (["--tag", "food", "--tag", "none"], [(1, 5), (2, 0)]),
        (["--tag", "none"], []),
        (["--where", "star and layer < 1"], [(0, 3), (0, 4)]),
        (["--where", "tags like '%food%' and not star"], [(1, 5)]),
        (["--where", "label:BURNS"], [(2, 8)]),
        (["--where", "label like '%burns%'"], [(2, 8)]),
        (["--where", "feature = 9"], [(0, 9), (1, 9), (2, 9)]),
    ],
)
def test_the_command_writes_the_selection(
    place: Workplace, data: Path, args: list[str], rows: list[tuple[int, int]]
) -> None:
    assert _exported(place, data, *args) == rows


@pytest.mark.parametrize(("prefix", "lens"), [("", "query"), ("ll:", "logit")])
def test_words_are_looked_for_in_the_lists_of_one_lens(
    place: Workplace, data: Path, prefix: str, lens: str
) -> None:
    sides = [f"{side}_{lens}_ids" for side in ("value", "key")]
    _exported(place, data, "--where", "feature >= 0")
    lists = read_export(data / "out.csv").select("layer", "feature", *sides).rows()
    wanted = lists[0][2][0]

    found = _exported(place, data, "--where", f"{prefix}#{wanted}")

    assert found == [row[:2] for row in lists if wanted in (*row[2], *row[3])]
    assert 0 < len(found) < N_LAYERS * D_MLP


def test_what_others_say_is_exported_and_can_be_filtered_for(place: Workplace, data: Path) -> None:
    file = data / "said.csv"
    file.write_text('layer,feature,text\n1,4,"=what is said"\n0,3,dull\n77,1,lost\n')
    more = ("--explanations", str(file))

    assert _exported(place, data, "--where", "explanation:WHAT", *more) == [(1, 4)]
    assert _exported(place, data, "--where", "explanation <> '' and not star", *more) == [(1, 4)]
    assert _exported(place, data, "--starred", *more) == [(0, 3), (0, 4), (2, 0)]
    assert read_export(data / "out.csv")["explanation"].to_list() == ["dull", "", ""]
    result = place.run("export", place.config, "-o", str(data / "out.csv"), *more)
    assert "said.csv: 1 explanation left out, of features that the dictionary" in result.stderr
    line = place.refusal(
        2, "export", place.config, "-o", str(data / "out.csv"), "--where", "explanation:x"
    )
    assert "there are no explanations: name a file" in line


def test_an_export_agrees_with_show(place: Workplace, data: Path) -> None:
    _exported(place, data, "--starred")
    row = read_export(data / "out.csv").row(0, named=True)

    shown = place.document("show", place.config, "0:3")
    for side in ("value", "key"):
        lists = shown[side]["query_lens"]
        assert row[f"{side}_query_ids"] == lists["ids"]
        assert row[f"{side}_query_tokens"] == lists["tokens"]
        assert row[f"{side}_query_scores"] == pytest.approx(lists["scores"], rel=1e-4)
    assert row["reference_sha256"] == shown["reference"]["sha256"]
    assert (row["dictionary"], row["model"]) == (shown["dictionary"], shown["model"])


def test_fidelity_is_that_of_show_for_features_that_were_steered_before(
    place: Workplace, data: Path
) -> None:
    some = ("--where", "layer = 1 and feature in (2, 3, 4)")
    _exported(place, data, *some)
    assert read_export(data / "out.csv")["fidelity"].null_count() == 3

    seen = place.document("show", place.config, "1:3", "--observed", "--no-paths")["observed"]
    assert seen["reason"] == ""
    _exported(place, data, *some)
    rows = read_export(data / "out.csv").sort(pl.col("fidelity").is_null()).rows(named=True)
    steered, *others = rows
    assert [row["fidelity"] for row in others] == [None, None]
    assert (steered["layer"], steered["feature"]) == (1, 3)
    assert steered["fidelity"] == pytest.approx(seen["agreement"]["query"])
    share = seen["agreement"]["query"] / seen["ceiling"] if seen["ceiling"] else None
    assert steered["fidelity_share"] == (share and pytest.approx(share))


@pytest.mark.parametrize(
    ("args", "layers"),
    [
        (["--tag", "food"], {1, 2}),
        (["--starred", "--layers", "0,1"], {0}),
        (["--where", "tag:food"], {1, 2}),
        (["--where", "layer = 1 and gain k > -9"], {1}),
        (["--where", "star and feature >= 0"], {0, 2}),
        (["--where", "feature >= 0"], {0, 1, 2}),
    ],
)
def test_only_layers_that_can_have_a_selected_feature_are_tabulated(
    place: Workplace, data: Path, args: list[str], layers: set[int], request: pytest.FixtureRequest
) -> None:
    fresh = place.with_cache(f"few {request.node.name}")
    path = data / "out.csv"
    shutil.copytree(place.cache, fresh.cache, dirs_exist_ok=True)
    shutil.rmtree(fresh.cache / "atlas")

    result = fresh.run("export", fresh.config, "-o", str(path), *args)

    assert result.exit_code == 0, result.stderr
    assert len(os.listdir(fresh.cache / "atlas")) == len(layers)
    assert set(read_export(path)["layer"]) == layers
    numbers = ", ".join(map(str, sorted(layers)))
    many = f"layers {numbers} have no atlas yet: tabulating them first; --layers chooses fewer"
    assert (many in result.stderr) == (len(layers) > 1)
    for number in layers:
        assert f"tabulating layer {number}" in result.stderr


def test_without_any_marks_the_table_is_empty_and_no_triage_file_is_made(
    place: Workplace, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    result = place.run(
        "export", place.config, "-o", str(path), QLENS_DATA_DIR=str(tmp_path / "data")
    )

    assert result.exit_code == 0
    assert "no feature is selected" in result.stderr
    assert result.stdout.startswith("0 features, ")
    assert read_export(path).height == 0
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("status", "args", "said"),
    [
        (2, ["--starred", "--where", "star"], "give only one of"),
        (2, ["--where", "value_gian > 1"], "the nearest is value_gain"),
        (2, ["--where", "density > "], "filter cannot be used"),
        (2, ["--tag", "a,b"], "comma"),
        (2, ["--layers", "77"], "77"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(
    place: Workplace, data: Path, status: int, args: list[str], said: str
) -> None:
    path = data / "x.csv"

    assert said in place.refusal(status, "export", place.config, "-o", str(path), *args)
    assert not path.exists()


def test_a_damaged_mark_is_told_and_the_others_are_exported(place: Workplace, data: Path) -> None:
    with closing(sqlite3.connect(data / "data" / "triage.sqlite3")) as database, database:
        database.execute("UPDATE marks SET edit = edit + 1 WHERE feature = 4")

    result = place.run("export", place.config, "-o", str(data / "x.csv"))

    assert result.exit_code == 0, result.stderr
    assert "the star of feature 4 of" in result.stderr
    assert "qlens triage restore" in result.stderr
    rows = read_export(data / "x.csv").select("layer", "feature").rows()
    assert rows == [(0, 3), (1, 5), (1, 6), (2, 0), (2, 8)]


def test_a_damaged_triage_file_stops_the_command(place: Workplace, data: Path) -> None:
    file = data / "data" / "triage.sqlite3"
    file.write_bytes(b"garbage" * 1000)

    line = place.refusal(1, "export", place.config, "-o", str(data / "x.csv"))

    assert str(file) in line
    assert "damaged" in line
    assert os.listdir(data) == ["data"]
