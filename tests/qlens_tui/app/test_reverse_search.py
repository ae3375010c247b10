"""Features by token: what the list shows, and that it reopens as it was."""

from __future__ import annotations

import re
import threading
from dataclasses import replace

import pytest
from textual.app import App
from textual.containers import Vertical

from lens_core.errors import OperatorError
from qlens_tui.app.screens import reverse_search
from qlens_tui.app.screens.prompt import Prompt
from qlens_tui.app.screens.reverse_search import ReverseSearch
from qlens_tui.app.screens.token_prompt import TokenPrompt
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.line_input import LineInput
from qlens_tui.app.widgets.title_line import TitleLine
from qlens_tui.app.widgets.wrapped_text import WrappedText
from qlens_tui.completion import Completion
from qlens_tui.engine import messages as m
from qlens_tui.text import token_label
from tests.qlens_tui.app.desk import NARROW, SIZES, engine_dies, run, settled, status
from tests.qlens_tui.app.desk import told as notified
from tests.qlens_tui.app.simulated_time import simulate
from tests.qlens_tui.app.terminal import in_terminal

pytestmark = pytest.mark.usefixtures("place")

TO_THE_HITS = ("slash", "e", "enter")


def lines(terminal) -> list[str]:
    """The list on the screen in front, its heading first."""
    return terminal.pilot.app.screen.query_one(ChoiceList).lines


def rows(terminal) -> dict[tuple[int, int], str]:
    """What stands after the scores, by layer and feature, of the lines on the screen."""
    found = (
        re.match(r"[> ] +(\d+):(\d+)[ *xmt]+ +[\d,]+ +\S+ +\S+(?:  (.*))?", line)
        for line in lines(terminal)
    )
    return {(int(row[1]), int(row[2])): row[3].strip() for row in found if row}


def searches(bench) -> list[m.Search]:
    return [each for each in bench.app.engine.requests if isinstance(each, m.Search)]


def told(terminal) -> str:
    return terminal.pilot.app.screen.query_one("#told", WrappedText).lines[0]


async def offered(terminal, typed: str) -> list[int]:
    """The last token of each query that the prompt offers for what was typed."""
    prompt = terminal.pilot.app.screen
    prompt.query_one(LineInput).value = typed
    await settled(terminal.pilot)
    return [each.query.ids[-1] for each in prompt._offers]


@pytest.mark.parametrize(("side", "heading"), [("value", "promotes"), ("key", "fires on")])
def test_the_tokens_beside_a_hit_are_of_the_side_that_is_searched(place, side, heading):
    async def act(terminal, bench):
        await settled(terminal.pilot, "B")  # the atlas of every layer
        await settled(terminal.pilot, *TO_THE_HITS, *(["tab"] if side == "key" else []), "a")
        assert lines(terminal)[0].rstrip().endswith(heading)
        shown = rows(terminal)
        assert {layer for layer, _ in shown} == {0, 1, 2}  # two of them were never visited
        for (layer, feature), tokens in shown.items():
            signature = bench.app.engine.session.lens.signature(layer, feature, length=5)
            expected = getattr(signature, side).top.query_lens.tokens
            assert tokens == " ".join(map(token_label, expected))

    run(place, act, size=(160, 24))


def test_hits_of_a_layer_without_an_atlas_say_that_there_is_none_yet(place):
    async def act(terminal, bench):
        bench.layer_requests.tabulate = lambda _layer: None
        for layer, known in bench.state.opened.known.items():
            if layer:
                bench.state.opened.known[layer] = replace(known, atlas=None)
        await settled(terminal.pilot, *TO_THE_HITS, "a")
        words = {layer: tokens for (layer, _), tokens in rows(terminal).items()}
        assert words[1] == words[2] == "(no atlas yet)"
        assert words[0] not in ("", "(no atlas yet)")

    run(place, act, size=NARROW)


