"""Marks from the keyboard, as a user makes them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from lens_core.errors import StoreError
from qlens_tui.app.screens import marking, reading_marks
from qlens_tui.app.screens.note import NoteEditor
from qlens_tui.app.screens.prompt import Prompt
from qlens_tui.app.widgets.text_line import TextLine
from qlens_tui.app.widgets.wrapped_text import WrappedText
from qlens_tui.triage.backups import backups_of
from qlens_tui.triage.database import NAME
from qlens_tui.triage.marks import DictionaryName, Mark
from qlens_tui.triage.triage import Triage
from tests.qlens_tui.app.desk import NARROW, WIDE, Desk, ready, run, settled, status, told
from tests.qlens_tui.app.simulated_time import simulate, until
from tests.qlens_tui.app.terminal import in_terminal
from tests.waiting import PATIENCE

STAR = Mark(star=True)

pytestmark = pytest.mark.usefixtures("place")


def test_nothing_of_another_layer_can_be_marked_while_a_layer_is_read(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j")
        bench.rows.go(1)
        assert bench.table.feature is None
        bench.mark_keys.star()
        await settled(terminal.pilot)
        assert not any(bench.marking.marks.values())
        assert bench.table.feature == (1, 0)

    run(place, act)


def test_marks_are_made_undone_and_redone_and_are_in_the_table(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "s", "j", "x", "t", *"keep", "enter")
        marks = bench.marking.marks[0]
        assert marks[0].star
        assert marks[1].reject
        assert marks[1].tags == ("keep",)
        assert " *" in bench.table.lines[1]
        await settled(terminal.pilot, "u", "u")
        assert 1 not in bench.marking.marks[0]
        await settled(terminal.pilot, "ctrl+r")
        assert bench.marking.marks[0][1].reject
        await settled(terminal.pilot, "m")
        assert isinstance(terminal.pilot.app.screen, NoteEditor)
        await settled(terminal.pilot, *"two", "enter", *"lines", "ctrl+s")
        assert bench.marking.marks[0][1].note == "two\nlines"

    run(place, act, size=NARROW)


def test_what_is_told_of_a_mark_names_the_feature(place):
    async def act(terminal, bench):
        async def after(*keys: str) -> str:
            bench.app.clear_notifications()
            await settled(terminal.pilot, *keys)
            return told(bench.app)

        assert await after("s", "x") == ""  # the table shows them
        assert await after("t", *"body", "enter") == "0:0 tagged body"
        assert await after("t", *"body", "enter") == "0:0 untagged body"
        assert await after("j", "u") == "undone: 0:0 untagged body"
        assert await after("ctrl+r") == "redone: 0:0 untagged body"
        assert await after("L", *"limbs", "enter") == "0:1 labelled"
        assert await after("L", "ctrl+u", "enter") == "0:1 label removed"
        assert await after("m", *"why", "ctrl+s") == "0:1 note written"
        await settled(terminal.pilot, "J", "J", "t")
        assert "tag 3 features" in "".join(bench.app.screen.query_one(TextLine).lines)
        assert await after(*"body", "enter") == "3 features tagged body"
        with Triage() as other:
            other.apply({bench.marking.name_of(0): [1]}, remove=["body"])
        assert await after("u") == "undone: 3 features tagged body, 1 skipped: changed elsewhere"
        await settled(terminal.pilot, "escape", "g", "t")
        assert "tag 0:0" in "".join(bench.app.screen.query_one(TextLine).lines)
        await settled(terminal.pilot, *"body", "enter")
        with Triage() as other:
            other.apply({bench.marking.name_of(0): [0]}, remove=["body"])
        assert await after("u") == "not undone: 0:0 tagged body, but changed elsewhere since"

    run(place, act)


def test_a_mark_applies_to_a_range_and_to_everything_that_is_filtered(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "J", "J", "s")
        assert [f for f, mark in bench.marking.marks[0].items() if mark.star] == [0, 1, 2]
        await settled(terminal.pilot, "escape", "A", "x")
        assert sum(mark.reject for mark in bench.marking.marks[0].values()) == 24
        await settled(terminal.pilot, "u")
        assert not any(mark.reject for mark in bench.marking.marks[0].values())

    run(place, act)


def test_a_label_is_written_changed_found_and_undone(place):
    async def act(terminal, bench):
        assert "label" not in bench.table.lines[0]
        await settled(terminal.pilot, "L", *"what burns, and how", "enter")
        assert bench.marking.marks[0] == {0: Mark(label="what burns, and how")}
        assert "label" in bench.table.lines[0]
        await settled(terminal.pilot, "L")
        prompt = terminal.pilot.app.screen
        assert prompt.query_one("#typed").value == "what burns, and how"
        await settled(terminal.pilot, *"!", "enter", "f", *"label:BURNS", "enter")
        assert bench.table.feature == (0, 0)
        assert len(bench.table.rows) == 1
        assert "what burns" in bench.table.lines[1]
        await settled(terminal.pilot, "f")
        terminal.pilot.app.screen.query_one("#typed").value = "label = 'what burns, and how!'"
        await settled(terminal.pilot, "enter")
        assert len(bench.table.rows) == 1
        await settled(terminal.pilot, "u", "u")
        assert bench.marking.marks[0] == {}

    run(place, act, size=NARROW)


def test_a_range_gets_one_label_and_loses_its_labels_only_when_asked_twice(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "J", "J", "L", *"war", "enter")
        assert bench.marking.marks[0] == dict.fromkeys(range(3), Mark(label="war"))
        await settled(terminal.pilot, "L", "enter")
        told = terminal.pilot.app.screen.query_one("#told").lines[0]
        assert "enter again to remove the labels of 3 features" in told
        await settled(terminal.pilot, "enter")
        assert bench.marking.marks[0] == {}
        await settled(terminal.pilot, "u")
        assert bench.marking.marks[0] == dict.fromkeys(range(3), Mark(label="war"))

    run(place, act)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_hostile_label_is_pasted_as_one_visible_line_and_a_long_one_refused(place, ascii_only):
    async def act(terminal, bench):
        await settled(terminal.pilot, "L")
        prompt = terminal.pilot.app.screen
        prompt.query_one("#typed").insert_text_at_cursor("[red]\x1b[31mq\n\u202eevil\u200b")
        await settled(terminal.pilot, "enter")
        assert bench.marking.marks[0][0].label == "[red][31mq evil"
        assert "[red]" in "".join(bench.table.lines)
        assert "[red][31mq evil" in bench.query_one("#feature").lines[0]
        await settled(terminal.pilot, "L")
        terminal.pilot.app.screen.query_one("#typed").value = "x" * 201
        await settled(terminal.pilot, "enter")
        prompt = terminal.pilot.app.screen
        assert "at most 200 characters, this one has 201" in prompt.query_one("#told").lines[0]
        assert bench.marking.marks[0][0].label == "[red][31mq evil"
        await settled(terminal.pilot, "escape")
        assert not terminal.leaks()

    run(place, act, ascii_only=ascii_only)


def test_a_mark_moves_on_if_this_is_switched_on_and_the_footer_says_so(place):
    def footer(bench) -> str:
        return bench.query_one("#keys").lines[0]

    async def act(terminal, bench):
        assert "marks move on" not in footer(bench)
        await settled(terminal.pilot, "s")
        assert bench.table.feature == (0, 0)
        await settled(terminal.pilot, "M", "s")
        assert "a mark moves on" in told(bench.app)
        assert "M marks move on" in footer(bench)
        assert bench.table.feature == (0, 0)  # a star was taken away
        await settled(terminal.pilot, "s", "x", "t", *"keep", "enter", "L", *"burns", "enter")
        await settled(terminal.pilot, "m", *"hot", "ctrl+s")
        assert bench.table.feature == (0, 5)
        assert bench.marking.marks[0] == {
            0: STAR, 1: Mark(reject=True), 2: Mark(tags=("keep",)), 3: Mark(label="burns"),
            4: Mark(note="hot"),
        }  # fmt: skip
        await settled(terminal.pilot, "u", "J", "s")
        assert bench.table.feature == (0, 6)  # neither an undo nor a range moves on
        await settled(terminal.pilot, "G", "s")
        assert bench.table.feature == (0, 23)

    run(place, act, size=NARROW)

    async def again(terminal, bench):
        assert "M marks move on" in footer(bench)
        await settled(terminal.pilot, "M")
        assert "marks move on" not in footer(bench)

    run(place, again, size=NARROW)


def test_the_next_unmarked_feature_is_found_from_anywhere_and_what_is_left_is_counted(place):
    async def act(terminal, bench):
        assert "to go" not in status(bench)
        await settled(terminal.pilot, "g", "J", "J", "s", "escape", "g", "N")
        assert bench.table.feature == (0, 3)
        assert "21 to go" in status(bench)
        await settled(terminal.pilot, "G", "x", "A", "s", "g", "j", "s", "G", "N")
        assert "from the first feature again" in told(bench.app)
        assert bench.table.feature == (0, 1)
        assert "1 to go" in status(bench)
        await settled(terminal.pilot, "N")
        assert "every other feature here has a mark" in told(bench.app)
        assert bench.table.feature == (0, 1)
        await settled(terminal.pilot, "l")
        assert "to go" not in status(bench)

    run(place, act, size=NARROW)


def test_one_key_each_shows_starred_tagged_and_unmarked_features(place):
    def features(bench) -> list[int]:
        return bench.table.rows.features()["feature"].to_list()

    async def act(terminal, bench):
        await settled(terminal.pilot, "s", "j", "t", *"keep", "enter", "j", "x")
        for key, found in (("S", [0]), ("T", [1]), ("U", [*range(3, 24)])):
            await settled(terminal.pilot, key)
            assert features(bench) == found
            assert "filter" in status(bench)
            await settled(terminal.pilot, key)
            assert len(features(bench)) == 24
            await settled(terminal.pilot, key, "escape")
            assert len(features(bench)) == 24
        await settled(terminal.pilot, "S", "T")
        assert features(bench) == []
        assert bench.rows.filter == "is:starred is:tagged"
        await settled(terminal.pilot, "S")
        assert features(bench) == [1]

    run(place, act, size=NARROW)


def test_a_key_for_marks_adds_to_what_was_typed_and_takes_only_itself_away(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "s", "j", "s", "f", *"feature > 0", "enter", "S")
        assert bench.rows.filter == "(feature > 0) and star"
        assert bench.table.rows.features()["feature"].to_list() == [1]
        await settled(terminal.pilot, "S")
        assert bench.rows.filter == "feature > 0"
        assert len(bench.table.rows) == 23
        await settled(terminal.pilot, "S", "escape")
        assert bench.rows.filter == ""

    run(place, act)


def test_rows_follow_marks_once_the_cursor_has_left_them(place):
    """The row that was just marked stays under the cursor; others are as the filter says."""

    def features(bench) -> list[int]:
        return bench.table.rows.features()["feature"].to_list()

    async def act(terminal, bench):
        await settled(terminal.pilot, "s", "j", "s", "j", "s", "g", "S")
        assert features(bench) == [0, 1, 2]
        await settled(terminal.pilot, "s")  # no star any more
        assert (features(bench), bench.table.feature) == ([0, 1, 2], (0, 0))
        await settled(terminal.pilot, "j")
        assert (features(bench), bench.table.feature) == ([1, 2], (0, 1))
        await settled(terminal.pilot, "s", "s", "j", "j")
        assert features(bench) == [1, 2]

    run(place, act)


def test_marks_in_results_move_on_there(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "M", "slash", *"o", "enter")
        screen = terminal.pilot.app.screen
        first, second = screen.listed().features[:2]
        await settled(terminal.pilot, "s", "x", "escape")
        assert bench.marking.marks[0] == {first[1]: STAR, second[1]: Mark(reject=True)}

    run(place, act)


def offered(terminal) -> list[str]:
    lines = terminal.pilot.app.screen.query_one("#offered").lines
    return [line.strip("> ").rstrip() for line in lines]


def with_words(bench) -> list[str]:
    """Give the vocabulary words, a few in two spellings, and return those of feature 0:0."""
    count = len(bench.state.opened.texts)
    letters = [f"{chr(97 + at // 26 % 26)}{chr(97 + at % 26)}" for at in range(count)]
    bench.state.opened.read_vocabulary([f" {each}word" for each in letters])
    row = bench.table.rows.frame.row(0, named=True)
    texts = bench.state.opened.texts
    pairs = zip(row["key_query_ids"], row["value_query_ids"], strict=True)
    return list(dict.fromkeys(texts[token].strip() for pair in pairs for token in pair))


@pytest.mark.parametrize(("size", "is_read"), [(NARROW, True), (WIDE, False)])
def test_tags_and_labels_are_proposed_from_the_strongest_tokens_and_chosen_by_keys(
    place, size, is_read
):
    async def act(terminal, bench):
        words = with_words(bench)
        if not is_read:  # as a feature of another layer in a list of results
            bench.reader.forget(0)
            bench.state.forget_answers()
        await settled(terminal.pilot, "t")
        assert [line.split()[0] for line in offered(terminal)] == words[:5]
        assert "(fires on)" in offered(terminal)[0]
        await settled(terminal.pilot, "down", "down", "enter")
        assert bench.marking.marks[0][0].tags == (words[1],)
        await settled(terminal.pilot, "t")
        assert [line.split()[0] for line in offered(terminal)] == [
            *words[:1], *words[2:5], words[1]
        ]  # fmt: skip
        assert offered(terminal)[-1].endswith("(remove)")
        await settled(terminal.pilot, *words[1].upper())
        assert len(offered(terminal)) == 1
        await settled(terminal.pilot, "escape", "L", "tab", *"!", "enter")
        first = ", ".join(words[0:6:2])
        assert bench.marking.marks[0][0].label == f"{first}!"
        await settled(terminal.pilot, "L")
        assert f"{first}  (fires on)" in offered(terminal)
        await settled(terminal.pilot, "down", "enter")
        assert bench.marking.marks[0][0].label == first

    run(place, act, size=size)


def test_the_tag_used_last_is_offered_first(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "t", *"zeta", "enter", "j", "t", "down", "enter")
        await settled(terminal.pilot, "j", "t", "down", "enter")
        marks = bench.marking.marks[0]
        assert [marks[feature].tags for feature in range(3)] == [("zeta",)] * 3

    run(place, act)


def test_a_tag_in_use_is_proposed_as_it_is_spelled_and_a_range_gets_no_proposals(place):
    async def act(terminal, bench):
        words = with_words(bench)
        sha = bench.marking.name_of(0)
        bench.marking.triage.apply({sha: [5]}, add=[words[0].upper()])
        await settled(terminal.pilot, "t")
        assert offered(terminal)[0] == f"{words[0].upper()}  (fires on)"
        assert len(offered(terminal)) == 5
        await settled(terminal.pilot, "escape", "J", "t")
        assert offered(terminal) == [words[0].upper()]
        await settled(terminal.pilot, "escape", "L")
        assert not terminal.pilot.app.screen.query_one("#offered").display

    run(place, act)


def test_hostile_tokens_are_never_proposed(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "t")
        assert terminal.pilot.app.screen.query_one("#offered").display is False
        await settled(terminal.pilot, "escape", "G", "L")
        assert not terminal.leaks()

    run(place, act)


def test_a_tag_that_enter_does_not_take_is_not_marked(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "t", *"food", "enter", "j", "t", *"fo")
        offered = terminal.pilot.app.screen.query_one("#offered")
        assert ">" not in "".join(offered.lines)
        await settled(terminal.pilot, "down")
        assert "> food" in "".join(offered.lines)
        await settled(terminal.pilot, "enter")
        assert bench.marking.triage.tags() == ["food"]

    run(place, act)


def test_selecting_all_leaves_the_cursor_and_lasts_while_the_rows_stay(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "j", "j", "A")
        assert bench.table.row == 2
        assert len(bench.table.chosen) == 24
        bench.rows.refresh()
        await settled(terminal.pilot)
        assert "24 selected" in status(bench)
        bench.rows.sort_by("value_gain")
        await settled(terminal.pilot)
        assert len(bench.table.chosen) == 1
        await settled(terminal.pilot, "A", "escape")
        assert len(bench.table.chosen) == 1

    run(place, act)


def test_a_tag_that_cannot_be_one_is_said_while_it_is_typed(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "t", *"a,b", "enter")
        prompt = terminal.pilot.app.screen
        assert isinstance(prompt, Prompt)
        assert "cannot hold a comma" in prompt.query_one("#told").lines[0]
        await settled(terminal.pilot, "backspace", "backspace", "enter")
        assert bench.marking.marks[0][0].tags == ("a",)

    run(place, act)


def test_a_triage_file_that_cannot_be_read_is_told_once(place, monkeypatch):
    async def act(terminal, bench):
        def broken() -> bool:
            raise StoreError("the triage file is damaged: put the copy of yesterday back")

        monkeypatch.setattr(bench.marking.triage, "changed_elsewhere", broken)
        for _ in range(3):
            bench.marking.watch()
        await terminal.pilot.pause()
        assert told(bench.app).count("is damaged") == 1

    run(place, act)


def test_marks_whose_file_is_gone_are_told_with_the_way_back_and_never_replaced(place, tmp_path):
    file = tmp_path / "data" / NAME
    for _ in range(2):  # the second opening backs up
        with Triage(file) as triage:
            triage.apply({DictionaryName("a" * 64, "d", "m", 0): [1]}, star=True)
    file.unlink()

    async def act(terminal, bench):
        for _ in range(2):
            assert "triage.sqlite3 is missing, and there is a backup of it" in told(bench.app)
            assert "`qlens triage restore latest` restores the newest" in told(bench.app)
            bench.app.clear_notifications()
            await terminal.pilot.press("s", "x", "u")  # and by each key that would mark
            assert told(bench.app).count("is missing") == 1
            await settled(terminal.pilot, "m", "u")
            assert "is missing" in "".join(bench.app.screen.query_one(WrappedText).lines)
            await settled(terminal.pilot, "escape")
        assert bench.marking.marks == {}

    run(place, act)
    assert not file.exists()
    assert [each.features for each in backups_of(file)] == [1]


def test_marks_are_read_after_the_first_paint_and_until_then_keys_say_so(place, monkeypatch):
    sha = {}

    async def mark(terminal, bench):
        sha.update({layer: each.sha256 for layer, each in bench.state.opened.known.items()})
        await settled(terminal.pilot, "s", "f", *"star = true", "enter")

    run(place, mark)
    opening, let = threading.Event(), threading.Event()

    def held(path: Path | None = None) -> Triage:
        opening.set()
        assert let.wait(PATIENCE)
        return Triage(path)

    monkeypatch.setattr(reading_marks, "Triage", held)
    app = Desk(Path(place.config))

    async def whole() -> None:
        async with in_terminal(app, (160, 48)) as terminal:
            await until(opening.is_set, "the file is being opened")
            await until(lambda: "features" in "".join(app.bench.table.lines), "it is painted")
            assert app.bench.marking.is_opening
            await terminal.pilot.press("u")
            await until(lambda: "marks are still being read" in told(app), "the key says so")
            let.set()
            bench = await ready(terminal.pilot)
            await until(lambda: len(bench.table.rows) == 1, "the filter finds the mark")
            assert bench.marking.marks[0][0].star
            assert bench.table.feature == (0, 0)
            app.finish()
        app.end()

    simulate(whole())


def test_many_marks_are_read_again_off_the_ui_thread_and_no_later_edit_is_lost(place, monkeypatch):
    monkeypatch.setattr(marking, "_AT_ONCE", 1)
    reading, let = threading.Event(), threading.Event()
    marks_of = marking.marks_of

    def held(triage: Triage, known: Mapping[int, str]) -> dict[int, dict[int, Mark]]:
        found = marks_of(triage, known)
        reading.set()
        assert let.wait(PATIENCE)
        return found

    async def act(terminal, bench):
        await settled(terminal.pilot, "s", "j", "s", "j", "x")
        monkeypatch.setattr(marking, "marks_of", held)
        await terminal.pilot.press("u")
        await until(reading.is_set, "the marks are being read after an undo")
        await terminal.pilot.press("x")
        await until(lambda: bench.marking.marks[0].get(2) == Mark(reject=True), "it is shown")
        let.set()
        await settled(terminal.pilot)
        assert bench.marking.marks[0] == {0: STAR, 1: STAR, 2: Mark(reject=True)}
        await settled(terminal.pilot, "x")
        assert bench.marking.marks[0] == {0: STAR, 1: STAR}

    run(place, act)


def test_a_range_of_results_and_all_of_them_are_marked_as_one(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, "slash", *"o", "enter")
        screen = terminal.pilot.app.screen
        features = [feature for _, feature in screen.listed().features]
        await settled(terminal.pilot, "J", "J", "K", "s")
        assert bench.marking.marks[0] == dict.fromkeys(sorted(features[:2]), STAR)
        lines = screen.query_one("ChoiceList").lines
        assert lines[1].startswith("|")
        assert [line[0] for line in lines if "*" in line[:16]] == ["|", ">"]
        await settled(terminal.pilot, "escape", "u")
        assert bench.marking.marks[0] == {}
        assert terminal.pilot.app.screen is screen
        await settled(terminal.pilot, "A", "t", *"all", "enter")
        assert len(bench.marking.marks[0]) == len(features) == 24
        await settled(terminal.pilot, "u", "escape", "j", "x", "up", "up", "K", "s", "escape")
        marked = {features[2]: Mark(reject=True), features[0]: STAR}
        assert bench.marking.marks[0] == marked
        assert terminal.pilot.app.screen is bench

    run(place, act, size=NARROW)
