"""The whole job on the screen: look, compare, switch, search, mark, export, come back."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lens_core.terms import SIDES
from qlens_tui.app.last_visit import recall
from qlens_tui.app.screens.key_sections import in_workbench
from qlens_tui.app.screens.pane_layout import NAMES as PANES
from qlens_tui.app.screens.prompt import Prompt
from qlens_tui.app.screens.reverse_search import ReverseSearch
from qlens_tui.app.screens.sort_prompt import SortPrompt
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.layer_column import LayerColumn
from qlens_tui.app.widgets.term_list import TermList
from qlens_tui.app.work import Work
from qlens_tui.engine import messages as m
from qlens_tui.table.sort_key import SortKey
from tests.qlens_tui.app.desk import NARROW, SIZES, WIDE, Desk, run, settled, status, told
from tests.qlens_tui.app.simulated_time import simulate, until
from tests.qlens_tui.app.terminal import in_terminal

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize("size", SIZES)
def test_it_opens_on_the_first_layer_with_lists_paths_and_evidence(place, size):
    async def act(terminal, bench):
        assert bench.table.feature == (0, 0)
        assert ("layer all [0] 1 2" if size[0] > 100 else "L00") in status(bench)
        assert "ready" in status(bench)
        signature = bench.pane("value").shown.answer
        assert (signature.layer, signature.feature) == (0, 0)
        assert set(bench.paths.shown.answer) == {"value", "key"}
        assert bench.pane("evidence").shown.answer.feature == 0
        assert bench.query_one(KeyLine).lines[0].rstrip().endswith("? help")

    run(place, act, size=size)


def test_j_k_h_l_walk_features_and_layers_and_every_pane_follows(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "j", "k", "l")
        assert bench.table.feature == (1, 0)
        await settled(terminal.pilot, "h")
        assert bench.table.feature == (0, 1)
        await settled(terminal.pilot, "l", "j")
        for pane in (bench.pane("value"), bench.pane("key"), bench.paths, bench.pane("evidence")):
            assert pane.shown.of == (1, 1)
            assert not pane.is_grey
        await settled(terminal.pilot, "h", "G")
        assert bench.table.feature == (0, bench.table.rows.frame.height - 1)

    run(place, act, size=NARROW)


def test_all_layers_stand_in_one_table_before_the_first(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "h")
        assert bench.table.rows.frame["layer"].unique().to_list() == [0, 1, 2]
        assert "all layers" in status(bench)
        assert bench.query_one(LayerColumn).lines[1].startswith(">all")
        await settled(terminal.pilot, "l")
        assert bench.table.rows.frame["layer"].unique().to_list() == [0]
        await settled(terminal.pilot, "h", "colon", *"2:3", "enter")
        assert bench.table.feature == (2, 3)
        assert "all layers" in status(bench)

    run(place, act, size=(120, 36))


@pytest.mark.parametrize("size", SIZES)
def test_tab_walks_the_panes_and_escape_goes_back_to_the_table(place, size):
    async def act(terminal, bench):
        seen = [bench.focused.id]
        for _ in PANES:
            await settled(terminal.pilot, "tab")
            seen.append(bench.focused.id)
            assert bench.focused.size.height > 2
        assert seen == [*PANES, "table"]
        await settled(terminal.pilot, "shift+tab")
        assert bench.focused.id == "evidence"
        await settled(terminal.pilot, "escape")
        assert bench.focused.id == "table"

    run(place, act, size=size)


@pytest.mark.parametrize("size", [*SIZES, (120, 36)])
def test_z_gives_the_pane_with_the_focus_the_whole_screen_and_back(place, size):
    async def act(terminal, bench):
        def shown():
            return {name for name in PANES if bench.query_one(f"#{name}").region}

        before = shown()
        assert ("z", "zoom") in bench.query_one(KeyLine)._keys
        for name, back in zip(PANES, ["z", "escape"] * 3, strict=False):
            bench.focus_pane(name)
            await settled(terminal.pilot, "z")
            assert shown() == {name}
            assert bench.focused.size.width >= size[0] - 9  # the layers may be beside the table
            assert bench.focused.size.height >= size[1] - 5
            await settled(terminal.pilot, back)
            assert bench.focused.id == name
            assert before <= shown() | set(PANES[1:])
        # The zoom follows the focus.
        await settled(terminal.pilot, "escape", "z", *["tab"] * 3)
        assert (bench.focused.id, shown()) == ("paths", {"paths"})
        await settled(terminal.pilot, "space", "a", "slash", "escape", "shift+tab")
        assert (bench.focused.id, shown()) == ("value", {"value"})
        await settled(terminal.pilot, "escape", "escape")
        assert bench.focused.id == "table"
        assert len(shown()) == len(before)

    run(place, act, size=size)


@pytest.mark.parametrize("size", SIZES)
def test_provenance_is_said_once_behind_a_key_and_only_the_unusual_in_panes(place, size):
    def said(bench):
        return squeezed(bench.app.screen.query_one(TermList))

    async def act(terminal, bench):
        await settled(terminal.pilot, "I")
        text = said(bench)
        assert "lists of 0:0 key full, all 1 blocks on, over 80 reference tokens" in text
        assert "operators: built for this model, paper convention, final norm: apply" in text
        assert "paths of 0:0 key exact on 80 reference tokens, first-reader split" in text
        assert bench.state.opened.session.reference.sha256[:12] in text
        assert bench.state.opened.described[0].sha256[:12] in text
        await settled(terminal.pilot, "end", "escape")
        panes = " ".join(line for name in ("key", "value") for line in bench.pane(name).lines)
        assert not re.search(r"operators|convention|reference tokens|blocks on", panes)
        await settled(terminal.pilot, *"2I")
        assert "first-order, all" in said(bench)
        opened = bench.state.opened
        opened.session = replace(opened.session, model="\x1b[2J[red]evil\u202e")
        await settled(terminal.pilot, "escape", "I")
        assert r"\x1b[2J[red]evil\u202e" in said(bench)
        assert not terminal.leaks()

    run(place, act, size=size)


def squeezed(terms: TermList) -> str:
    lines = ("".join(text for text, _ in line) for line in terms._body)
    return re.sub(r"\s+", " ", " ".join(lines))


def test_a_wide_screen_shows_forty_features_and_eighteen_tokens_of_every_list(place):
    async def act(terminal, bench):
        assert bench.table.body_height >= 40
        for name in ("value", "key"):
            assert bench.pane(name).body_height >= 18
        assert bench.paths.size.height >= 7
        assert bench.pane("evidence").body_height >= 8

    run(place, act, size=(160, 48))


def test_a_colon_jumps_and_says_what_is_wrong_with_a_place_that_is_not_there(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "colon", *"2:99")
        prompt = terminal.pilot.app.screen
        assert isinstance(prompt, Prompt)
        assert any("has features 0 to 23" in line for line in prompt.query_one("#told").lines)
        await settled(terminal.pilot, "enter")
        assert terminal.pilot.app.screen is prompt
        await settled(terminal.pilot, "backspace", "backspace", *"17", "enter")
        assert bench.table.feature == (2, 17)
        await settled(terminal.pilot, "colon", *"5", "enter")
        assert bench.table.feature == (2, 5)

    run(place, act, size=NARROW)


def test_a_filter_keeps_rows_and_an_empty_one_gives_them_back(place):
    async def act(terminal, bench):
        everything = bench.table.rows.frame["value_stability"].to_list()
        await settled(terminal.pilot, "f", *"stab", "space", "v", "space", "greater_than_sign")
        await settled(terminal.pilot, "space", *"0.3", "enter")
        kept = bench.table.rows.taken()["value_stability"].to_list()
        assert kept == [each for each in everything if each > 0.3]
        assert "filter" in status(bench)
        await settled(terminal.pilot, "f")
        terminal.pilot.app.screen.query_one("#typed").value = ""
        await settled(terminal.pilot, "enter")
        assert len(bench.table.rows) == 24

    run(place, act)


def test_a_filter_of_words_outlives_a_restart_and_a_jump_takes_it_off_where_it_hides(place):
    async def leave(terminal, bench):
        await settled(terminal.pilot, "t", *"odd", "enter", "f", *"tag:odd", "enter")
        assert len(bench.table.rows) == 1

    async def come_back(terminal, bench):
        await settled(terminal.pilot)  # the filter's rows come after the layer's
        assert bench.rows.filter == "tag:odd"
        assert len(bench.table.rows) == 1
        await settled(terminal.pilot, "colon", *"0:9", "enter")
        assert bench.table.feature == (0, 9)
        assert bench.rows.filter == ""
        assert "hid that feature" in told(bench.app)

    run(place, leave)
    run(place, come_back)


def test_a_filter_that_cannot_be_used_yet_waits_and_is_kept(place):
    async def act(terminal, bench):
        bench.rows.filter_by("value_gain > -2")
        await settled(terminal.pilot)
        assert len(bench.table.rows) == 24
        layers, bench.layer_requests.tabulate = bench.state.opened.known, lambda _layer: None
        known = layers[1]
        layers[1] = replace(known, atlas=None)
        bench.reader.forget(1)
        bench.rows.go(1)
        await settled(terminal.pilot)
        assert bench.rows.filter == "value_gain > -2"
        assert not len(bench.table.rows)
        assert "not applied yet" in "".join(bench.table.lines)
        layers[1] = known
        bench.reader.forget(1)
        bench.rows.refresh()
        await settled(terminal.pilot)
        assert len(bench.table.rows) == 24

    run(place, act)


def test_progress_on_a_layer_is_told_to_the_feature_under_the_cursor(place):
    async def act(terminal, bench):
        bench.app.engine.alive = False  # it takes requests, and is busy
        await settled(terminal.pilot, "j")
        (asked,) = (w for w in bench.state.under_way if isinstance(w.request, m.ComputeEvidence))
        await settled(terminal.pilot, "j")
        bench.hear(m.Status(id=asked.id, text="running the reference", done=1, total=4))
        await settled(terminal.pilot)
        assert bench.table.feature == (0, 2)
        assert "running the reference 25%" in bench.pane("evidence").lines[0]
        bench.app.engine.alive = True
        for work in list(bench.state.under_way):
            bench.hear(bench.app.engine.answer(replace(work.request, id=work.id)))
        assert not bench.pane("evidence").shown.awaits
        assert bench.pane("evidence").shown.answer.feature == 2

    run(place, act)


def test_a_wrong_filter_names_the_nearest_column_and_stays(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "f", *"densty", "space", "greater_than_sign", "space", "0")
        await settled(terminal.pilot, "enter")
        prompt = terminal.pilot.app.screen
        assert isinstance(prompt, Prompt)
        assert "the nearest is density" in prompt.query_one("#told").lines[0]

    run(place, act, size=(160, 48))


def test_a_filter_that_is_no_whole_condition_is_refused_in_the_prompt(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "f")
        prompt = terminal.pilot.app.screen
        prompt.query_one("#typed").value = "key_gain >"
        await settled(terminal.pilot, "enter")
        assert terminal.pilot.app.screen is prompt
        assert "it is not a complete condition" in prompt.query_one("#told").lines[0]
        prompt.query_one("#typed").value = "key_gain > -2"
        await settled(terminal.pilot, "enter")
        assert len(bench.table.rows) == 24

    run(place, act, size=(160, 48))


def test_a_sort_is_typed_reversed_and_added_to(place):
    def shown(bench, *columns):
        return bench.table.rows.taken().select(columns).rows()

    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "s", "j", "s", "o", *"gain v")
        prompt = terminal.pilot.app.screen
        assert isinstance(prompt, SortPrompt)
        (line,) = prompt.query_one("ChoiceList")._choices
        value = bench.table.rows.frame["value_gain"][2]
        assert line.split() == ["gain", "v", f"{value:+.2f}"]
        await settled(terminal.pilot, "enter")
        gains = sorted(bench.table.rows.frame["value_gain"].to_list(), reverse=True)
        assert [gain for (gain,) in shown(bench, "value_gain")] == gains
        await settled(terminal.pilot, "o", "enter")
        assert [gain for (gain,) in shown(bench, "value_gain")] == gains[::-1]
        assert "gain v▲" in bench.table.lines[0]

        await settled(terminal.pilot, "o", *"star", "ctrl+o", "o", *"key_gain", "enter")
        assert bench.rows.sort == (SortKey("star", True), SortKey("key_gain", True))
        rows = shown(bench, "star", "key_gain")
        assert rows == sorted(rows, reverse=True)
        assert [star for star, _ in rows[:3]] == [True, True, False]
        assert "sort star down, gain k down" in status(bench)
        assert "gain k▼2" in bench.table.lines[0]
        assert "*▼1" in bench.table.lines[0]
        await settled(terminal.pilot, "escape")
        assert bench.rows.sort == (SortKey("star", True),)
        await settled(terminal.pilot, "o", *"none", "enter")
        assert bench.rows.sort == ()
        assert shown(bench, "feature") == [(feature,) for feature in range(24)]

    run(place, act, size=WIDE)


def test_a_sort_by_nothing_there_is_refused(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "o", *"gian", "enter")
        prompt = terminal.pilot.app.screen
        assert isinstance(prompt, SortPrompt)
        assert "no column has that in its name" in prompt.query_one("#told").lines[0]
        await settled(terminal.pilot, "escape")
        assert bench.rows.sort == ()

    run(place, act)


def test_a_switched_block_changes_the_signature_and_the_screen_says_so(place):
    async def act(terminal, bench):
        before = bench.pane("value").shown.answer.value.top.query_lens.scores
        await settled(terminal.pilot, "tab", "tab", "tab", "end", "space")
        assert len(bench.paths.view.off) == 1
        masked = bench.pane("value").shown.answer
        assert masked.settings.off == bench.paths.view.off
        assert masked.method == "direct"
        assert masked.value.top.query_lens.scores != before
        assert "1 off" in status(bench)
        await settled(terminal.pilot, "a")
        assert bench.pane("value").shown.answer.value.top.query_lens.scores == before
        await settled(terminal.pilot, "2")
        assert bench.pane("value").shown.answer.settings.transition == "first-order"
        await settled(terminal.pilot, "3", "n")
        assert bench.paths.view.off == frozenset(bench.paths._shares.rows)

    run(place, act, size=WIDE)


def test_what_a_blocks_loss_costs_is_there_for_one_feature_after_another(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "tab", "tab", "tab", "c", "c")
        for keys in ((), ("space",), ("a", "2"), ("3", "escape", "j")):
            await settled(terminal.pilot, *keys)
            for side in SIDES:
                shares = bench.paths.view.sides[side]
                assert not shares.late
                if shares.paths.rows:
                    assert shares.paths.split == "ablation"
            assert "ablation" in "\n".join(bench.paths.lines)
        await settled(terminal.pilot, "tab", "tab", "tab", "1")
        assert "first-order split" in "\n".join(bench.paths.lines)
        await settled(terminal.pilot, "3", "c")
        assert "first-reader split" in "\n".join(bench.paths.lines)

    run(place, act)


def test_a_slash_finds_features_by_token_and_enter_goes_there(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "slash", "e")
        prompt = terminal.pilot.app.screen
        assert isinstance(prompt, Prompt)
        await settled(terminal.pilot, "enter")
        hits = terminal.pilot.app.screen
        assert isinstance(hits, ReverseSearch)
        first = hits.hits[0]
        assert {hit.layer for hit in hits.hits} == {0}
        await settled(terminal.pilot, "a")
        assert {hit.layer for hit in hits.hits} == {0, 1, 2}
        await settled(terminal.pilot, "tab")
        assert isinstance(bench.app.engine.requests[-1], m.Search)
        assert bench.app.engine.requests[-1].side == "key"
        await settled(terminal.pilot, "c", "a", "tab", "c", "c", "enter")
        assert bench.table.feature == (first.layer, first.feature)

    run(place, act, size=NARROW)


def test_hits_of_layers_that_were_not_visited_have_their_tokens_too(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "B")  # the atlas of every layer
        await settled(terminal.pilot, "slash", "e", "enter", "a")
        hits = terminal.pilot.app.screen
        lines = hits.query_one(ChoiceList).lines[1:]
        there = [line for line in lines if re.match(r"\W*[12]:", line)]
        assert there
        assert all(len(line.split()) > 3 for line in there)

    run(place, act)


@pytest.mark.parametrize("size", SIZES)
def test_every_key_of_every_pane_does_no_harm(place, size):
    async def act(terminal, bench):
        sections = {each.title: each.bindings for each in in_workbench()}
        own = ("table", "token lists", "token lists", "paths", "evidence")
        for name, title in zip(PANES, own, strict=True):
            at = "table" if size == SIZES[0] else "paths"
            everywhere = sections["everywhere"] if name == at else []
            for bindings in (everywhere, sections[title]):
                for binding in bindings:
                    for key in binding.key.split(","):
                        # Copying sends a sequence of its own, which is tested below.
                        if binding.action in ("app.quit", "copy"):
                            continue
                        bench.focus_pane(name)
                        await terminal.pilot.press(key)
                        await terminal.pilot.pause()
                        for _ in range(3):  # a prompt's first escape clears what was typed
                            if terminal.pilot.app.screen is not bench:
                                await terminal.pilot.press("escape", "escape")
                        assert terminal.pilot.app.screen is bench, f"{key} in {name} opened it"
                        assert terminal.pilot.app.is_running, key
        assert not terminal.leaks()

    run(place, act, size=size)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_of_a_hostile_vocabulary_reaches_the_terminal_raw(place, size):
    async def act(terminal, bench):
        await settled(terminal.pilot, *"jjj", "b", "i", "tab", "tab", "tab", "right", "tab")
        await settled(terminal.pilot, "escape", "slash", "e", "down", "down", "enter", "escape")
        for typed in ("[", "x", "i"):
            for _ in range(3):
                await settled(terminal.pilot, "slash", typed, "down", "tab", "escape", "escape")
        await settled(terminal.pilot, "t", *"[b]x", "enter", "e", "escape", "o", "escape")
        assert not terminal.leaks()

    run(place, act, size=size)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_ascii_writes_nothing_else(place, ascii_only):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "tab", "tab", "tab", "space", "question_mark", "escape")
        for screen in ("o", "w", "v", "slash", "e", "ctrl+p"):
            await settled(terminal.pilot, screen, "escape", "escape")
        await settled(terminal.pilot, "u")
        assert "nothing to undo" in told(bench.app)
        assert terminal.written.isascii() == ascii_only
        # Of ourselves, that is: the terminal's driver would make question marks of the rest.
        shown = {line for pane in bench.query("LinePane") for line in pane.lines}
        assert all(line.isascii() for line in shown) == ascii_only

    run(place, act, ascii_only=ascii_only)


def test_a_window_that_is_too_small_says_so_and_waits(place):
    async def act(terminal, bench):
        await terminal.pilot.resize_terminal(60, 20)
        await settled(terminal.pilot)
        assert "needs at least 80x24: this is 60x20" in status(bench)
        await settled(terminal.pilot, "s", "j", "x", "colon")
        assert terminal.pilot.app.screen is bench
        assert not any(bench.marking.marks.values())
        await terminal.pilot.resize_terminal(100, 30)
        await settled(terminal.pilot)
        assert "ready" in status(bench)
        assert bench.focused is bench.table
        await settled(terminal.pilot, "j")
        assert bench.table.feature == (0, 1)

    run(place, act)


def test_escape_at_the_table_goes_back_to_where_a_jump_came_from(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "colon", *"2:7", "enter", "colon", *"9", "enter")
        assert bench.table.feature == (2, 9)
        await settled(terminal.pilot, "tab", "escape")
        assert bench.table.feature == (2, 9)
        await settled(terminal.pilot, "escape")
        assert bench.table.feature == (2, 7)
        await settled(terminal.pilot, "escape")
        assert bench.table.feature == (0, 1)
        await settled(terminal.pilot, "escape", "escape")  # one hides the first visit's line
        assert bench.table.feature == (0, 1)
        assert "nothing to go back to" in told(bench.app)

    run(place, act)


def test_all_layers_are_shown_again_the_next_time(place):
    async def leave(terminal, bench):
        await settled(terminal.pilot, "h")
        await settled(terminal.pilot, "G", "k")
        assert bench.table.feature == (2, 22)

    async def come_back(terminal, bench):
        await settled(terminal.pilot)
        assert bench.state.layer is None
        assert bench.table.feature == (2, 22)
        assert "layer [all] 0 1 2" in status(bench)

    run(place, leave)
    run(place, come_back)


def test_a_filter_that_keeps_nothing_leaves_no_numbers_of_another_feature(place):
    async def act(terminal, bench):
        bench.rows.filter_by("value_gain > 99")
        panes = bench.pane_layout.panes.values()
        await until(lambda: bench.table.feature is None, "no row is left")
        await until(lambda: all(pane.shown.answer is None for pane in panes), "panes are empty")
        await settled(terminal.pilot, "s", "e", "escape", "y")
        bench.rows.filter_by("")
        await settled(terminal.pilot)
        assert bench.pane("value").shown.answer.feature == 0

    run(place, act)


def test_cancelling_in_the_jobs_panel_stops_the_job_that_the_line_named(place):
    async def act(terminal, bench):
        work = bench.state.work
        for number, layer in ((901, 1), (902, 2)):
            work[number] = Work(number, m.Tabulate(layer=layer), f"atlas of layer {layer}")
        await settled(terminal.pilot, "w", "down")
        del work[901]  # finished; the panel has not been drawn again yet
        await terminal.pilot.press("d")
        cancelled = [r for r in bench.app.engine.requests if isinstance(r, m.Cancel)]
        assert [request.target for request in cancelled] == [902]

    run(place, act)


def test_a_configuration_that_cannot_be_opened_is_one_line_on_the_screen(place, tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text('[model]\nname = "./nothing"\n[dictionary]\nkind = "neurons"\n')
    app = Desk(broken)

    async def whole() -> None:
        async with in_terminal(app, (120, 40)):
            await until(lambda: told(app), "the app has told why")
            assert "there is no directory" in told(app)
            assert app.is_running
            app.finish()
        app.end()

    simulate(whole())


def test_the_place_file_is_plain_json_and_a_damaged_one_is_a_new_beginning(place, tmp_path):
    async def visit(terminal, bench):
        await settled(terminal.pilot, "j")

    run(place, visit)
    (file,) = [f for f in (tmp_path / "state").glob("*.json") if "vocabulary" not in f.name]
    assert json.loads(file.read_text())["feature"] == 1
    file.write_text('{"format": 1, "layer": "x"}')
    assert recall(Path(place.config)).feature is None


def test_waiting_for_the_engine_is_said_and_never_blocks_a_key(place):
    app = Desk(Path(place.config))
    app.engine.start = lambda: None  # type: ignore[method-assign]

    async def whole() -> None:
        async with in_terminal(app, (80, 24)) as terminal:
            await settled(terminal.pilot)
            bench = app.screen_stack[-1]
            assert "opening" in status(bench)
            assert "features appear once the model is loaded" in "".join(bench.table.lines)
            opened = {}
            for key in ("j", "s", "slash", "tab", "w", "question_mark"):
                await settled(terminal.pilot, key)
                opened[key] = type(app.screen).__name__
                if key == "tab":
                    assert bench.focused is bench.pane("key")
                await settled(terminal.pilot, *[] if app.screen is bench else ["escape"])
                assert app.screen is bench
            assert (opened["w"], opened["question_mark"]) == ("Jobs", "Help")
            # Without features there is nothing to mark, and without tokens none to search for.
            assert {opened[key] for key in ("j", "s", "tab")} == {"Workbench"}
            assert opened["slash"] == "WaitingPrompt"
            assert not any(bench.marking.marks.values())
            assert not any(isinstance(each, m.Search) for each in app.engine.requests)
            assert "opening" in status(bench)
            app.finish()
        app.end()

    simulate(whole())
