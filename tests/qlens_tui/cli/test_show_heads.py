"""`qlens show` with heads: their shares, switches by name, and what is refused."""

from __future__ import annotations

import pytest

from tests.qlens_tui.workplace import Workplace, make_workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("place"))


@pytest.mark.parametrize("split", ["first-reader", "last-writer"])
def test_the_shares_of_heads_add_up_to_those_of_the_blocks(place: Workplace, split: str) -> None:
    shown = place.document(
        "show", place.config, "1:3", "--heads", "attn.2,attn.0", "--split", split
    )
    assert [(each["block"], each["side"]) for each in shown["heads"]] == [
        ("attn.2", "value"),
        ("attn.0", "key"),
    ]
    for heads in shown["heads"]:
        (whole,) = [row for row in shown["paths"][heads["side"]] if row["block"] == heads["block"]]
        assert heads["split"] == split
        assert heads["n_tokens"] == shown["reference"]["n_tokens"]
        names = [f"{heads['block']}.h{i}" for i in range(len(heads["rows"]))]
        assert [row["block"] for row in heads["rows"]] == names
        assert sum(row["share"] for row in heads["rows"]) == pytest.approx(whole["share"], abs=1e-5)


def test_heads_are_switched_like_blocks(place: Workplace) -> None:
    def value(*args: str) -> dict[str, object]:
        shown = place.document("show", place.config, "1:3", "--no-paths", *args)
        assert shown["method"] == "direct"
        return shown

    one = value("--off", "attn.2.h1")
    assert one["blocks_off"] == ["attn.2.h1"]
    assert one["value"] != value()["value"]
    assert one["key"] == value()["key"]
    (heads,) = place.document("show", place.config, "1:3", "--heads", "attn.2")["heads"]
    every = ",".join(row["block"] for row in heads["rows"])
    without = value("--off", "attn.2")["value"]
    assert value("--off", every)["value"] == without
    # --only with a head is --off with everything else.
    only = value("--only", "attn.2.h1,mlp.2")
    others = [row["block"] for row in heads["rows"] if row["block"] != "attn.2.h1"]
    rest = ["attn.0", "mlp.0", "attn.1", "mlp.1", *others]
    assert only["blocks_off"] == rest
    assert value("--off", ",".join(rest))["value"] == only["value"]


def test_people_see_the_heads(place: Workplace) -> None:
    shown = place.run("show", place.config, "1:3", "--heads", "attn.2", "--off", "attn.2.h0")
    assert "HEADS attn.2  value: last-writer split" in shown.stdout
    assert "attn.2.h1" in shown.stdout
    assert "off: attn.2.h0" in shown.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--off", "mlp.1.h0"), "mlp.1 has no heads"),
        (("--off", "attn.1.h99"), "no attn.1.h99: attn.1 has heads h0 to"),
        (("--off", "attn.1.h"), "'attn.1.h' is not a head: write attn.LAYER.hHEAD"),
        (("--off", "attn.9.h0"), "out of range"),
        (("--only", "attn.1.h99"), "no attn.1.h99"),
        (("--heads", "mlp.1"), "mlp.1 has no heads"),
        (("--heads", "attn.1.h0"), "'attn.1.h0' is not a block"),
        (("--heads", "attn.1", "--no-paths"), "remove --no-paths"),
    ],
)
def test_a_head_that_does_not_exist_is_one_line(
    place: Workplace, args: tuple[str, ...], says: str
) -> None:
    assert says in place.refusal(2, "show", place.config, "1:3", *args)
