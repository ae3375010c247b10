"""The feature table: its keys, its output to the terminal, and hostile text."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import ColorSystem
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.message import Message

from qlens_tui.app.widgets.column_fit import Fitted, fitted_columns
from qlens_tui.app.widgets.feature_table import FeatureTable
from qlens_tui.app.widgets.table_cells import Writing, density_bar, gain_bar, share_bar
from qlens_tui.app.widgets.table_columns import COLUMNS
from qlens_tui.table.chosen_columns import ChosenColumn
from qlens_tui.table.matches import Matches
from qlens_tui.table.rows import MARKS, Rows, all_rows, filtered, sorted_by, with_marks
from qlens_tui.table.sort_key import SortKey, useful_end_first
from qlens_tui.text import cells, token_label
from qlens_tui.triage.marks import Mark
from tests.qlens_tui.app.simulated_time import simulate
from tests.qlens_tui.app.terminal import HOSTILE, Terminal, in_terminal, leaks

IF_ANY = ("label", "explanation")
SIZES = [(80, 24), (160, 48)]
BYTES = 1536
WORDS = [" dry", "Dry", " wildflowers", " kiln", "mometown", "寿司", " smoky", "\n"]


def atlas(rows: int = 200, layers: int = 1, vocabulary: int = len(WORDS)) -> Rows:
    """Features whose numbers follow from their index: gain falls, density rises."""
    number = np.arange(rows, dtype=np.int32)

    def lists(step: int) -> pl.Series:
        return pl.Series(((number[:, None] + step + np.arange(5)) % vocabulary).tolist())

    frame = pl.DataFrame(
        {
            "layer": number % layers + 8,
            "feature": number // layers,
            "silent": number % 7 == 3,
            "density": (number / rows).astype(np.float32),
            "value_logit_ids": lists(0),
            "value_query_ids": lists(1),
            "key_query_ids": lists(2),
            "key_logit_ids": lists(3),
            "value_gain": (-number / rows).astype(np.float32),
            "key_gain": np.full(rows, np.nan, np.float32),
            "value_stability": (number / rows).astype(np.float32),
        }
    )
    return all_rows(frame)


class TableApp(App[None]):
    """A table, and a list of what it told."""

    BINDINGS = [Binding("escape", "back", "Back")]  # noqa: RUF012

    def __init__(
        self,
        rows: Rows | None = None,
        texts: Sequence[str] | None = WORDS,
        ascii_only: bool = False,
        change: Callable[[FeatureTable], object] = lambda table: None,
    ) -> None:
        super().__init__()
        self.table = FeatureTable(ascii_only=ascii_only)
        self.told: list[Message] = []
        self.backs = 0
        self._start = atlas() if rows is None else rows, texts, change

    def compose(self) -> ComposeResult:
        yield self.table

    def on_mount(self) -> None:
        rows, texts, change = self._start
        self.table.set_texts(texts)
        self.table.set_rows(rows)
        change(self.table)
        self.table.focus()

    def action_back(self) -> None:
        self.backs += 1

    def on_feature_table_feature_focused(self, event: FeatureTable.FeatureFocused) -> None:
        self.told.append(event)

    def on_feature_table_selection_changed(self, event: FeatureTable.SelectionChanged) -> None:
        self.told.append(event)

    def on_feature_table_sort_requested(self, event: FeatureTable.SortRequested) -> None:
        self.told.append(event)

    def told_of(self, kind: type[Message]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]


def play(
    scene: Callable[[Terminal, TableApp], Awaitable[object]],
    size: tuple[int, int] = (80, 24),
    app: TableApp | None = None,
) -> Terminal:
    """Act a scene on a table in a terminal, which is given back."""

    async def run() -> Terminal:
        shown = app or TableApp()
        async with in_terminal(shown, size) as terminal:
            await scene(terminal, shown)
        return terminal

    return simulate(run())


async def wait(terminal: Terminal, app: TableApp) -> None:
    """A scene in which nothing happens."""
    await terminal.pilot.pause()


def lines_painted(written: str) -> int:
    """To how many lines of the screen a text goes; the last place is the resting cursor's."""
    return len({y for y, _ in re.findall(r"\x1b\[(\d+);(\d+)H", written)[:-1]})


