"""A pinned feature beside the one under the cursor, in a real app."""

from __future__ import annotations

import pytest

from qlens_tui.app.widgets.compare_pane import ComparePane
from qlens_tui.engine import messages as m
from qlens_tui.formats import density
from qlens_tui.text import token_label
from tests.qlens_tui.app.desk import Desk, engine_dies, ready, run, settled, told
from tests.qlens_tui.app.simulated_time import simulate
from tests.qlens_tui.app.terminal import in_terminal, screen_of

pytestmark = pytest.mark.usefixtures("place")

SIZES = [(80, 24), (120, 36), (160, 48)]


def comparison(bench) -> ComparePane:
    return bench.query_one(ComparePane)


def answered(bench, layer, feature) -> m.Signature:
    found = bench.state.answer(m.ComputeSignature(layer=layer, feature=feature))
    assert isinstance(found, m.Signature)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_both_features_stand_side_by_side_with_their_common_tokens_marked(place, size):
    async def act(terminal, bench):
        assert not comparison(bench).region
        await settled(terminal.pilot, "j", "P")
        assert (
            "COMPARE  0:1 pinned, with 0:1  the same: go to another" in comparison(bench).lines[0]
        )
        await settled(terminal.pilot, "j", "j")
        lines = comparison(bench).all_lines
        assert "COMPARE  0:1 pinned, with 0:3  P unpins" in lines[0]
        one, other = answered(bench, 0, 1), answered(bench, 0, 3)
        rows = lines[3:8]
        for side in ("key", "value"):
            assert f"{side.upper()} 0:1" in lines[2]
            assert f"{side.upper()} 0:3" in lines[2]
            here, there = (of.side(side).query_lens for of in (one, other))
            common = set(here.ids[:5]) & set(there.ids[:5])
            assert f"{len(common)} of 5 tokens" in lines[1] or f"{len(common)}/5 =" in lines[1]
            for rank, row in enumerate(rows):
                for of in (here, there):
                    label = token_label(of.tokens[rank], ascii_only=False)[:8].rstrip()
                    assert ("=" if of.ids[rank] in common else " ") + label in row
        text = "\n".join(lines)
        assert f"{one.key.norm:.3f}" in text
        assert f"{other.value.transported_norm:.3f}" in text
        assert "value path" in text
        for number in (1, 3):
            found = bench.state.answer(m.ComputeEvidence(layer=0, feature=number))
            assert isinstance(found, m.Evidence)
            assert density(found.density) in text
        assert screen_of(terminal.written, *size).count("0:3") >= 2
        assert not bench.pane("key").region  # in their place
        await settled(terminal.pilot, "P")
        assert not comparison(bench).region
        assert bench.pane("key").region or size[0] < 120

    run(place, act, size=size)


@pytest.mark.parametrize("size", SIZES)
def test_cosines_are_those_of_the_engine_across_layers(place, size):
    async def act(terminal, bench):
        await settled(terminal.pilot, "P", ":", *"2:5", "enter")
        assert bench.table.feature == (2, 5)
        found = bench.state.answer(
            m.ComputeCosines(layer=2, feature=5, other_layer=0, other_feature=0)
        )
        assert isinstance(found, m.PairCosines)
        line = comparison(bench).lines[1]
        for side in (found.key, found.value):
            assert f"{side.raw:+.2f}, carried {side.carried:+.2f}" in line or size[0] < 120
            assert f"{side.raw:+.2f}" in line
        assert "COMPARE  0:0 pinned, with 2:5" in comparison(bench).lines[0]

    run(place, act, size=size)


def test_switches_count_for_both_and_are_named(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "P", "j", "2")
        assert "first-order, P unpins" in comparison(bench).lines[0]
        first = m.Settings(transition="first-order")
        asked = m.ComputeCosines(layer=0, feature=1, other_layer=0, other_feature=0, settings=first)
        found = bench.state.answer(asked)
        assert isinstance(found, m.PairCosines)
        assert f"carried {found.value.carried:+.2f}" in comparison(bench).lines[1]

    run(place, act)


def test_escape_unpins_before_it_clears_a_filter_and_tab_and_zoom_reach_the_comparison(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "f", *"feature < 9", "enter", "P", "tab")
        assert comparison(bench).has_focus
        await settled(terminal.pilot, "z")
        assert comparison(bench).region.width == 160
        assert not bench.table.region
        await settled(terminal.pilot, "z", "tab")
        assert bench.table.has_focus
        await settled(terminal.pilot, "tab", "P")
        assert bench.table.has_focus
        await settled(terminal.pilot, "P", "escape")
        assert bench.state.pinned is None
        assert len(bench.table.rows) == 9
        await settled(terminal.pilot, "escape")
        assert len(bench.table.rows) == 24

    run(place, act)


def test_a_long_comparison_scrolls_and_is_copied_whole(place, tmp_path):
    async def act(terminal, bench):
        await settled(terminal.pilot, "P", "j")
        await settled(terminal.pilot, "y")
        copied = (tmp_path / "state" / "copied.txt").read_text()
        assert copied.startswith(" COMPARE  0:0 pinned, with 0:1")
        assert "value path" in copied
        assert "value path" not in "".join(comparison(bench).lines)
        await settled(terminal.pilot, "tab", "end")
        assert "attn.2" in "".join(comparison(bench).lines)
        assert "COMPARE" in comparison(bench).lines[0]

    run(place, act, size=(80, 24))


def test_the_pinned_feature_survives_a_restart_and_an_engine_that_dies(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "j", "P", "j", "tab")
        await engine_dies(bench)
        await settled(terminal.pilot)
        assert "COMPARE  0:2 pinned, with 0:3  P unpins" in comparison(bench).lines[0]

    run(place, act)

    async def again(terminal, bench):
        await settled(terminal.pilot)
        assert bench.state.pinned == (0, 2)
        assert comparison(bench).has_focus
        assert "COMPARE  0:2 pinned, with 0:3  P unpins" in comparison(bench).lines[0]

    run(place, again)


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
def test_hostile_tokens_and_explanations_are_shown_visibly(place, size, ascii_only, tmp_path):
    said = tmp_path / "said.csv"
    said.write_text('layer,feature,text\n0,0,"[red]\x1b[31mred\u202e"\n')

    async def act(terminal, bench):
        await settled(terminal.pilot, "P", ":", *"0:12", "enter", "tab", "end")
        assert r"[red]\x1b[31mred\u202e" in "".join(comparison(bench).all_lines)
        assert terminal.leaks() == set()
        if ascii_only:
            assert "".join(comparison(bench).all_lines).isascii()

    run(place, act, size=size, ascii_only=ascii_only, explanations=said)


def test_a_pinned_feature_that_the_dictionary_does_not_have_is_one_line(place):
    app = Desk(place.folder / "tiny.toml")

    async def whole() -> None:
        async with in_terminal(app, (160, 48)) as terminal:
            bench = await ready(terminal.pilot)
            bench.state.pinned = 0, 99
            bench.pinning.show()
            await settled(terminal.pilot)
            assert "! feature 99 is out of range" in comparison(bench).lines[0]
            await settled(terminal.pilot, "P")
            assert not comparison(bench).region
            app.finish()
        app.end()

    simulate(whole())
    assert told(app) == ""
