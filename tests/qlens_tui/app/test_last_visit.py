"""The saved visit: saved completely, and ignored if the file is damaged."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from lens_core.directories import state_dir
from qlens_tui.app.last_visit import LastVisit, recall, remember
from qlens_tui.app.views import Listed
from qlens_tui.table.known_layer import KnownLayer
from qlens_tui.table.sort_key import SortKey

PLACE = LastVisit(
    layer=10,
    feature=1160,
    everywhere=True,
    sort=(SortKey("density", True), SortKey("feature", False)),
    filter="tag = 'a b'",
    filters=("␣war", "tag = 'a b'"),
    transition="first-order",
    off=(3, 60),
    convention="exact",
    final_norm="linearize",
    tab="evidence",
    pane="paths",
    ids=True,
    bottom=True,
    lenses=("logit", "query"),
    length=10,
    against_all_on=False,
    moves_on=True,
    block=21,
    listed=Listed("what promotes [war]", ((10, 1160), (4, 3))),
    pinned=(10, 53),
    theme="nord",
    model="SmolLM2",
    tokens=2048,
    known=(
        KnownLayer(4, "aa", "layer_4", 2304, None, "shipped"),
        KnownLayer(10, "bb", "layer_10", 2304, "/cache/atlas/x", neuronpedia="m/10-res"),
    ),
)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("QLENS_STATE_DIR", str(tmp_path / "state"))


CONFIG = Path("a config.toml")


def file() -> Path:
    (found,) = state_dir().glob("*.json")
    return found


def test_a_place_comes_back_whole_and_to_its_configuration_alone():
    assert all(getattr(PLACE, f.name) != getattr(LastVisit(), f.name) for f in fields(LastVisit))
    assert remember(CONFIG, PLACE)
    assert recall(CONFIG) == PLACE
    assert recall(CONFIG.resolve()) == PLACE
    assert recall(Path("another.toml")) == LastVisit()


def test_what_an_earlier_version_did_not_keep_has_its_default():
    remember(CONFIG, PLACE)
    document = json.loads(file().read_text("utf-8"))
    del document["known"][0]["operators"], document["theme"]
    document["of another version"] = [1]
    file().write_text(json.dumps(document))
    found = recall(CONFIG)
    assert found.known[0].operators == "built"
    assert found.theme is None
    assert found.feature == 1160


@pytest.mark.parametrize("wrong", [-1, 1.5, "x", ["x"], {"a": 1}, True, float("nan")])
@pytest.mark.parametrize("name", [f.name for f in fields(LastVisit)])
def test_a_value_that_cannot_be_is_no_place_or_is_never_passed_on(name, wrong):
    remember(CONFIG, PLACE)
    document = json.loads(file().read_text("utf-8"))
    kept = document[name]
    document[name] = wrong
    file().write_text(json.dumps(document))
    found = recall(CONFIG)
    right = type(wrong) is type(kept) and isinstance(getattr(found, name), type(kept) | tuple)
    at_first = (name, wrong) == ("sort", "x")  # as an earlier version saved it
    at_first |= name == "lenses" and found == replace(PLACE, lenses=None)
    assert right or at_first or found == LastVisit()


def test_the_order_that_an_earlier_version_saved_is_kept():
    remember(CONFIG, PLACE)
    document = json.loads(file().read_text("utf-8"))
    for sort, descending, keys in (
        ("density", True, (SortKey("density", True),)),
        ("density", False, (SortKey("density", False),)),
        (None, False, ()),
    ):
        file().write_text(json.dumps(document | {"sort": sort, "descending": descending}))
        assert recall(CONFIG) == replace(PLACE, sort=keys)


@pytest.mark.parametrize(
    "wrong",
    [
        {"words": "x", "features": []}, {"words": 1, "features": [[1, 2]]}, {"features": [[1, 2]]},
        {"words": "x", "features": [[1]]}, {"words": "x", "features": [[1, -2]]},
        {"words": "x", "features": [[1, "2"]]}, {"words": "x", "features": 3}, [],
    ],
)  # fmt: skip
def test_results_that_cannot_be_are_no_place(wrong):
    remember(CONFIG, PLACE)
    document = json.loads(file().read_text("utf-8"))
    file().write_text(json.dumps(document | {"listed": wrong}))
    assert recall(CONFIG) == LastVisit()


@pytest.mark.parametrize("wrong", [[1], [1, -2], [1, "2"], [1, 2, 3], 3, "1:2", {"layer": 1}])
def test_a_pinned_feature_that_cannot_be_is_no_place(wrong):
    remember(CONFIG, PLACE)
    document = json.loads(file().read_text("utf-8"))
    file().write_text(json.dumps(document | {"pinned": wrong}))
    assert recall(CONFIG) == LastVisit()


def test_lenses_of_another_version_are_forgotten_alone():
    remember(CONFIG, replace(PLACE, lenses=("logit", "a lens to come")))
    assert recall(CONFIG) == replace(PLACE, lenses=None)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("layer", "4"), ("sha256", 1), ("name", None), ("n_features", -1), ("n_features", 1 << 31),
        ("atlas", 3), ("operators", "stolen"), ("operators", ["built"]), ("more", 1),
    ],
)  # fmt: skip
def test_a_layer_that_cannot_be_is_no_place(name, wrong):
    remember(CONFIG, PLACE)
    document = json.loads(file().read_text("utf-8"))
    document["known"][0][name] = wrong
    file().write_text(json.dumps(document))
    assert recall(CONFIG) == LastVisit()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"format": 99}', b"\xff\x00"])
def test_a_damaged_file_is_as_good_as_none(content):
    remember(CONFIG, PLACE)
    file().write_bytes(content)
    assert recall(CONFIG) == LastVisit()


def test_a_place_that_cannot_be_written_loses_no_work(tmp_path):
    (tmp_path / "state").write_text("a file where the directory should be")
    assert not remember(CONFIG, PLACE)
    assert recall(CONFIG) == LastVisit()