def test_a_rank_is_the_tokens_place_in_the_list_of_the_feature(place):
    name = {"query": "query_lens", "logit": "logit_lens", "first-order": "first_order"}
    seen = set()

    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS)
        for keys in ((), ("c",), ("c",), ("c", "tab"), ("c",)):
            await settled(terminal.pilot, *keys)
            sought, hits = terminal.pilot.app.screen.sought, terminal.pilot.app.screen.hits
            seen.add((sought.side, sought.lens))
            assert hits
            for hit in hits[:4]:
                lens = bench.app.engine.session.lens
                side = lens.signature(hit.layer, hit.feature, length=1000).side(sought.side)
                assert getattr(side.top, name[sought.lens]).ids[hit.rank - 1] == sought.query.ids[0]
        assert seen == {*(("value", lens) for lens in name), ("key", "query"), ("key", "logit")}

    run(place, act)


@pytest.mark.parametrize("size", SIZES)
def test_without_operators_the_reason_is_told_in_full_above_the_keys(place, size, monkeypatch):
    problem = "no operators for this model and reference: run `qlens build` first"

    def none(*_: object) -> None:
        raise OperatorError(problem)

    async def act(terminal, bench):
        monkeypatch.setattr("lens_core.carry.Carrier.operators_for", none)
        await settled(terminal.pilot, *TO_THE_HITS)
        screen = terminal.pilot.app.screen
        told = " ".join(" ".join(lines(terminal)).split())
        assert told == f"{problem}, or search with --lens logit (here: c)"
        keys = screen.query_one(KeyLine)
        assert all(each in keys.lines[0] for each in ("tab value/key", "c lens", "esc back"))
        assert keys.region.bottom == screen.query_one(Vertical).content_region.bottom

    run(place, act, size=size)


@pytest.mark.parametrize("size", SIZES)
def test_every_lens_stands_under_its_name_and_no_score_stands_there_twice(place, size):
    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS)
        screen = terminal.pilot.app.screen
        by_query = {(hit.layer, hit.feature): hit for hit in screen.hits}
        assert lines(terminal)[0].split()[:4] == ["feature", "rank", "query", "logit"]
        await settled(terminal.pilot, "c")
        assert lines(terminal)[0].split()[:4] == ["feature", "rank", "logit", "query"]
        for hit in screen.hits:
            queried = by_query[hit.layer, hit.feature].score
            assert hit.query_score == pytest.approx(queried, rel=1e-4, abs=1e-6)
        await settled(terminal.pilot, "c")
        assert lines(terminal)[0].split()[:4] == ["feature", "rank", "first-order", "logit"]
        heading, first = lines(terminal)[:2]
        assert (
            heading.index("first-order") + len("first-order")
            == re.match(r". +\S+ +\S+ +\S+", first).end()
        )  # the numbers end where their names do

    run(place, act, size=size)


def test_without_operators_logit_lens_has_the_only_column_of_scores(place):
    async def act(terminal, bench):
        engine = bench.app.engine
        tell = engine._on_event

        def tell_less(event: m.Event) -> None:
            if isinstance(event, m.SearchReady):
                hits = tuple(replace(hit, query_score=None) for hit in event.found.hits)
                event = replace(event, found=replace(event.found, hits=hits))
            tell(event)

        engine._on_event = tell_less
        await settled(terminal.pilot, *TO_THE_HITS, "c")
        assert lines(terminal)[0].split() == ["feature", "rank", "logit", "promotes"]

    run(place, act)


def test_enter_alone_opens_the_last_results_again_with_the_cursor_where_it_was(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS, "tab", "a", "c", *"jjj", "enter")
        arrived, asked = bench.table.feature, len(searches(bench))
        await settled(terminal.pilot, "slash")
        assert isinstance(terminal.pilot.app.screen, Prompt)
        assert "enter: the last results, for e" in told(terminal)
        assert "features that fire on e" in lines(terminal)[0]
        await settled(terminal.pilot, "enter")
        again = terminal.pilot.app.screen
        assert isinstance(again, ReverseSearch)
        shown = lines(terminal)
        assert shown[0].split()[:4] == ["feature", "rank", "logit", "query"]
        assert shown[4].startswith(">")  # the hits before it are on the screen as well
        hit = again.hits[again.query_one(ChoiceList).cursor]
        assert (hit.layer, hit.feature) == arrived
        await settled(terminal.pilot, "j", "enter")
        assert bench.table.feature == (again.hits[4].layer, again.hits[4].feature)
        await settled(terminal.pilot, "slash", "enter", "G", "escape", "slash", "enter")
        last = terminal.pilot.app.screen.query_one(ChoiceList)
        assert last.lines[-1].startswith(">")
        assert len(searches(bench)) == asked

    run(place, act, size=NARROW)


