"""The heads of an attention block in the paths pane: opened, walked, switched, asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qlens_tui.app.last_visit import LastVisit, recall, remember
from qlens_tui.app.views import HeadShares, SideShares
from qlens_tui.app.widgets.paths_grid import PathsGrid
from qlens_tui.engine import messages as m
from qlens_tui.text import cells
from tests.qlens_tui.app.desk import NARROW, SIZES, run, settled
from tests.qlens_tui.app.features import HEADS, Stage, leaked, paths, shares_view
from tests.qlens_tui.app.simulated_time import simulate
from tests.qlens_tui.app.terminal import HOSTILE, Terminal, in_terminal
from tests.qlens_tui.app.test_paths_grid import BOTH, VALUE, on_stage

FIRST = 14
"""The block under the cursor at first: the attention after the feature."""
ALL = frozenset((FIRST, head) for head in range(HEADS))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("keys", "off"),
    [
        ("space", {(FIRST, 0)}),
        ("space space", set()),
        ("right space", {(FIRST, 1)}),
        ("l l l l space", {(FIRST, 2)}),
        ("end left space", {(FIRST, 1)}),
        ("end home space", {(FIRST, 0)}),
        ("space l space l space", {FIRST}),
        ("r", {FIRST}),
        ("r r", set()),
        ("r l space", {(FIRST, 0), (FIRST, 2)}),
        ("O", {(FIRST, 1), (FIRST, 2)}),
        ("r O", {(FIRST, 1), (FIRST, 2)}),
        ("space a", set()),
        ("space escape space", {FIRST}),
        ("space escape space space", set()),
        ("space escape O", VALUE - {FIRST}),
        ("space up r", {block for block in VALUE if block % 2 == 0}),
        ("space n", None),
    ],
)
def test_keys_switch_heads(keys, off, size) -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        await terminal.pilot.press("enter", *keys.split())
        every = frozenset(range(13)) | VALUE
        assert grid.view.off == (every if off is None else off)

    on_stage(walk, size)


def test_enter_opens_the_heads_and_enter_escape_or_up_close_them() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        for close in ("enter", "escape", "up", "k"):
            await terminal.pilot.press("enter")
            chosen = stage.heard[-1]
            assert isinstance(chosen, PathsGrid.SharesChosen)
            assert chosen.heads == FIRST
            assert stage.painted[4].split() == ["h0", "h1", "h2"]
            assert stage.painted[5].split() == ["attn.7", "+0.0", "+1.0", "+2.0"]
            assert stage.painted[6].startswith(" attn.7.h0  out of value")
            await terminal.pilot.press("right")
            assert stage.painted[6].startswith(" attn.7.h1  out of value    +1.0%")
            assert any("among the heads of attn.7" in line for line in stage.painted)
            await terminal.pilot.press(close)
            assert stage.painted[4].startswith(" attn.7  ")
            assert grid.heads == 0
        before = len(stage.heard)
        await terminal.pilot.press("escape")  # nothing to close: not taken from the app
        assert len(stage.heard) == before

    on_stage(walk, (160, 48))


def test_a_block_without_heads_says_so() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        said = []
        grid.notify = lambda text, **_: said.append(text)  # type: ignore[method-assign]
        await terminal.pilot.press("down", "enter")
        grid.draw(replace(grid.view, n_heads=(0, 0) * 30))
        await terminal.pilot.press("up", "enter")
        assert said == [
            "mlp.7 has no heads: it is an MLP",
            "the heads of attn.7 cannot be told apart",
        ]
        assert grid.heads == 0

    on_stage(walk)


def test_a_block_says_how_many_of_its_heads_are_off() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        await terminal.pilot.press("enter", "space", "escape")
        assert "1 head off" in stage.painted[4]
        assert "value 46 of 46 on, 1 head off" in stage.painted[0]
        await terminal.pilot.press("enter")
        assert stage.painted[5].split()[1] == "×"
        assert stage.painted[6].split()[-1] == "off"

    on_stage(walk, (160, 48))


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_many_heads_scroll_and_keep_every_line_as_wide_as_the_pane(size, ascii_only) -> None:
    words = tuple(HOSTILE.values())
    n_heads, number = 64, 37
    found = paths("value", block=FIRST)
    rows = tuple(
        m.PathShare(f"attn.7.h{i}", (-1) ** i * i / 64, i != 3, (1,), words) for i in range(n_heads)
    )
    view = shares_view(*BOTH)
    view = replace(
        view,
        n_heads=(n_heads, 0) * 30,
        heads=HeadShares(FIRST, SideShares(replace(found, rows=rows))),
    )
    grid = PathsGrid(ascii_only=ascii_only)
    stage = Stage(grid)

    async def walk() -> None:
        async with in_terminal(stage, size) as terminal:
            grid.focus()
            grid.draw(view)
            await terminal.pilot.press(*["right"] * number)
            head, body = grid.lay_out(size[0], 14)
            lines = ["".join(text for text, _ in each) for each in (*head, *body)]
            assert all(cells(line) == size[0] for line in lines)
            assert f"h{number}" in lines[4]
            assert lines[6].startswith(f" attn.7.h{number}")
            assert not ascii_only or all(line.isascii() for line in lines)
            await terminal.pilot.pause()
            assert not leaked(terminal)

    simulate(walk())


def asked(bench) -> list[m.ComputePaths]:
    sent = bench.app.engine.requests
    return [each for each in sent if isinstance(each, m.ComputePaths) and each.block is not None]


def test_the_engines_heads_add_up_to_the_block_and_follow_switches_and_features(place):
    async def act(terminal, bench):
        bench.focus_pane("paths")
        grid = bench.paths
        await settled(terminal.pilot, "enter")
        block = grid.cursor

        def share(rows, name):
            return next(row.share for row in rows if row.block == name)

        def shown():
            heads = grid.view.heads
            assert not heads.shares.late
            assert not heads.shares.awaits
            found = heads.shares.paths
            whole = grid.view.sides[found.side].paths
            assert found.split == whole.split
            assert sum(row.share for row in found.rows) == pytest.approx(
                share(whole.rows, f"attn.{block // 2}"), abs=1e-4
            )
            return found

        first = shown()
        assert len(first.rows) == grid.heads == bench.app.engine.session.model.n_heads(block)
        await settled(terminal.pilot, "right", "space")
        second = shown()
        assert [row.on for row in second.rows].count(False) == 1
        assert bench.state.settings.off == {(block, 1)}
        bench.focus_pane("value")
        await settled(terminal.pilot)
        assert f"off: attn.{block // 2}.h1" in "\n".join(bench.pane("value").lines)
        bench.focus_pane("paths")
        await settled(terminal.pilot, "space")
        before = len(asked(bench))
        assert shown() == first
        assert len(asked(bench)) == before  # known
        bench.focus_pane("table")
        await settled(terminal.pilot, "j")
        third = shown()
        assert (third.layer, third.feature) == bench.state.feature
        assert third != first

    run(place, act, size=NARROW)


def test_heads_that_are_off_are_there_again_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setenv("QLENS_STATE_DIR", str(tmp_path / "state"))
    config = tmp_path / "c.toml"
    place = LastVisit(layer=1, feature=2, off=(3, (4, 1)))
    assert remember(config, place)
    assert recall(config) == place
    for wrong in ([4, -1], [4], [], [4, 1, 2], "x", -3, 1.5, [4, True], None):
        assert remember(config, replace(place, off=(3, wrong)))
        assert recall(config) == LastVisit()
