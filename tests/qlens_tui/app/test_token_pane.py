"""A side's token lists: their rows, whose numbers they are, and the cost of drawing."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_core.signature import Lists
from qlens_tui.app.views import End, TokenLook
from qlens_tui.app.widgets.token_columns import ALL
from qlens_tui.app.widgets.token_pane import LENGTHS, TokenPane
from qlens_tui.engine.messages import Settings, SideSignature, Signature
from qlens_tui.text import cells
from tests.qlens_tui.app.features import SIZES, Stage, leaked, lists_view, one_side, signature
from tests.qlens_tui.app.simulated_time import simulate
from tests.qlens_tui.app.terminal import HOSTILE, Terminal, in_terminal

WORDS = st.text(
    st.characters(exclude_categories=[])
    | st.sampled_from(" \t\n\x00\x1b\x9b\u202e\u200d\ufe0f\u0301日👩한שب"),
    max_size=40,
)


def test_a_row_says_rank_token_score_and_how_far_query_lens_moved_it() -> None:
    head, body = drawn(TokenPane("value"), width=60, height=13)

    assert "what it promotes" not in head[0]
    assert head[0].strip() == "VALUE  6:35  length 4.250, carried 9.500, stability 0.86"
    assert " ".join(head[1].split()) == "▾ Logit Lens score │ Query Lens score moved"
    assert body[1].split() == ["2", "ondyl", "4.875", "│", "Dry", "14.88", "+622"]
    assert body[4].split() == ["5", "=␣dry", "4.500", "│", "⏎", "14.50", "+1555"]


def test_a_token_in_both_lists_is_marked_in_both_and_no_other_is() -> None:
    _, body = drawn(TokenPane("value"), width=80, height=13)

    marked = [row for row in body[:5] if "=" in row]
    assert ["=␣dry" in row for row in marked] == [True, True]


def test_key_scores_are_those_of_a_key_of_length_one() -> None:
    head, body = drawn(TokenPane("key"), width=80, height=13)

    assert head[1].split()[-3:] == ["Lens", "cosine", "moved"]
    assert "unit" in head[1]
    assert body[1].split() == ["2", "ondyl", "0.049", "│", "Dry", "0.149", "+622"]


def test_what_came_about_in_another_way_says_so() -> None:
    pane = TokenPane("value")
    give(pane, signature(off=(14, 15, 3)))

    said = text(pane.lay_out(120, 13)[0][1])

    assert said.strip() == "off: attn.7 mlp.7 (a: all on)"


def test_settings_other_than_the_usual_are_named() -> None:
    pane = TokenPane("value")
    usual = signature()
    unusual = replace(usual.settings, convention="exact", final_norm="linearize")
    give(pane, replace(usual, settings=unusual))

    assert "exact convention, final norm: linearize" in text(pane.lay_out(120, 13)[0][1])


@pytest.mark.parametrize("width", range(12, 120, 7))
def test_facts_that_do_not_fit_are_left_out_whole(width: int) -> None:
    head, _ = drawn(TokenPane("value"), width=width, height=13)

    numbers = {"6:35", "4.250", "9.500", "0.86", "46", "512", "16"}
    assert set(re.findall(r"[\d.:]*\d", head[0] + head[1])) <= numbers


def test_the_list_that_fits_when_only_one_does_is_query_lens() -> None:
    head, body = drawn(TokenPane("value"), width=26, height=13)

    assert head[1].split() == ["▾", "Query", "score", "moved"]
    assert body[1].split() == ["2", "Dry", "14.88", "+622"]


def test_first_order_joins_where_there_is_room() -> None:
    narrow, _ = drawn(TokenPane("value"), width=80, height=13)
    wide, _ = drawn(TokenPane("value"), width=120, height=13)

    assert "First order" not in narrow[1]
    assert re.search(r"Logit Lens .* First order .* Query Lens", wide[1])


@pytest.mark.parametrize(
    ("transition", "lists"),
    [("first-order", ["Logit", "First"]), ("identity", ["Logit", "First", "Identity"])],
)
def test_the_list_of_another_transition_bears_its_name_and_stands_once(transition, lists) -> None:
    pane = TokenPane("value")
    found = signature()
    give(pane, replace(found, settings=Settings(transition=transition)))
    heads = text(pane.lay_out(120, 13)[0][2])

    assert "Query" not in heads
    assert [word for word in heads.split() if word[0].isupper() and word != "Lens"] == lists


def test_bottom_lists_are_named_as_such_and_counted_from_below() -> None:
    head, body = drawn(
        TokenPane("key", lists_view(look=TokenLook(end="bottom"))), width=90, height=13
    )

    assert "KEY BOTTOM" in head[0]
    assert "what inhibits it" in head[0]
    assert body[1].split()[:3] == ["-2", "ondyl", "-0.501"]


def test_without_unicode_everything_is_ascii() -> None:
    pane = TokenPane("value", ascii_only=True)
    give(pane, signature(words=["日本", " dry", "\n", "a\u0301", "", "\x1b[2J", "_x"]))

    head, body = pane.lay_out(60, 13)

    assert all(text(row).isascii() for row in (*head, *body))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(WORDS, min_size=1, max_size=6),
    st.integers(1, 170),
    st.integers(1, 30),
    st.sampled_from(("top", "bottom")),
    st.booleans(),
    st.sampled_from((None, ALL, ("first-order", "query"))),
    st.booleans(),
)
def test_every_line_takes_exactly_the_width_of_the_pane(
    words: list[str],
    width: int,
    height: int,
    end: End,
    ids: bool,
    lenses: tuple[str, ...] | None,
    ascii_only: bool,
) -> None:
    look = TokenLook(end=end, ids=ids, lenses=lenses)  # type: ignore[arg-type]
    pane = TokenPane("key", lists_view(look=look), ascii_only=ascii_only)
    give(pane, signature(words=words))

    head, body = pane.lay_out(width, height)

    assert {cells(text(row)) for row in (*head, *body)} == {width}


def test_scores_of_any_size_are_whole_and_keep_the_width() -> None:
    side = one_side(k=3)
    odd = (float("nan"), -123456789.0, 1e-9)
    query = replace(side.top.query_lens, scores=odd, moved=(262143, -262143, 0))
    pane = TokenPane("value")
    give(pane, with_value(replace(side, top=Lists({**side.top, "query": query}))))

    _, body = pane.lay_out(60, 10)

    assert [text(row).split()[-2:] for row in body] == [
        ["n/a", "+262143"],
        ["-1.2e+08", "-262143"],
        ["1.0e-09", "0"],
    ]
    assert {cells(text(row)) for row in body} == {60}


def test_lists_without_tokens_say_so() -> None:
    pane = TokenPane("value")
    give(pane, with_value(one_side(k=0)))

    assert text(pane.lay_out(60, 10)[1][0]).strip() == "no top tokens"


Step = Callable[[Stage, TokenPane, Terminal], Awaitable[None]]


async def other_end(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
    assert "BOTTOM" in stage.painted[0]
    await terminal.pilot.press("b")
    assert "BOTTOM" not in stage.painted[0]


async def ids(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
    assert re.search(r"ondyl +1 +4\.875", stage.painted[3])


async def lenses(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
    seen = [titles(stage)]
    while seen.count(seen[-1]) < 2:
        await terminal.pilot.press("c")
        seen.append(titles(stage))
    assert set(seen) == {
        ("Logit", "Query"),
        ("First", "Query"),
        ("Logit", "First"),
        ("Logit", "First", "Query"),
    }


async def longer(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
    assert pane.look.length == 50


async def shorter(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
    assert pane.look.length == 10
    assert stage.painted[11].startswith(" 10 ")
    assert not stage.painted[12].strip()
    await terminal.pilot.press(*["minus"] * 3)
    assert pane.look.length == LENGTHS[0]


KEYS = {
    "b": other_end,
    "i": ids,
    "c": lenses,
    "plus": longer,
    "equals_sign": longer,
    "minus": shorter,
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", KEYS)
def test_each_key_changes_how_lists_are_shown_and_says_so(key: str, size: tuple[int, int]) -> None:
    async def walk(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
        before = pane.look
        await terminal.pilot.press(key)
        heard = stage.heard[-1]
        assert isinstance(heard, TokenPane.LookChanged)
        assert heard.control is pane
        assert before != heard.look == pane.look
        await KEYS[key](stage, pane, terminal)

    on_stage(walk, size)


def test_no_key_is_without_a_test() -> None:
    assert bound_to(TokenPane) == {*KEYS}


@pytest.mark.parametrize(
    ("key", "first"),
    [("down", 2), ("pagedown", 8), ("end", 18), ("up", 9), ("pageup", 3), ("home", 1)],
)
def test_rows_beyond_the_height_scroll_under_the_head(key: str, first: int) -> None:
    async def walk(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
        head = stage.painted[:1]
        if key in ("up", "pageup", "home"):
            await terminal.pilot.press("end", "pageup", "pageup" if key == "up" else "f12")
            await terminal.pilot.press(*["down"] * (6 if key == "up" else 0))
        await terminal.pilot.press(key)
        assert stage.painted[:1] == head
        ranks = [int(row.split()[0]) for row in stage.painted[2:10]]
        assert ranks == list(range(ranks[0], ranks[0] + 8))
        if key in ("down", "pagedown", "end", "home"):
            assert ranks[0] == first
        assert ("▴" in stage.painted[1], "▾" in stage.painted[1]) == (ranks[0] > 1, ranks[-1] < 25)

    on_stage(walk, (80, 10))


def test_numbers_of_another_feature_keep_their_own_name_and_say_grey_what_is_awaited() -> None:
    async def walk(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
        waiting = lists_view(signature(), asked=(6, 36), awaits="computing")
        pane.draw(waiting)
        await terminal.pilot.pause()
        assert "6:35" in stage.painted[0]
        assert "6:36" not in stage.painted[0]
        assert not grey(pane)
        pane.draw(replace(waiting, shown=replace(waiting.shown, late=True)))
        await terminal.pilot.pause()
        assert "6:35  ▸ 6:36 computing…" in stage.painted[0]
        assert "ondyl" in stage.painted[3]
        assert grey(pane)
        pane.draw(lists_view(signature(6, 36)))
        await terminal.pilot.pause()
        assert not grey(pane)
        assert "6:36" in stage.painted[0]
        assert "▸" not in stage.painted[0]

    on_stage(walk)


def test_lists_that_are_still_to_come_are_not_called_empty() -> None:
    async def walk(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
        pane.draw(lists_view(with_value(one_side(k=0)), awaits="computing"))
        await terminal.pilot.pause()
        assert stage.painted[1].strip() == "computing…"

    on_stage(walk)


def test_what_is_the_same_is_not_painted_again() -> None:
    async def walk(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
        pane.draw(lists_view(signature(), asked=(6, 36), awaits="computing"))
        await terminal.pilot.pause()
        start = len(terminal.record)
        give(pane, signature(6, 36))
        await terminal.pilot.pause()
        sent = "".join(terminal.record[start:])
        assert sent.count("6:36") == 1
        # The rows are the same; only the head is sent.
        assert "ondyl" not in sent

    on_stage(walk)


def test_waiting_failing_and_nothing_each_have_a_line() -> None:
    async def walk(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
        pane.draw(lists_view())
        await terminal.pilot.pause()
        assert stage.painted[1].strip() == "no feature"
        pane.draw(lists_view(asked=(6, 36), awaits="one pass over the reference 40%"))
        await terminal.pilot.pause()
        assert "6:36" in stage.painted[0]
        assert stage.painted[1].strip() == "one pass over the reference 40%…"
        problem = "out of memory\x1b[2J: set [compute] batch = 4"
        pane.draw(lists_view(asked=(6, 36), problem=problem))
        await terminal.pilot.pause()
        assert stage.painted[1].strip() == r"! out of memory\x1b[2J: set [compute] batch = 4"
        assert not any(map(str.strip, stage.painted[2:]))
        give(pane, signature(6, 36))
        await terminal.pilot.pause()
        assert "ondyl" in stage.painted[3]

    on_stage(walk)


@pytest.mark.parametrize("size", SIZES)
def test_no_vocabulary_reaches_the_terminal_raw(size: tuple[int, int]) -> None:
    async def walk(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
        give(pane, signature(words=list(HOSTILE.values()), k=len(HOSTILE)))
        await terminal.pilot.press("i", "b", "c", "end", "home")
        await terminal.pilot.pause()
        assert "clipboard" in HOSTILE
        assert r"\x1b]52" in terminal.written
        assert not leaked(terminal)

    on_stage(walk, size)


def test_the_focused_pane_is_told_apart_without_colour() -> None:
    async def walk(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
        def reversed_title() -> bool:
            return bool(next(iter(pane.render_line(0))).style.reverse)

        assert reversed_title()
        stage.set_focus(None)
        await terminal.pilot.pause()
        assert not reversed_title()

    on_stage(walk)


def test_a_new_feature_whose_tokens_are_all_marked_costs_little_more_than_its_text() -> None:
    async def walk(stage: Stage, pane: TokenPane, terminal: Terminal) -> None:
        start = len(terminal.record)
        give(pane, signature(7, 1, words=[f" word{i}" for i in range(25)]))
        await terminal.pilot.pause()
        # 780 cells, in 24-bit colour, where a change of style takes 40 bytes.
        assert 780 < len("".join(terminal.record[start:]).encode()) < 3200

    on_stage(walk, (60, 13))


def drawn(pane: TokenPane, width: int, height: int) -> tuple[list[str], list[str]]:
    give(pane, signature())
    head, body = pane.lay_out(width, height)
    return [text(row) for row in head], [text(row) for row in body]


def give(pane: TokenPane, of: Signature) -> None:
    """Show the lists that are asked for."""
    pane.draw(lists_view(of, look=pane.look))


def grey(pane: TokenPane) -> bool:
    """Whether a token is."""
    token = next(each for each in pane.render_line(3) if "ondyl" in each.text)
    return bool(token.style and token.style.dim)


def text(line: tuple[tuple[str, str], ...]) -> str:
    return "".join(said for said, _ in line)


def with_value(side: SideSignature) -> Signature:
    return replace(signature(), value=side)


def titles(stage: Stage) -> tuple[str, ...]:
    return tuple(re.findall("Logit|Query|First", stage.painted[1]))


def bound_to(pane: type[TokenPane]) -> set[str]:
    return {key for binding in pane.BINDINGS for key in binding.key.split(",")}


def on_stage(walk: Step, size: tuple[int, int] = (80, 24), *, colours: str = "truecolor") -> None:
    async def play() -> None:
        pane = TokenPane("value")
        stage = Stage(pane)
        async with in_terminal(stage, size) as terminal:
            pane.focus()
            give(pane, signature())
            await terminal.pilot.pause()
            await walk(stage, pane, terminal)

    simulate(play())