def test_another_token_may_be_typed_where_the_last_results_are_offered(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS, "escape", "slash", "o")
        assert "enter alone" not in told(terminal)
        await settled(terminal.pilot, "enter")
        assert terminal.pilot.app.screen.sought.tokens == ("o",)
        assert terminal.pilot.app.screen.sought.cursor == 0

    run(place, act)


def test_the_last_results_outlive_a_crash_of_the_engine(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS, "j", "j", "enter")
        asked = len(searches(bench))
        await engine_dies(bench)
        await settled(terminal.pilot, "slash", "enter")
        again = terminal.pilot.app.screen
        assert isinstance(again, ReverseSearch)
        assert len(searches(bench)) == asked
        assert again.query_one(ChoiceList).cursor == 2

    run(place, act)


@pytest.mark.parametrize("gone", [{"tokens": ("another model's",)}, {"layer": 99}])
def test_the_last_results_are_not_offered_for_what_is_not_there_any_more(place, gone):
    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS, "escape")
        bench.searches.last = replace(bench.searches.last, **gone)
        await settled(terminal.pilot, "slash")
        assert not terminal.pilot.app.screen._offered
        assert "enter alone" not in told(terminal)
        await settled(terminal.pilot, "enter")
        assert "no such token" in told(terminal)

    run(place, act)


def test_tokens_that_arrive_late_leave_the_cursor_where_it_is(place, monkeypatch):
    may_read, read = threading.Event(), reverse_search.read_labels

    def late(*args):
        assert may_read.wait(120)
        return read(*args)

    async def act(terminal, bench):
        await settled(terminal.pilot, "B")
        monkeypatch.setattr(reverse_search, "read_labels", late)
        for layer in list(bench.state.opened.known):
            bench.reader.forget(layer)
        await terminal.pilot.press(*TO_THE_HITS, "a", "j", "j")
        assert set(rows(terminal).values()) == {""}
        may_read.set()
        await settled(terminal.pilot)
        assert "" not in rows(terminal).values()
        assert terminal.pilot.app.screen.query_one(ChoiceList).cursor == 2

    run(place, act)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_token_may_be_typed_as_the_screen_shows_it_or_by_its_id(place, ascii_only):
    async def act(terminal, bench):
        texts = bench.state.opened.texts
        await settled(terminal.pilot, "slash")
        assert "a leading space (or" in told(terminal)
        assert "#7 is id 7" in told(terminal)
        assert len(told(terminal).rstrip()) < 80
        for token in (" ", "\n", "\t", "a\nb", "\x1b[31mred"):
            typed = token_label(token, ascii_only=ascii_only)
            assert texts[(await offered(terminal, typed))[0]] == token
        assert (await offered(terminal, "#65"))[0] == 65
        for outside in ("#99999", "#99999999999999999999"):
            assert await offered(terminal, outside) == []
            assert f"'{outside}' is outside the vocabulary, which has 300 tokens" in told(terminal)
        assert await offered(terminal, "#9#") == []
        assert "no token begins with that" in told(terminal)
        await offered(terminal, "#65")
        await settled(terminal.pilot, "enter")
        assert terminal.pilot.app.screen.sought.tokens == (texts[65],)

    run(place, act, size=(80, 24), ascii_only=ascii_only)