LAST = 199
KEYS = [
    # keys, the row they lead to from row 0 in a window of so many lines
    ("j", lambda window: 1),
    ("down down", lambda window: 2),
    ("j j k", lambda window: 1),
    ("j up", lambda window: 0),
    ("k", lambda window: 0),
    ("G", lambda window: LAST),
    ("end", lambda window: LAST),
    ("G j", lambda window: LAST),
    ("G g", lambda window: 0),
    ("end home", lambda window: 0),
    ("ctrl+d", lambda window: window // 2),
    ("ctrl+d ctrl+d ctrl+u", lambda window: window // 2),
    ("ctrl+u", lambda window: 0),
    ("pagedown", lambda window: window),
    ("pagedown pagedown pageup", lambda window: window),
    ("G pagedown", lambda window: LAST),
]


@pytest.mark.parametrize("size", SIZES)
def test_a_key_moves_the_cursor_and_tells_of_the_feature(size: tuple[int, int]) -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        for keys, row in KEYS:
            app.table.move_to(8, 0)
            await terminal.pilot.press(*keys.split())
            await terminal.pilot.pause()

            wanted = row(size[1] - 1)
            assert (keys, app.table.row) == (keys, wanted)
            assert app.table.feature == (8, wanted)
            last = app.told_of(FeatureTable.FeatureFocused)[-1]
            assert (last.layer, last.feature, last.row, last.of) == (8, wanted, wanted, 200)
            cursors = [line[:5] for line in app.table.lines if line.startswith(">")]
            assert cursors == [f">{wanted:4}"]

    play(scene, size)


SELECTIONS = [
    ("j shift+down shift+down", lambda window: range(1, 4)),
    ("j J J", lambda window: range(1, 4)),
    ("j j j shift+up", lambda window: range(2, 4)),
    ("j j j K", lambda window: range(2, 4)),
    ("J J K K K", lambda window: range(1)),
    ("j shift+pagedown", lambda window: range(1, window + 2)),
    ("G shift+pageup", lambda window: range(LAST - window, 200)),
    ("j shift+end", lambda window: range(1, 200)),
    ("j j shift+home", lambda window: range(3)),
    ("j A", lambda window: range(200)),
    ("A A", lambda window: range(200)),
    ("J J j", lambda window: range(3, 4)),
    ("J J escape", lambda window: range(2, 3)),
]


@pytest.mark.parametrize("size", SIZES)
def test_a_key_selects_a_range_and_tells_of_it(size: tuple[int, int]) -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        for keys, rows in SELECTIONS:
            app.table.move_to(8, 0)
            await terminal.pilot.press(*keys.split())
            await terminal.pilot.pause()

            wanted = rows(size[1] - 1)
            assert (keys, app.table.chosen) == (keys, wanted)
            told = app.told_of(FeatureTable.SelectionChanged)[-1].rows
            let_go = keys.endswith(("j", "escape"))
            assert told == (None if let_go else wanted)
            for line in app.table.lines[1:]:
                at = int(line[1:5])
                sign = ">" if at == app.table.row else "|" if at in wanted else " "
                assert line[:1] == sign
        assert app.backs == 0

    play(scene, size)


def test_escape_is_the_tables_only_while_something_is_selected() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        await terminal.pilot.press("J", "escape", "escape")

        assert app.backs == 1

    play(scene)


def test_sorting_is_asked_for_by_key_and_by_a_click_on_the_head() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        await terminal.pilot.press("o")
        head = app.table.lines[0]
        await terminal.pilot.click(FeatureTable, offset=(head.index("gain"), 0))
        await terminal.pilot.click(FeatureTable, offset=(3, 5))
        await terminal.pilot.pause()

        asked = [event.column for event in app.told_of(FeatureTable.SortRequested)]
        assert asked == [None, "value_gain"]
        assert app.table.row == 4

    play(scene)


@pytest.mark.parametrize("size", SIZES)
def test_a_cursor_move_paints_two_lines_and_the_ends_none(size: tuple[int, int]) -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        assert await terminal.written_for("k") == ""
        assert await terminal.written_for("g") == ""
        moved = await terminal.written_for("j")
        assert lines_painted(moved) == 2
        await terminal.pilot.press("G")
        assert await terminal.written_for("j", "pagedown", "end") == ""
        selected = await terminal.written_for("K")
        assert lines_painted(selected) == 2

    play(scene, size)


def test_a_cursor_move_stays_within_its_bytes_and_the_window_moves_seldom() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        sent = [len((await terminal.written_for("j")).encode()) for _ in range(80)]

        assert sum(size > BYTES for size in sent) == 3
        assert sum(sent) / len(sent) < BYTES

    play(scene, (120, 40))


def test_the_window_moves_so_that_the_cursor_is_in_its_middle() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        await terminal.pilot.press(*["j"] * 23)
        assert app.table.lines[12].startswith(">  23")
        await terminal.pilot.press("G")
        assert app.table.lines[23].startswith("> 199")

    play(scene)


def test_marks_are_signs_and_repaint_only_the_lines_that_they_are_on() -> None:
    marks = {
        8: {
            1: Mark(star=True, tags=("keep",)),
            2: Mark(reject=True, note="no\x1b[2J"),
            99: Mark(star=True),
        }
    }

    async def scene(terminal: Terminal, app: TableApp) -> None:
        await terminal.pilot.pause()
        start = len(terminal.record)
        app.table.set_marks(marks)
        await terminal.pilot.pause()

        assert lines_painted("".join(terminal.record[start:])) == 2
        one, two, three = app.table.lines[2:5]
        assert one.startswith("    1 *  ")
        assert one.rstrip().endswith("keep")
        assert two.startswith("    2  xm")
        assert three.startswith("    3    ")

    assert not play(scene).leaks()


def test_the_cursor_stays_on_its_feature_and_its_line_when_rows_are_sorted() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        assert app.table.move_to(8, 101)
        await terminal.pilot.press("j", "j", "J")
        line = [line[:1] for line in app.table.lines].index(">")

        keys = [SortKey("value_gain", False)]
        app.table.set_rows(sorted_by(app.table.rows, keys))
        app.table.set_sort(keys)
        await terminal.pilot.pause()

        assert app.table.feature == (8, 104)
        assert app.table.row == 95
        assert app.table.lines[line].startswith("> 104")
        assert app.table.lines[0].rstrip().endswith("gain v▲›")
        assert app.told_of(FeatureTable.SelectionChanged)[-1].rows is None

        app.table.set_rows(filtered(app.table.rows, "feature % 10 = 0"))
        assert app.table.feature == (8, 100)
        assert app.table.move_to(8, 20)
        assert not app.table.move_to(8, 21)
        assert app.table.feature == (8, 20)

    play(scene)


def test_a_feature_is_told_of_once() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        await terminal.pilot.press("k", "j", "j", "G", "G", "j")
        app.table.set_marks({})
        app.table.set_sort([SortKey("density", True)])
        app.table.set_rows(app.table.rows)
        await terminal.pilot.pause()

        told = [event.feature for event in app.told_of(FeatureTable.FeatureFocused)]
        assert told == [0, 1, 2, 199]

    play(scene)


def test_token_ids_stand_in_until_the_texts_are_there() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        assert "#1 #2 #3" in app.table.lines[1]
        app.table.set_texts(WORDS[:2])
        assert "Dry #2 #3" in app.table.lines[1]

    play(scene, app=TableApp(texts=None))


def test_numbers_and_bars_are_blank_where_they_are_not_known() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        app.table.set_columns(
            [ChosenColumn(name) for name in ("gain bars", "key_gain", "value_gain", "density")]
        )
        await terminal.pilot.pause()
        assert app.table.lines[0].split() == ["id", "gain", "gain", "k", "gain", "v", "dens"]
        assert app.table.lines[1].split()[-3:] == ["·", "+0.00", "0.000%"]
        assert app.table.lines[3].split()[-3:] == ["·", "-0.01", "1.00%"]
        assert app.table.lines[101].split()[-3:] == ["-", "-0.50", "50.0%"]
        assert app.table.lines[4].rstrip().endswith("silent")

    play(scene, (160, 120))


@pytest.mark.parametrize("size", SIZES)
def test_a_layer_without_an_atlas_has_its_features_and_blanks(size: tuple[int, int]) -> None:
    bare = all_rows(pl.DataFrame({"layer": [3] * 40, "feature": range(40)}))

    async def scene(terminal: Terminal, app: TableApp) -> None:
        await terminal.pilot.press("j")
        assert app.table.lines[2].replace("│", " ").split() == [">", "1"]

    play(scene, size, TableApp(bare))


@pytest.mark.parametrize("size", SIZES)
def test_an_empty_table_says_so_and_takes_every_key(size: tuple[int, int]) -> None:
    keys = {key for keys, _ in KEYS + SELECTIONS for key in keys.split()}

    async def scene(terminal: Terminal, app: TableApp) -> None:
        app.table.set_rows(filtered(atlas(), "feature < 0"), "nothing here")
        await terminal.pilot.press(*sorted(keys))
        await terminal.pilot.pause()

        assert "nothing here" in "".join(app.table.lines)
        assert app.table.feature is None
        assert list(app.table.chosen) == []
        assert app.told_of(FeatureTable.FeatureFocused)[-1].layer is None
        app.table.set_rows(atlas())
        assert app.table.feature == (8, 0)

    play(scene, size)


def test_features_of_several_layers_have_their_layer_before_them() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        assert app.table.lines[1].split()[1] == "8:0"
        await terminal.pilot.press("G")
        assert app.table.lines[-1].split()[0].lstrip(">") == "10:65"

    play(scene, app=TableApp(atlas(198, layers=3)))


def test_a_wide_table_has_all_columns_and_a_narrow_one_the_first_ones() -> None:
    usual = [column.title for column in COLUMNS if column.name not in IF_ANY]

    def shown(width: int, left: int = 0) -> list[str]:
        return [placed.column.title for placed in fitted_columns(5, width, left=left).placed]

    assert shown(186) == usual
    assert shown(79) == ["id", "*xm", "QL key", "QL value", "gain", "stab", "dens", "tags"]
    assert shown(99) == shown(79)  # lists have ample room before others are added
    assert shown(120) == [*shown(79), "LL key"]
    assert shown(59) == shown(79)[:-1]
    assert shown(45) == ["id", "*xm", "QL key", "QL value"]
    assert shown(1) == ["id"]
    assert shown(59, left=2)[2:] == ["gain", "stab", "dens", "tags", "LL key"]
    assert shown(59, left=99) == ["id", "*xm", *usual[-6:]]
    assert fitted_columns(5, 79).left == 0
    assert fitted_columns(5, 186, left=3).left == 0  # all fit


@given(
    st.integers(1, 200),
    st.integers(0, 30),
    st.lists(st.sampled_from([column.source for column in COLUMNS]), max_size=3, unique=True),
    st.lists(
        st.builds(
            ChosenColumn,
            st.sampled_from([*(column.name for column in COLUMNS[1:]), "max_activation"]),
            st.none() | st.integers(3, 60),
        ),
        max_size=6,
        unique_by=lambda chosen: chosen.name,
    ),
)
def test_any_choice_fits_any_width_and_every_chosen_column_can_be_scrolled_to(
    width: int, left: int, sorted_by: list[str], chosen: list[ChosenColumn]
) -> None:
    def fitted(left: int) -> Fitted:
        return fitted_columns(4, width, tuple(sorted_by[:1]), (), tuple(chosen), left)

    def names(of: Fitted) -> list[str]:
        return [placed.column.name for placed in of.placed]

    found = fitted(left)
    assert names(found)[0] == "feature"
    assert len(found.placed) == 1 or sum(each.width + 1 for each in found.placed) <= width
    assert len(set(names(found))) == len(found.placed)
    order = [each.name for each in chosen] or [each.name for each in COLUMNS[1:]]
    shown = [name for name in names(found)[1:] if name in order]
    assert shown == sorted(shown, key=order.index)
    widths = {each.name: each.width for each in chosen if each.width}
    for each in found.placed:
        room = 2 if each.column.source in sorted_by else 0
        assert each.width - widths.get(each.column.name, each.width) in range(room + 1)
    if width > 160:
        seen = {name for at in range(len(COLUMNS)) for name in names(fitted(at))}
        assert seen >= {each.name for each in chosen}


def test_columns_scroll_by_key_and_the_head_says_that_there_are_more() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        def head() -> str:
            return app.table.lines[0].rstrip()

        def columns() -> list[str]:
            return [placed.column.name for placed in app.table._fitted.placed]

        first = head()
        assert (first[0], first[-1]) == (" ", "›")
        assert await terminal.written_for("less_than_sign") == ""
        await terminal.pilot.press("greater_than_sign", "greater_than_sign")
        assert (head()[0], head()[-1]) == ("‹", "›")
        assert "QL key" not in head()
        assert app.table.lines[2].startswith("    1     ")  # id and marks stay
        seen = {*columns()}
        while head()[-1] == "›":
            await terminal.pilot.press("greater_than_sign")
            seen |= {*columns()}
        assert await terminal.written_for("greater_than_sign") == ""
        assert {"value_gain", "value_stability", "density", "note"} <= seen
        app.table.set_sort([SortKey("value_stability", True)])
        await terminal.pilot.press(*["less_than_sign"] * 20)
        assert "stab v▼" in head()
        app.table.set_sort([])
        await terminal.pilot.pause()
        assert head() == first

    play(scene)


def test_chosen_columns_have_their_order_and_width() -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        app.table.set_columns(
            [ChosenColumn("density"), ChosenColumn("value_query_ids", 9), ChosenColumn("star")]
        )
        await terminal.pilot.pause()
        assert app.table.lines[0].rstrip() == "   id   dens│QL value  *xm"
        assert app.table.lines[2].startswith("    1  0.50%│␣wildflo…")
        app.table.set_columns([])
        await terminal.pilot.pause()
        assert app.table.lines[0].startswith("   id *xm│QL key")

    play(scene)


BARS = [
    # gain, stability, density, and the bars
    ((0.5, 1.0, 0.1), "███"),
    ((0.25, 0.5, 0.01), "▄▄▆"),
    ((0.03, 0.01, 1e-9), "▁▁▁"),
    ((0.0, 0.0, 0.0), "·▁0"),
    ((-0.4, 0.9, 0.9), "-██"),
]


@pytest.mark.parametrize(("values", "bars"), BARS)
def test_bars_stand_for_numbers(values: tuple[float, float, float], bars: str) -> None:
    def drawn(ascii_only: bool) -> str:
        signs = (gain_bar(values[0], ascii_only=ascii_only),
                 share_bar(values[1], ascii_only=ascii_only),
                 density_bar(values[2], ascii_only=ascii_only))  # fmt: skip
        return "".join(signs)

    assert drawn(False) == bars
    assert drawn(True) == bars.translate({ord(b): str(k) for k, b in enumerate("▁▂▃▄▅▆▇█", 1)}
                                         | {ord("·"): "."})  # fmt: skip


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("width", [33, 80, 97, 160])
def test_every_line_is_as_wide_as_the_table(width: int, ascii_only: bool) -> None:
    texts = list(HOSTILE.values())
    rows = atlas(60, vocabulary=len(texts))

    async def scene(terminal: Terminal, app: TableApp) -> None:
        app.table.set_marks({8: {1: Mark(True, True, texts[0], tuple(texts), "x")}})
        await terminal.pilot.pause()
        lines = app.table.lines
        assert {cells(line) for line in lines} == {width}
        assert all(line.isascii() for line in lines) or not ascii_only

    play(scene, (width, 40), TableApp(rows, texts, ascii_only))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_hostile_tokens_and_tags_never_reach_the_terminal(
    size: tuple[int, int], ascii_only: bool
) -> None:
    texts = list(HOSTILE.values())
    marks = {
        8: {i: Mark(star=True, label=text, tags=(text,), note=text) for i, text in enumerate(texts)}
    }
    app = TableApp(
        atlas(len(texts) * 2, vocabulary=len(texts)),
        texts,
        ascii_only,
        lambda table: table.set_marks(marks, has_labels=True),
    )

    async def scene(terminal: Terminal, app: TableApp) -> None:
        await terminal.pilot.press(*["j"] * 12, "G", "J", "ctrl+u", "g")
        await terminal.pilot.pause()

    terminal = play(scene, size, app)

    assert not terminal.leaks()
    written = terminal.written
    written.encode("utf-8")
    assert written.isascii() or not ascii_only
    for text in texts:
        label = token_label(text, ascii_only=ascii_only)
        assert text in label or text.isspace() or text not in written
        assert label in written or cells(label) > 14


@given(st.lists(st.text(max_size=30), max_size=6), st.integers(1, 60), st.booleans())
@settings(deadline=None)
def test_a_cell_of_any_tokens_is_exactly_as_wide_and_begins_with_the_best(
    texts: list[str], width: int, ascii_only: bool
) -> None:
    writing = Writing(texts, ascii_only=ascii_only)
    values = {"layer": 0, "feature": 0, "value_query_ids": list(range(len(texts)))}
    column = next(column for column in COLUMNS if column.title == "QL value")

    cell = column.cell(writing, values, width)

    assert cells(cell) == width
    assert not leaks(cell)
    first = token_label(texts[0], ascii_only=ascii_only) if texts else ""
    assert cell.startswith(first) or cells(first) > width


@given(
    st.lists(st.text(max_size=12), min_size=1, max_size=12),
    st.lists(st.sets(st.integers(0, 11), max_size=3), min_size=1, max_size=3),
    st.integers(1, 60),
    st.booleans(),
)
@settings(deadline=None)
def test_the_best_match_of_every_word_is_in_a_cell_with_room_for_it(
    texts: list[str], words: list[set[int]], width: int, ascii_only: bool
) -> None:
    ids = tuple(frozenset(word) for word in words)
    matches = Matches(("value_query_ids",), {"value_query_ids": ids})
    writing = Writing(texts, ascii_only=ascii_only, matches=matches)
    values = {"layer": 0, "feature": 0, "value_query_ids": list(range(len(texts)))}
    column = next(column for column in COLUMNS if column.title == "QL value")

    pieces = column.pieces(writing, values, width)

    assert cells("".join(text for text, _ in pieces)) == width
    labels = [token_label(text, ascii_only=ascii_only) for text in texts]
    marked = [text for text, matched in pieces if matched]
    wanted = {labels[at] for word in words for at in word if at < len(labels)}
    assert set(marked[:-1]) <= wanted  # the last may be cut
    firsts = sorted({min(there) for word in words if (there := word & set(range(len(texts))))})
    needed = sum(cells(labels[at]) + 1 + len(writing.ellipsis) + 1 for at in firsts)
    if needed <= width:
        assert all(labels[at] in marked for at in firsts)


def test_what_a_filter_found_is_underlined_and_in_view() -> None:
    rows = filtered(atlas(vocabulary=5), "key:mometown", WORDS[:5])
    long = "long before " * 9 + "the WAR"
    mark = Mark(note=long, label=long, tags=("a", "b" * 20, "war"))
    marks = {8: dict.fromkeys(range(200), mark)}

    async def scene(terminal: Terminal, app: TableApp) -> None:
        app.table.set_rows(rows)
        await terminal.pilot.pause()
        assert len(rows) == 200
        for at, line in enumerate(app.table.lines[1:8]):
            found = app.table._painted[at + 1]
            style = "feature-table--cursor-match" if at == 0 else "feature-table--match"
            assert ("mometown", style) in found
            assert line.count("mometown") >= 1
        cell = app.table.lines[4].split("│")[-1]  # its list begins with another token
        assert "mometown" in cell

        app.table.set_marks(marks)
        for typed, shown in (("note:war", "…WAR"), ("label:war", "…WAR"), ("tag:war", "…,war")):
            marked = with_marks(atlas().frame, frame_of(marks))
            app.table.set_rows(filtered(all_rows(marked), typed, WORDS))
            await terminal.pilot.pause()
            assert shown in app.table.lines[3]
        app.table.set_rows(atlas())
        await terminal.pilot.pause()
        assert not any(style.endswith("match") for row in app.table._painted for _, style in row)

    for size in SIZES:
        play(scene, size)


def frame_of(marks: Mapping[int, Mapping[int, Mark]]) -> pl.DataFrame:
    rows = [
        (layer, feature, mark.star, mark.reject, mark.label, list(mark.tags), mark.note)
        for layer, features in marks.items()
        for feature, mark in features.items()
    ]
    return pl.DataFrame(rows, {"layer": pl.Int32, "feature": pl.Int32, **MARKS}, orient="row")


@pytest.mark.parametrize(
    ("wanted", "width", "title"),
    [
        (("key_logit_ids", "value_logit_ids"), 79, "LL key"),
        (("key_logit_ids",), 40, "LL key"),
        (("note",), 40, "note"),
        (("label",), 40, "label"),
        (("max_activation",), 40, "max_activation"),
        (("key_gain", "density", "value_overlap"), 50, "value_overlap"),
        (("value_first_order_ids",), 79, "value_first_order_ids"),
        (("silent",), 40, "dens"),
        (("reject", "layer"), 40, "*xm"),
        (("value_query_scores",), 79, "QL value"),
    ],
)
def test_a_column_that_is_sorted_by_or_searched_is_there(
    wanted: tuple[str, ...], width: int, title: str
) -> None:
    for fitted in (fitted_columns(4, width, (), wanted), fitted_columns(4, width, wanted)):
        shown = fitted.placed
        assert title in [each.column.title for each in shown if each.column.sources]
        assert sum(each.width + 1 for each in shown) <= width
        assert len({each.column.name for each in shown}) == len(shown)


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize(
    ("columns", "signs"),
    [
        (("value_gain",), ["gain v▼"]),
        (("value_stability", "density", "value_gain"), ["stab v▼1", "dens▼2", "gain v▼3"]),
        (("silent", "value_query_ids", "feature"), ["dens▼1", "QL value▲2", "id▲3"]),
        (("tags", "reject"), ["tags▲1", "*▼2"]),
        (("key_gain", "max_activation"), ["gain k▼1", "max_activation▼2"]),
        (("value_first_order_coherence", "note"), ["value_first_or▼1", "note▲2"]),
    ],
)
def test_the_columns_sorted_by_are_in_the_head_with_arrows_and_numbers(
    columns: tuple[str, ...], signs: list[str], ascii_only: bool
) -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        app.table.set_sort([useful_end_first(column) for column in columns])
        await terminal.pilot.pause()
        head = app.table.lines[0].translate({ord("\\"): "▼", ord("/"): "▲"})
        for sign in signs:
            assert sign in head
        assert {cells(line) for line in app.table.lines} == {80}
        assert app.table.lines[0].isascii() or not ascii_only

    play(scene, (80, 24), TableApp(ascii_only=ascii_only))


def test_a_cursor_move_between_rows_full_of_matches_stays_within_its_bytes() -> None:
    rows = filtered(atlas(), "e", WORDS)  # " wildflowers" and "mometown": every third token

    async def scene(terminal: Terminal, app: TableApp) -> None:
        app.table.set_rows(rows)
        sent = [len((await terminal.written_for(key)).encode()) for key in "jk" * 20]
        assert max(sent) < BYTES

    play(scene, (120, 40))


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "nord", "ansi-dark"])
@pytest.mark.parametrize("colours", [ColorSystem.STANDARD, ColorSystem.EIGHT_BIT])
def test_with_few_colours_text_and_ground_differ_everywhere(
    colours: ColorSystem, theme: str
) -> None:
    async def scene(terminal: Terminal, app: TableApp) -> None:
        app.theme = theme
        for focused in (True, False):
            app.screen.set_focus(app.table if focused else None)
            await terminal.pilot.pause()
            for part in sorted(FeatureTable.COMPONENT_CLASSES):
                style = app.table.get_component_rich_style(part)
                text, ground = style.color, style.bgcolor
                assert text is not None
                assert ground is not None
                differ = text.downgrade(colours) != ground.downgrade(colours)
                assert differ or text.is_default

    play(scene)


def test_without_colours_cursor_selection_and_marks_can_be_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def scene(terminal: Terminal, app: TableApp) -> None:
        app.table.set_marks({8: {0: Mark(star=True), 3: Mark(reject=True)}})
        await terminal.pilot.press("j", "J")
        await terminal.pilot.pause()

    written = play(scene).written
    greys = re.findall(r"[34]8;2;(\d+);(\d+);(\d+)", written)

    assert all(red == green == blue for red, green, blue in greys)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)
    for sign in (">   1", "|   1", ">   2", "    0 *", "    3  x"):
        assert sign in plain
