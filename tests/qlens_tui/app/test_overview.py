"""The overview of all layers: reading, drawing at every width, and going to a layer."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from qlens_tui.app.screens import overview as screens
from qlens_tui.app.screens.overview import OverviewScreen
from qlens_tui.app.screens.workbench import Workbench
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.table import overview as numbers
from qlens_tui.table.known_layer import KnownLayer
from tests.qlens_tui.app.desk import NARROW, SIZES, run, settled
from tests.qlens_tui.app.simulated_time import until
from tests.qlens_tui.app.terminal import HOSTILE, Terminal

pytestmark = pytest.mark.usefixtures("place")
OTHERS = (1, 2)


async def opened(terminal: Terminal, bench: Workbench) -> OverviewScreen:
    """The overview, read, of a first layer with an atlas and others without one."""
    for layer in OTHERS:
        bench.state.opened.known[layer] = replace(bench.state.opened.known[layer], atlas=None)
    bench.action_open("overview")
    await settled(terminal.pilot)
    screen = terminal.pilot.app.screen
    assert isinstance(screen, OverviewScreen)
    return screen


def lines(screen: OverviewScreen) -> list[str]:
    """All that is on the screen, top to bottom."""
    panes = sorted(screen.query("LinePane"), key=lambda pane: pane.region.y)
    shown = [line.rstrip() for pane in panes if pane.display for line in pane.lines]
    assert len(shown) == screen.size.height
    return shown


def row(screen: OverviewScreen, start: str) -> str:
    """The line of a layer."""
    listed = [line.rstrip() for line in screen.query_one(ChoiceList).lines]
    (found,) = [line for line in listed if line.lstrip("> ").startswith(f"{start} ")]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_line_a_layer_and_one_for_all_with_what_is_in_the_atlas(place, size):
    async def act(terminal, bench):
        screen = await opened(terminal, bench)
        assert screen.rows == (None, 0, 1, 2)
        assert "3 layers, 72 features, 2 without an atlas" in lines(screen)[0]
        frame = bench.table.rows.frame
        gain = float(frame["value_gain"].median())
        for start, features in (("all", 72), ("0", 24)):
            words = row(screen, start).lstrip("> ").split()
            assert words[1:6] == [str(features), str(frame["silent"].sum()), "0", "0", "0"]
            assert float(words[6]) == pytest.approx(gain, abs=0.0051)
            assert len(words[7]) == 10
        for layer in OTHERS:
            words = row(screen, str(layer)).split()
            assert words == [str(layer), "24", "0", "0", "0", "no", "atlas", "yet"]
        heading = next(line for line in lines(screen) if "rejects" in line)
        assert heading.count("gain") == 2
        assert ("density" in heading) == (size[0] == 160)
        assert max(map(len, lines(screen))) <= size[0]

    run(place, act, size=size)


@pytest.mark.parametrize("size", SIZES)
def test_the_histogram_counts_every_feature_of_the_metric_that_was_chosen(place, size):
    async def act(terminal, bench):
        screen = await opened(terminal, bench)
        assert screen.query_one(ChoiceList).cursor == 1
        for metric in numbers.METRICS:
            shown = screen.query_one(screens._Histogram).lines
            assert shown[0].startswith(f" {metric.title} of layer 0")
            values = bench.table.rows.frame[metric.source]
            spread = numbers.Spread.of(metric, values)
            assert [int(word) for word in shown[-2].split()] == list(spread.bins)
            assert f"{spread.count} of 24 features" in shown[0]
            heading = next(line for line in lines(screen) if "rejects" in line)
            assert f">{metric.title}" in heading
            await settled(terminal.pilot, "right")
        assert screen._metric == len(numbers.METRICS) - 1
        await settled(terminal.pilot, *["left"] * 9, "j")
        assert any("value gain of layer 1: no atlas yet" in line for line in lines(screen))

    run(place, act, size=size)


def test_enter_goes_to_the_layer_under_the_cursor(place):
    async def act(terminal, bench):
        await opened(terminal, bench)
        await settled(terminal.pilot, "j", "enter")
        assert terminal.pilot.app.screen is bench
        assert bench.state.layer == 1
        assert bench.table.feature == (1, 0)
        await opened(terminal, bench)
        await settled(terminal.pilot, "g", "enter")
        assert bench.state.layer is None

    run(place, act, size=NARROW)


@pytest.mark.parametrize("key", ["escape", "v"])
def test_escape_and_v_go_back_to_where_the_user_was(place, key):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j")
        await opened(terminal, bench)
        await settled(terminal.pilot, "j", "j", key)
        assert terminal.pilot.app.screen is bench
        assert bench.table.feature == (0, 1)

    run(place, act)


def test_marks_are_counted_where_they_are(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "s", "j", "s", "x", "j", "t", *"odd", "enter")
        screen = await opened(terminal, bench)
        assert row(screen, "0").lstrip("> ").split()[3:6] == ["2", "1", "1"]
        assert row(screen, "all").split()[3:6] == ["2", "1", "1"]
        assert "3 marked (4.2%)" in lines(screen)[0]

    run(place, act)


def test_an_atlas_that_is_made_meanwhile_is_shown(place):
    async def act(terminal, bench):
        screen = await opened(terminal, bench)
        bench.state.opened.known[1] = replace(bench.state.opened.known[0], layer=1)
        await terminal.pilot.pause(screens._LOOK_AGAIN + 0.2)
        await settled(terminal.pilot)
        assert "no atlas yet" not in row(screen, "1")
        assert int(row(screen, "all").split()[2]) == 2 * int(row(screen, "1").split()[2])
        twice = screen._numbers(None).measured.spreads[0].count
        assert twice == 2 * screen._numbers(0).measured.spreads[0].count

    run(place, act)


def test_layers_are_shown_as_they_are_read_and_leaving_ends_the_reading(place, monkeypatch):
    asked: list[int] = []
    go_on, original = threading.Semaphore(0), screens.overview_of

    def slowly(known: KnownLayer) -> numbers.Overview:
        asked.append(known.layer)
        assert go_on.acquire(timeout=120)
        return original(known)

    async def act(terminal, bench):
        monkeypatch.setattr(screens, "overview_of", slowly)
        bench.action_open("overview")
        await until(lambda: asked, "the first layer is being read")
        screen = terminal.pilot.app.screen
        await until(lambda: "3 layers to read" in lines(screen)[0], "the head says what is left")
        assert row(screen, "2").split()[1:] == ["24", "reading"]
        go_on.release()
        await until(lambda: 1 in asked, "the second layer is being read")
        assert "reading" not in row(screen, "0")
        assert row(screen, "2").endswith("reading")
        await terminal.pilot.press("j", "j")
        assert screen.query_one(ChoiceList).cursor == 3
        await terminal.pilot.press("escape")
        assert terminal.pilot.app.screen is bench
        go_on.release()
        await settled(terminal.pilot)
        assert asked == [0, 1]

    run(place, act)


@pytest.mark.parametrize("size", SIZES)
def test_ascii_writes_nothing_else(place, size):
    async def act(terminal, bench):
        first = bench.state.opened.known[0]
        bench.state.opened.known[0] = replace(first, name="草" + HOSTILE["bidi override"])
        start = len(terminal.record)
        screen = await opened(terminal, bench)
        await settled(terminal.pilot, *["right"] * 6, "j", "k")
        assert all(line.isascii() for line in lines(screen))
        assert "".join(terminal.record[start:]).isascii()

    run(place, act, size=size, ascii_only=True)


def test_a_hostile_name_of_a_dictionary_does_not_reach_the_terminal(place):
    async def act(terminal, bench):
        names = list(HOSTILE.values())
        for first in range(0, len(names), 3):
            for layer, name in enumerate(names[first : first + 3]):
                bench.state.opened.known[layer] = replace(
                    bench.state.opened.known[layer], name=name
                )
            await opened(terminal, bench)
            await settled(terminal.pilot, "g", "j", "j", "j", "escape")  # each is drawn
        assert not terminal.leaks()

    run(place, act)


def test_many_layers_of_many_features_keep_their_columns(place):
    async def act(terminal, bench):
        screen = await opened(terminal, bench)
        found = screen._read[0][1]
        large = replace(found, features=1 << 20, measured=replace(found.measured, silent=1 << 20))
        layers = range(40)
        bench.state.opened.session = replace(bench.state.opened.session, layers=tuple(layers))
        for layer in layers:
            known = replace(bench.state.opened.known[0], layer=layer, n_features=1 << 20)
            bench.state.opened.known[layer] = known
            screen._read[layer] = known, large
        screen._sum = screen._added_up()
        screen._show()
        await settled(terminal.pilot, "G")
        shown = lines(screen)
        assert row(screen, "39").startswith(">")
        assert row(screen, "39").lstrip("> ").split()[1:3] == ["1048576", "1048k"]
        await settled(terminal.pilot, "g")
        assert row(screen, "all").lstrip("> ").split()[1:3] == ["41943040", "41943k"]
        assert all("key gain" in line for line in shown if "rejects" in line)
        assert len(shown) == 24

    run(place, act, size=(80, 24))


def test_a_configuration_of_which_no_layer_is_known_says_so(place):
    async def act(terminal, bench):
        known = dict(bench.state.opened.known)
        bench.state.opened.known.clear()
        bench.state.opened.session = None
        bench.action_open("overview")
        await settled(terminal.pilot)
        screen = terminal.pilot.app.screen
        assert any("no layer is known yet" in line for line in lines(screen))
        await settled(terminal.pilot, "right", "enter", "escape")
        assert terminal.pilot.app.screen is bench
        bench.state.opened.known.update(known)

    run(place, act)