def test_hits_come_in_the_order_of_ranks_or_with_o_of_scores(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS, "a")
        screen = terminal.pilot.app.screen
        title, keys = screen.query_one(TitleLine), screen.query_one(KeyLine)
        order = [(hit.rank, -hit.score) for hit in screen.hits]
        assert order == sorted(order)
        assert "query by rank" in title.lines[0]
        assert "o by score" in keys.lines[0]
        await settled(terminal.pilot, "o")
        scores = [hit.score for hit in screen.hits]
        assert scores == sorted(scores, reverse=True)
        assert "query by score" in title.lines[0]
        assert "o by rank" in keys.lines[0]
        assert lines(terminal)[0].split()[:4] == ["feature", "query", "logit", "rank"]

    run(place, act, size=NARROW)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_token_inside_words_is_told_from_the_word_with_its_space(ascii_only):
    texts = ["body", " body", "Body", " a", "\x1b", " \x1b"]
    chosen: list[object] = []
    app: App[None] = App()

    async def whole() -> None:
        async with in_terminal(app, (80, 24)) as terminal:
            prompt = TokenPrompt(Completion(texts), texts, None, ascii_only=ascii_only)
            app.push_screen(prompt, chosen.append)
            await settled(terminal.pilot)
            await settled(terminal.pilot, *"body")
            word = "_body" if ascii_only else "␣body"
            assert told(terminal).strip().endswith(f"as inside a word; down: {word}")
            await settled(terminal.pilot, *["backspace"] * 4, *" body")
            assert "down" not in told(terminal)
            prompt.query_one(LineInput).value = r"\x1b"
            await settled(terminal.pilot)
            assert told(terminal).strip().startswith("\\x1b has no space before it")
            assert not terminal.leaks()
            prompt.query_one(LineInput).value = "body"
            await settled(terminal.pilot, "down", "enter")
            assert prompt.sought(chosen[0], 0).query.ids == (1,)

    simulate(whole())


@pytest.mark.parametrize("ascii_only", [False, True])
def test_several_tokens_are_typed_in_one_line_and_each_has_its_rank(place, ascii_only):
    async def act(terminal, bench):
        texts = bench.state.opened.texts
        await settled(terminal.pilot, "slash")
        assert "a, b: both; a -b: not b" in told(terminal)
        assert (await offered(terminal, "e, #9"))[0] == 9
        assert await offered(terminal, "e, ") == []
        assert "type a token here" in told(terminal)
        assert texts.index("e") not in await offered(terminal, "e, e")
        assert await offered(terminal, 'e, "') == []
        assert "is not closed" in told(terminal)
        assert await offered(terminal, "#99999, e") == []
        assert "'#99999' is outside the vocabulary" in told(terminal)
        await offered(terminal, "e, o -t")
        await settled(terminal.pilot, "enter")
        screen = terminal.pilot.app.screen
        assert screen.sought.tokens == ("e", "o", "t")
        assert len(screen.sought.query.wanted) == 2
        assert lines(terminal)[0].split()[:5] == ["feature", "rank", "e", "o", "-t"]
        assert screen.hits
        for hit in screen.hits:
            assert hit.rank == max(hit.ranks[:2])
            assert hit.ranks[2] > max(hit.rank, bench.state.opened.k)

    run(place, act, size=(160, 48), ascii_only=ascii_only)


def test_a_completed_token_in_a_list_can_be_read_back(place):
    async def act(terminal, bench):
        texts = bench.state.opened.texts
        await settled(terminal.pilot, "slash")
        prompt = terminal.pilot.app.screen
        # Letters and what lies beyond ASCII differ in nothing here: every twelfth stands for them.
        plain = [each.isalnum() or not each.isascii() for each in texts]
        for token in range(len(texts)):
            if plain[token] and token % 12 and texts[token] != "e":
                continue
            found = await offered(terminal, f"e -#{token}")
            if texts[token] == "e":
                assert found == []
                continue
            await settled(terminal.pilot, "tab")
            typed = prompt.query_one(LineInput).value
            assert prompt._offers[0].query.ids == (texts.index("e"), token), typed

    run(place, act)


def test_marks_work_in_the_hits_as_in_the_table(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS, "j")
        screen = terminal.pilot.app.screen
        hit = screen.hits[1]
        feature, before = (hit.layer, hit.feature), bench.table.feature

        def signs() -> str:
            return re.match(r"> +\d+:\d+ (.{4})", lines(terminal)[2])[1]

        assert signs() == "    "
        await settled(terminal.pilot, "s", "x")
        assert signs() == "*x  "
        await settled(terminal.pilot, "t", *"kiln", "enter")
        await settled(terminal.pilot, "m", *"hot", "ctrl+s")
        assert signs() == "*xmt"
        mark = bench.marking.mark(feature)
        assert (mark.star, mark.reject, mark.tags, mark.note) == (True, True, ("kiln",), "hot")
        await settled(terminal.pilot, "u", "u")
        assert signs() == "*x  "
        await settled(terminal.pilot, "ctrl+r")
        assert signs() == "*x t"
        assert bench.marking.mark(before).star is False
        assert screen.query_one(ChoiceList).cursor == 1

    run(place, act, size=NARROW)


