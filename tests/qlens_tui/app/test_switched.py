"""What panes say where blocks are off: which, what that changed, and how to bring them back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlens_tui.app.screens.pane_layout import NAMES as PANES
from qlens_tui.app.views import AgainstAllOn, TokenLook
from qlens_tui.app.widgets.token_columns import PAIR
from qlens_tui.app.widgets.token_pane import TokenPane
from qlens_tui.engine import messages as m
from qlens_tui.engine.messages import Settings, Side
from qlens_tui.text import cells
from tests.qlens_tui.app.desk import SIZES, run, settled
from tests.qlens_tui.app.features import (
    QUERY,
    Stage,
    comparison,
    leaked,
    lists_view,
    one_side,
    signature,
)
from tests.qlens_tui.app.simulated_time import simulate
from tests.qlens_tui.app.terminal import HOSTILE, Terminal, in_terminal
from tests.qlens_tui.app.test_token_pane import WORDS, text


def pane(
    against: AgainstAllOn | None,
    *,
    off: frozenset[int] = frozenset({20}),
    look: TokenLook | None = None,
    ascii_only: bool = False,
    words: list[str] | None = None,
) -> TokenPane:
    of = signature(words=words)
    of = replace(of, settings=Settings(off=off), value=one_side(words, operators="none"))
    view = lists_view(of, look=look, against=against)
    return TokenPane("value", view, ascii_only=ascii_only)


def change(words: tuple[str, ...] = QUERY) -> AgainstAllOn:
    return AgainstAllOn(comparison(words=words).value)


def drawn(of: TokenPane, width: int = 100, height: int = 16) -> tuple[list[str], ...]:
    head, body = of.lay_out(width, height)
    return tuple([text(row) for row in part] for part in (head, body, of.foot(width, height)))


def test_the_lists_say_what_the_switches_changed() -> None:
    head, body, foot = drawn(pane(change(), look=TokenLook(lenses=PAIR)))

    assert head[1].strip() == "off: attn.10 (a: all on)"
    assert head[2].strip() == (
        "against all on: score -25.0%, 1 came in (+), 5 left, all on by operators, "
        "D: against Logit Lens"
    )
    assert head[3].split()[-2:] == ["vs", "on"]
    assert [row.split()[-1] for row in body[:3]] == ["+1", "+2", "+3"]
    assert [row.split("│")[-1][0] for row in body[:3]] == ["=", "+", " "]
    assert foot == [fitted(" left: ␣dry  Dry  ␣wildflowers  ␣dried  ⏎", 100)]


def fitted(line: str, width: int) -> str:
    return line + " " * (width - cells(line))


def test_each_list_that_is_compared_names_those_that_left_it() -> None:
    _, _, foot = drawn(pane(change()), width=120)

    assert [line.split(":")[0] for line in foot] == [" left Query", " left First"]


def test_against_logit_lens_the_lists_are_as_without_switches() -> None:
    head, body, foot = drawn(pane(None, look=TokenLook(against_all_on=False)))

    assert "off: attn.10 (a: all on)" in head[1]
    assert head[2].strip() == "moved: against Logit Lens (D: against all on)"
    assert head[3].split()[-1] == "moved"
    assert [row.split()[-1] for row in body[:2]] == ["+311", "+622"]
    assert foot == []


@pytest.mark.parametrize(
    ("against", "says"),
    [
        (AgainstAllOn(awaits="after all 2,048 tokens"), "▸ after all 2,048 tokens…"),
        (AgainstAllOn(awaits="comparing"), "against all on: ▸ comparing…"),
        (AgainstAllOn(problem="out of \x1b[2J"), r"! not compared with all on: out of \x1b[2J"),
    ],
)
def test_what_is_not_compared_yet_has_no_numbers_and_says_what_is_awaited(
    against: AgainstAllOn, says: str
) -> None:
    head, body, foot = drawn(pane(against))

    assert says in head[2]
    assert ("vs on" in head[3]) == (not against.problem)
    assert re.search(r"[+]\d", body[0]) is None or against.problem
    assert foot == []


def test_many_blocks_are_counted() -> None:
    head, _, _ = drawn(pane(change(), off=frozenset(range(14, 24))))

    assert " 10 of 46 off (a: all on)" in head[1]
    assert "attn." not in head[1]


def test_a_side_whose_blocks_are_all_on_says_nothing_of_switches() -> None:
    head, _, foot = drawn(pane(None, off=frozenset({3})))

    assert not re.search(r"all on\b|against|off", " ".join(head))
    assert foot == []


def test_identity_carries_nothing_to_compare() -> None:
    shown = pane(None)
    answer = shown.view.shown.answer
    assert answer is not None
    still = replace(answer, settings=replace(answer.settings, transition="identity"))
    shown.draw(lists_view(still))
    head, _, _ = drawn(shown)

    assert "off: attn.10 (a: all on)" in head[1]
    assert len(head) == 3


def test_a_score_without_parts_and_a_list_that_stayed_say_so() -> None:
    of = comparison().value
    assert of is not None
    same = replace(of.top["query"], came_in=(), left=(), all_on_score=0.0)
    head, _, foot = drawn(pane(AgainstAllOn(replace(of, top={"query": same}))))

    assert "score n/a, the same 5 tokens" in head[2]
    assert foot == []


def test_bottom_lists_have_their_own_tokens_and_no_score() -> None:
    head, _, foot = drawn(pane(change(), look=TokenLook(end="bottom")))

    assert "against all on: 1 came in (+), 5 left" in head[2]
    assert foot


@settings(max_examples=100, deadline=None)
@given(
    st.lists(WORDS, min_size=1, max_size=40),
    st.integers(1, 170),
    st.integers(1, 40),
    st.sampled_from((None, ("first-order", "query"))),
    st.booleans(),
)
def test_every_line_takes_the_width_of_the_pane(
    words: list[str], width: int, height: int, lenses: tuple[str, ...] | None, ascii_only: bool
) -> None:
    look = TokenLook(lenses=lenses)
    against = change((*words, *words, "end"))
    of = pane(against, look=look, ascii_only=ascii_only, words=words)
    head, body, foot = drawn(of, width, height)

    assert {cells(row) for row in (*head, *body, *foot)} == {width}
    assert len(foot) <= max(1, height // 8) + 1
    if ascii_only:
        assert all(row.isascii() for row in (*head, *body, *foot))


@pytest.mark.parametrize("width", [20, 44, 80])
def test_tokens_that_left_and_do_not_fit_are_counted(width: int) -> None:
    words = tuple(f"word{i}" for i in range(25))
    (line,) = drawn(pane(change(words)), width, 10)[2]

    named, more = len(re.findall(r"word\d", line)), re.search(r"\+(\d+) more", line)
    assert more
    assert named + int(more[1]) == 25


@pytest.mark.parametrize("size", SIZES)
def test_tokens_that_left_are_in_sight_below_the_list_and_never_raw(size: tuple[int, int]) -> None:
    async def act() -> None:
        shown = pane(change((*HOSTILE.values(),)))
        stage = Stage(shown)
        async with in_terminal(stage, size) as terminal:
            shown.focus()
            await terminal.pilot.pause()
            rows = [row for row in stage.painted if re.match(r" +\d+ ", row)]
            left = re.compile(r"^ left( \w+)?: ")
            assert any(map(left.match, stage.painted[len(rows) :]))
            await terminal.pilot.press("end")
            assert stage.painted[-1].strip() or len(rows) == 25
            assert any(map(left.match, stage.painted))
            assert not leaked(terminal)

    simulate(act())


def asked(bench, kind: type[m.Request]) -> list[m.Request]:
    return [each for each in bench.app.engine.requests if isinstance(each, kind)]


async def switch_off(terminal: Terminal, bench, side: Side) -> int:
    """Switch a block on this side's path off, in the paths; which one."""
    bench.focus_pane("paths")
    block = (bench.state.opened.blocks(*bench.table.feature[:1], side))[0]
    while bench.paths.cursor != block:
        await settled(terminal.pilot, "home" if bench.paths.cursor % 2 == block % 2 else "up")
        if bench.paths.cursor % 2 == block % 2 and bench.paths.cursor < block:
            await settled(terminal.pilot, *["right"] * ((block - bench.paths.cursor) // 2))
    await settled(terminal.pilot, "space")
    return int(block)


def head(bench, side: Side) -> str:
    return "\n".join(bench.pane(side).lines[:4])


@pytest.mark.usefixtures("place")
def test_a_brings_all_blocks_back_from_anywhere(place):
    async def act(terminal, bench):
        for pane_name in PANES:
            await switch_off(terminal, bench, "value")
            assert "a: all on" in bench.paths.lines[0]
            assert "a: all on" in head(bench, "value")
            before = len(asked(bench, m.ComputeSignature))
            bench.focus_pane(pane_name)
            await settled(terminal.pilot, "a")
            assert not bench.state.settings.off
            assert "a: all on" not in bench.paths.lines[0]
            assert "against" not in head(bench, "value")
            assert len(asked(bench, m.ComputeSignature)) == before  # it is still known

    run(place, act)


@pytest.mark.usefixtures("place")
def test_a_switch_is_compared_with_all_on_by_itself_and_with_logit_lens_by_key(place):
    async def act(terminal, bench):
        on = bench.pane("value").view.shown.answer
        off = await switch_off(terminal, bench, "value")
        (question,) = asked(bench, m.ComputeComparison)
        assert question.settings.off == {off}
        view = bench.pane("value").view
        assert view.against.change.off == (off,)
        k = bench.app.engine.session.lens.k
        before = on.value.query_lens.ids
        gone = [each.id for each in view.against.change.top["query"].left]
        after = view.shown.answer.value.query_lens.ids
        assert gone == [i for i in before[:k] if i not in after[:k]]
        assert "against all on: score " in head(bench, "value")
        assert "vs on" in head(bench, "value")
        assert "against" not in head(bench, "key")
        assert "vs on" not in head(bench, "key")
        await settled(terminal.pilot, "D")
        assert "moved: against Logit Lens (D: against all on)" in head(bench, "value")
        await settled(terminal.pilot, "D")
        assert "against all on: score " in head(bench, "value")
        assert len(asked(bench, m.ComputeComparison)) == 1

    run(place, act)


@pytest.mark.usefixtures("place")
def test_the_comparison_is_remembered_and_asks_nothing_where_it_is_not_shown(place):
    async def leave(terminal, bench):
        await switch_off(terminal, bench, "value")
        await settled(terminal.pilot, "D", "j")

    async def come_back(terminal, bench):
        assert not bench.state.look.against_all_on
        assert bench.state.settings.off
        assert not asked(bench, m.ComputeComparison)

    run(place, leave)
    run(place, come_back)
