"""The grid of blocks: its cells, its keys, and which feature and settings the shares are for."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlens_tui.app.views import SIDES as BOTH_SIDES
from qlens_tui.app.widgets.paths_grid import PathsGrid
from qlens_tui.engine.messages import Paths, PathShare, Side
from qlens_tui.text import cells
from tests.qlens_tui.app.features import SIZES, Stage, leaked, name_of, paths, shares_view
from tests.qlens_tui.app.simulated_time import simulate
from tests.qlens_tui.app.terminal import HOSTILE, Terminal, in_terminal

KEY = frozenset(range(13))
VALUE = frozenset(range(14, 60))
BOTH = paths("value"), paths("key")
Step = Callable[[Stage, PathsGrid, Terminal], Awaitable[None]]


def test_percent_with_sign_where_all_layers_fit() -> None:
    title, _, attention, mlp, info, ends, *_ = drawn(width=130, height=7)

    assert title.strip() == (
        "PATHS  6:35  full, value 46 of 46 on, key 13 of 13 on, "
        "exact on 512 reference tokens, first-reader split"
    )
    assert attention.startswith(" attn    ·  +2  +4  +6  +8 +10 +12│+14 +16")
    assert mlp.split()[1:8] == ["-1", "-3", "-5", "-7", "-9", "-11", "◆│-15"]
    assert info.split()[:5] == ["attn.7", "out", "of", "value", "+14.0%"]
    assert "␣dry  Dry" in info
    assert ends.strip() == "value: direct +12.5%, bias -1.0%   key: direct +12.5%"


def test_a_share_of_more_than_all_keeps_the_columns() -> None:
    def shares(side: Side) -> Paths:
        found = paths(side, layers=10)
        rows = tuple(
            PathShare(row.block, -12.34 if row.block == "mlp.8" else row.share, True, (), ())
            for row in found.rows
        )
        return replace(found, rows=rows)

    grid = PathsGrid()
    grid.draw(shares_view(shares("value"), shares("key"), layers=10))

    _, numbers, _, mlp, *_ = (text(line) for line in grid.lay_out(80, 6)[0])

    assert mlp.split()[-2:] == ["-1234", "-19"]
    assert mlp.index("-1234") + 5 == numbers.index("8") + 1


def test_bars_with_sign_where_percent_does_not_fit() -> None:
    _, _, attention, mlp, *_ = drawn(width=98, height=7)

    # Of the largest of each side: 0.12 of the key, 0.59 of the value.
    assert re.findall(r"[+-][▁-█]", attention)[5] == "+█"
    assert re.findall(r"[+-][▁-█]", mlp)[-1] == "-█"
    assert "·" in attention


def test_without_unicode_everything_is_ascii_and_signs_stay() -> None:
    lines = drawn(width=80, height=9, ascii_only=True)

    assert all(line.isascii() for line in lines)
    assert "+14" in lines[2]


def test_spare_lines_list_the_largest_shares_of_the_cursors_side() -> None:
    *_, heading, first, second = drawn(width=80, height=9)

    assert heading.strip() == "largest shares out of value"
    assert first.split()[:2] == ["mlp.29", "-59.0%"]
    assert second.split()[:2] == ["attn.29", "+58.0%"]


@pytest.mark.parametrize("side", ["value", "key"])
def test_a_feature_of_length_zero_has_no_shares_to_compare(side: Side) -> None:
    grid, shares = PathsGrid(), {each.side: each for each in BOTH}
    rows = tuple(PathShare(row.block, float("nan"), True, (), ()) for row in shares[side].rows)
    shares[side] = replace(shares[side], rows=rows)
    grid.draw(shares_view(*shares.values()))

    lines = [text(line) for line in grid.lay_out(130, 9)[0]]

    assert ("out of value      n/a" if side == "value" else f"{side}: direct n/a") in "".join(lines)
    assert "?" in lines[2]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(0, 89),
    st.integers(1, 250),
    st.integers(1, 20),
    st.booleans(),
    st.lists(st.text(st.characters(exclude_categories=[])), min_size=3, max_size=5),
)
def test_every_line_takes_exactly_the_width_of_the_pane(
    layers: int, layer: int, width: int, height: int, ascii_only: bool, words: list[str]
) -> None:
    grid = PathsGrid(ascii_only=ascii_only)
    of = (paths(side, min(layer, layers - 1), layers=layers, words=words) for side in BOTH_SIDES)
    grid.draw(shares_view(*of, layers=layers))

    lines, _ = grid.lay_out(width, height)

    assert {cells(text(line)) for line in lines} == {width}


def test_numbers_of_another_transition_are_never_under_the_name_of_the_asked_one() -> None:
    grid = PathsGrid()
    grid.draw(shares_view(paths("value", transition="first-order"), transition="full"))
    assert "grey: first-order, all on" in text(grid.lay_out(150, 6)[0][0])
    # The cursor went on: what stands there still is of the feature, and transition, before.
    before = paths("value", transition="first-order")
    grid.draw(shares_view(before, asked=(6, 36), late=True))
    head = text(grid.lay_out(150, 6)[0][0])
    assert "6:35  first-order," in head
    assert "full" not in head


def test_the_share_under_the_cursor_is_grey_as_long_as_the_others_are() -> None:
    def looks(late: bool) -> list[str]:
        grid = PathsGrid()
        grid.draw(shares_view(*BOTH, asked=(6, 36) if late else (6, 35), late=late))
        attention = grid.lay_out(150, 6)[0][2]
        return [style for said, style in attention if any(map(str.isdigit, said))]

    assert {style for style in looks(late=True) if "grey" not in style} == {"pane--quiet"}
    assert looks(late=True).count("paths--here-grey") == 1
    assert not any("grey" in style or "quiet" in style for style in looks(late=False))


def test_a_block_that_the_shown_shares_left_out_has_none() -> None:
    grid = PathsGrid()
    grid.draw(shares_view(paths("value", off=(14,)), paths("key")))
    info = text(grid.lay_out(150, 6)[0][4])
    assert "off in the shares shown" in info
    assert "%" not in info


@pytest.mark.parametrize("size", SIZES)
def test_while_one_side_is_there_the_head_says_what_is_done_for_the_other(size) -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        for done in range(4):
            grid.draw(shares_view(paths("value", 6, 36), awaits=f"reading {done}"))
            await terminal.pilot.pause()
            assert f"▸ key reading {done}…" in stage.painted[0]
        assert stage.painted[2].split("│")[0].strip() == "attn"  # no way in is known yet
        grid.draw(shares_view(paths("value", 6, 36), problems={"key": "cancelled"}))
        await terminal.pilot.pause()
        assert "! key: cancelled" in stage.painted[0]
        grid.draw(shares_view(paths("value", 6, 36), paths("key", 6, 36)))
        await terminal.pilot.pause()
        assert "exact on" in stage.painted[0]

    on_stage(walk, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("keys", "off"),
    [
        ("space", {14}),
        ("space space", set()),
        ("right down space", {17}),
        ("r", {k for k in VALUE if k % 2 == 0}),
        ("r r", set()),
        ("space r", {k for k in VALUE if k % 2 == 0}),
        ("j r", {k for k in VALUE if k % 2}),
        ("O", VALUE - {14}),
        ("h space l O", {12} | VALUE - {14}),
        ("home O", KEY - {0}),
        ("n", KEY | VALUE),
        ("n a", set()),
        ("n space", (KEY | VALUE) - {14}),
    ],
)
def test_keys_switch_blocks(keys: str, off: set[int], size: tuple[int, int]) -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        await terminal.pilot.press(*keys.split())
        assert grid.view.off == off
        heard = [m for m in stage.heard if isinstance(m, PathsGrid.BlocksToggled)]
        assert heard[-1].off == off
        assert heard[-1].control is grid
        assert f"value {len(VALUE - off)} of 46 on" in stage.painted[0]
        grid_rows = stage.painted[2] + stage.painted[3]
        assert ("×" in grid_rows) == bool(off)

    on_stage(walk, size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("keys", "block"),
    [
        ("right", 16),
        ("l", 16),
        ("left", 12),
        ("h", 12),
        ("down", 15),
        ("j", 15),
        ("down up", 14),
        ("j k", 14),
        ("up", 14),
        ("j left", 11),
        ("j h right", 15),
        ("home", 0),
        ("home left", 0),
        ("end", 58),
        ("end right", 58),
        ("j end", 59),
    ],
)
def test_keys_move_from_block_to_block_and_past_the_features_own(
    keys: str, block: int, size: tuple[int, int]
) -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        await terminal.pilot.press(*keys.split())
        assert grid.cursor == block
        moved = [m.block for m in stage.heard if isinstance(m, PathsGrid.BlockFocused)]
        assert moved[-1:] == ([block] if moved else [])
        assert stage.painted[4].split()[0] == name_of(block)
        assert f" {block // 2}" in stage.painted[1]

    on_stage(walk, size)


@pytest.mark.parametrize(
    ("keys", "transition"),
    [("1", "identity"), ("2", "first-order"), ("1 3", "full")],
)
def test_keys_choose_the_transition(keys: str, transition: str) -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        await terminal.pilot.press(*keys.split())
        assert stage.heard
        assert isinstance(stage.heard[-1], PathsGrid.TransitionChosen)
        assert stage.heard[-1].transition == grid.view.transition == transition
        assert f"6:35  {transition}" in stage.painted[0]
        assert ("grey: full, all on" in stage.painted[0]) == (transition != "full")

    on_stage(walk)


def test_grey_shares_say_their_kind_where_another_was_asked_for() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        asked = replace(shares_view(*BOTH), split="ablation")
        late = {
            side: replace(each, late=True, awaits="computing") for side, each in asked.sides.items()
        }
        grid.draw(replace(asked, sides=late))
        await terminal.pilot.pause()
        assert "grey: full, first-reader, all on" in stage.painted[0]

    on_stage(walk)


def test_c_goes_through_the_kinds_of_share_and_back() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        chosen = []
        for _ in range(3):
            await terminal.pilot.press("c")
            heard = stage.heard[-1]
            assert isinstance(heard, PathsGrid.SharesChosen)
            chosen.append(heard.split)
            screen = "\n".join(stage.painted)
            is_ablation = heard.split == "ablation"
            assert ("ablation" in stage.painted[0]) == is_ablation
            assert ("overlap 0.50" in screen) == is_ablation
            assert ("direct +12.5%" in screen) != is_ablation
            assert ("largest losses" in screen) == is_ablation
        assert chosen == ["last-writer", "ablation", None]
        await terminal.pilot.press("1", "c")
        assert not isinstance(stage.heard[-1], PathsGrid.SharesChosen)

    on_stage(walk)


def test_no_key_is_without_a_test() -> None:
    tested = "space r O n a c right l left h down j up k home end 1 2 3 enter escape"
    bound = {key for binding in PathsGrid.BINDINGS for key in binding.key.split(",")}

    assert bound == set(tested.split())


def test_shares_of_another_mask_are_grey_and_named_until_the_asked_ones_are_there() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        await terminal.pilot.press("right", "space", "left")
        assert "value 45 of 46 on" in stage.painted[0]
        assert "▸ computing… grey: full, all on" in stage.painted[0]
        assert "exact" not in stage.painted[0]
        assert dim(grid, 4)
        grid.draw(shares_view(*BOTH, off=(16,), awaits="direct pass 40%"))
        await terminal.pilot.pause()
        assert "▸ direct pass 40%… grey: full, all on" in stage.painted[0]
        grid.draw(shares_view(paths("value", off=(16,)), BOTH[1], off=(16,)))
        await terminal.pilot.pause()
        assert not dim(grid, 4)
        assert "exact on 512" in stage.painted[0]
        assert "▸" not in stage.painted[0]

    on_stage(walk, (120, 24))


def test_a_switch_on_one_side_leaves_the_other_as_it_is() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        await terminal.pilot.press("space", "left")
        assert stage.painted[4].split()[0] == "attn.6"
        assert not dim(grid, 4)

    on_stage(walk)


def test_a_failed_toggle_keeps_the_switches_at_hand() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        problem = "out of memory\x1b[2J: set [compute] batch = 4"
        problems = {"value": problem, "key": problem}
        grid.draw(shares_view(*BOTH, off=(14, 0), problems=problems))
        await terminal.pilot.pause()
        assert stage.painted[4].strip() == r"! out of memory\x1b[2J: set [compute] batch = 4"
        assert "grey: full, all on" in stage.painted[0]
        await terminal.pilot.press("a")
        assert "exact on 512" in stage.painted[0]

    on_stage(walk, (120, 24))


def test_the_last_layer_has_no_way_out_and_the_cursor_a_place_to_be() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        await terminal.pilot.press("end")
        grid.draw(shares_view(*(paths(side, 29, 5) for side in BOTH_SIDES)))
        await terminal.pilot.pause()
        assert "value 0 of 0 on" in stage.painted[0]
        assert grid.cursor == 58
        assert stage.painted[3].rstrip().endswith("◆")

    on_stage(walk, (120, 24))


def test_eighty_layers_scroll_with_the_cursor() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        grid.draw(shares_view(*(paths(side, layers=80) for side in BOTH_SIDES), layers=80))
        await terminal.pilot.press("end")
        await terminal.pilot.pause()
        assert stage.painted[1].split()[-1] == "79"
        assert "‹" in stage.painted[1]
        assert "›" not in stage.painted[1]
        await terminal.pilot.press("home")
        assert stage.painted[1].split()[0] == "0"
        assert stage.painted[1].rstrip().endswith("›")

    on_stage(walk)


@pytest.mark.parametrize("size", SIZES)
def test_no_vocabulary_reaches_the_terminal_raw(size: tuple[int, int]) -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        words = list(HOSTILE.values())
        for start in range(0, len(words), 3):
            some = words[start : start + 3]
            grid.draw(shares_view(*(paths(side, words=some) for side in BOTH_SIDES)))
            await terminal.pilot.press("h" if start % 2 else "l")
        assert r"\x1b[31m" in terminal.written
        assert not leaked(terminal)

    on_stage(walk, size)


def test_the_cursor_and_the_focus_are_seen_without_colour() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        def attributes() -> tuple[bool, bool]:
            cell = next(s for s in grid.render_line(2) if s.text.strip() in ("+▂", "+14"))
            return bool(cell.style.reverse), bool(cell.style.underline)

        assert attributes() == (True, False)
        stage.set_focus(None)
        await terminal.pilot.pause()
        assert attributes() == (False, True)

    on_stage(walk)


def test_a_cursor_move_costs_no_more_than_the_lines_it_changes() -> None:
    async def walk(stage: Stage, grid: PathsGrid, terminal: Terminal) -> None:
        assert len((await terminal.written_for("l")).encode()) < 1500

    on_stage(walk, (120, 6))


def drawn(*, width: int, height: int, ascii_only: bool = False) -> list[str]:
    grid = PathsGrid(ascii_only=ascii_only)
    grid.draw(shares_view(*BOTH))
    return [text(line) for line in grid.lay_out(width, height)[0]]


def text(line: tuple[tuple[str, str], ...]) -> str:
    return "".join(said for said, _ in line)


def dim(grid: PathsGrid, y: int) -> bool:
    """Whether the line ends in grey."""
    return bool([s for s in grid.render_line(y) if s.text.strip()][-1].style.dim)


def on_stage(walk: Step, size: tuple[int, int] = (80, 24)) -> None:
    async def play() -> None:
        grid = PathsGrid()
        stage = Stage(grid)
        async with in_terminal(stage, size) as terminal:
            grid.focus()
            grid.draw(shares_view(*BOTH))
            await terminal.pilot.pause()
            await walk(stage, grid, terminal)

    simulate(play())