@pytest.mark.parametrize("size", SIZES)
def test_the_key_line_says_whether_escape_unselects_or_closes(place, size):
    async def act(terminal, bench):
        app = terminal.pilot.app

        def escape() -> str:
            return app.screen.query_one(KeyLine).lines[0].rstrip().rpartition("esc ")[2]

        await settled(terminal.pilot, *TO_THE_HITS)
        assert escape() == "back"
        for keys in (["J"], ["J", "J"], ["A"]):
            await settled(terminal.pilot, *keys)
            assert escape() == "deselect"
            await settled(terminal.pilot, "escape")
            assert isinstance(app.screen, ReverseSearch)
            assert escape() == "back"
        await settled(terminal.pilot, "J", "j")
        assert escape() == "back"
        await settled(terminal.pilot, "A", "tab")
        assert escape() == "back"
        await settled(terminal.pilot, "escape")
        assert app.screen is bench

    run(place, act, size=size)


@pytest.mark.parametrize("keys", [("T",), ("k", "enter")])
@pytest.mark.parametrize("everywhere", [False, True])
def test_the_hits_become_the_table_and_escape_shows_all_again(place, keys, everywhere):
    async def act(terminal, bench):
        await settled(terminal.pilot, "B")
        await settled(terminal.pilot, "j", "j", "f", *"feature < 9", "enter")
        before, all_rows = bench.table.feature, len(bench.table.rows)
        await settled(terminal.pilot, *TO_THE_HITS, *(["a"] if everywhere else []))
        hits = [(hit.layer, hit.feature) for hit in terminal.pilot.app.screen.hits]
        await settled(terminal.pilot, *keys)
        shown = bench.table.rows.features().rows()
        assert shown == hits
        assert bench.table.feature == hits[0]
        assert "promotes e" in status(bench)
        await settled(terminal.pilot, "j", "s", "f", *"star", "enter")
        assert bench.table.rows.features().rows() == [hits[1]]
        await settled(terminal.pilot, "escape")
        assert bench.table.rows.features().rows() == hits
        await settled(terminal.pilot, "escape")
        assert (bench.table.feature, len(bench.table.rows)) == (before, all_rows)
        assert bench.rows.filter == "feature < 9"
        assert "promotes e" not in status(bench)

    run(place, act, size=(160, 48))


def test_the_title_is_above_the_first_hit(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS, "k")
        screen = terminal.pilot.app.screen
        assert screen.query_one(TitleLine).has_focus
        assert screen.query_one(TitleLine).lines[0].startswith(">features that promote e")
        assert screen.chosen is None
        await settled(terminal.pilot, "s")
        assert not any(bench.marking.marks.values())
        assert not any(line.startswith(">") for line in lines(terminal))
        await settled(terminal.pilot, "j")
        assert screen.chosen == (screen.hits[0].layer, screen.hits[0].feature)
        assert lines(terminal)[1].startswith(">")

    run(place, act)


def test_a_hit_is_pinned_and_its_address_copied_from_the_list(place):
    async def act(terminal, bench):
        await settled(terminal.pilot, *TO_THE_HITS, "down", "P")
        screen = terminal.pilot.app.screen
        hit = screen.chosen
        assert isinstance(screen, ReverseSearch)
        assert hit != bench.table.feature
        assert bench.state.pinned == hit
        assert "compared with the feature in sight when this list is closed" in notified(bench.app)
        known = bench.state.opened.known[0]
        bench.state.opened.known[0] = replace(known, neuronpedia="gpt2-small/0-res-jb")
        await settled(terminal.pilot, "Y")
        address = f"https://www.neuronpedia.org/gpt2-small/0-res-jb/{hit[1]}\n"
        assert terminal.pilot.app.clipboard == address
        await settled(terminal.pilot, "up", "up", "P", "Y")  # the title
        assert bench.state.pinned == hit
        await settled(terminal.pilot, "down", "down", "P")
        assert bench.state.pinned is None
        await settled(terminal.pilot, "up", "P", "escape")
        assert bench.state.pinned == screen.listed().features[0]

    run(place, act, size=NARROW)
