"""The evidence pane: what is shown, chosen and opened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlens_tui.app.views import EvidenceView
from qlens_tui.app.widgets.evidence_pane import EvidencePane
from qlens_tui.table import feature_labels
from qlens_tui.text import cells
from tests.qlens_tui.app.features import SIZES, Stage, evidence, leaked, one_side, signature
from tests.qlens_tui.app.simulated_time import simulate
from tests.qlens_tui.app.terminal import HOSTILE, Terminal, in_terminal

Step = Callable[[Stage, EvidencePane, Terminal], Awaitable[None]]


def test_contexts_stand_under_one_another_by_the_token_that_fires() -> None:
    title, bars, *rows = drawn(evidence(), width=80)

    title = title.strip()
    assert title == "EVIDENCE  6:35  on 128 of 512 in the reference, density 25.0%, at most 8.000"
    assert bars.strip() == "0 █▇▆▅▄▃▂▂ 8.000  512 reference tokens"
    assert {row.index("[") for row in rows[:16]} == {rows[0].index("[")}
    assert rows[0].split()[:2] == ["top", "8.000"]
    assert rows[1].split()[0] == "7.500"
    assert "dryDry[Dry] wildflowers" in rows[1]
    assert "[⏎]" in rows[4]


@pytest.mark.parametrize(("height", "strongest"), [(8, 3), (11, 5), (18, 12), (60, 12)])
def test_the_first_lines_are_of_the_strongest_and_of_every_quarter(
    height: int, strongest: int
) -> None:
    rows = [line[:10].split() for line in drawn(evidence(), width=80, height=height)[2:]]

    assert rows[0] == ["top", "8.000"]
    assert rows[strongest] == ["4/4", "7.500"]
    assert [row[0] for row in rows[strongest : strongest + 4]] == ["4/4", "3/4", "2/4", "1/4"]
    rest = [row for row in rows[strongest + 4 : 16] if row]
    assert len(rest) == 12 - strongest
    assert not rest or rest[0][0] == "top"


def test_a_corpus_is_named() -> None:
    before = evidence().shown.answer
    assert before is not None
    text = replace(before.text, is_reference=False, origin="text:/home/me/novels.txt")
    shown = replace(evidence().shown, answer=replace(before, text=text))

    assert "512 tokens of novels.txt" in drawn(replace(evidence(), shown=shown), width=80)[1]


@pytest.mark.parametrize("width", [12, 20, 40, 80, 160])
def test_the_token_that_fires_is_shown_at_any_width(width: int) -> None:
    rows = drawn(evidence(), width=width)[2:18]

    assert all("[" in row and "]" in row for row in rows) == (width >= 20)


def test_facts_of_the_feature_follow() -> None:
    lines = [" ".join(line.split()) for line in drawn(evidence(), width=80)]

    assert "nearest by value" in lines
    assert "6:201 +0.70" in lines
    assert "6:100 +0.90 ␣dry Dry ␣wildflowers" in lines
    assert "length value 4.250 → 9.500 key 4.250 → 9.500" in lines
    assert "stability value 0.86 key 0.86" in lines


def test_stability_that_these_lists_lack_is_that_of_the_table_and_says_so() -> None:
    of = replace(signature(), value=replace(one_side(), stability=None))
    of = replace(of, key=of.value)
    shown = replace(evidence(), signature=of)

    assert "stability not known" in " ".join(" ".join(drawn(shown, width=80)).split())
    shown = replace(shown, atlas_stability="value 0.52   (of lists of 25)")
    assert "value 0.52   (of lists of 25)" in "".join(drawn(shown, width=80))


def test_the_tables_stability_is_that_of_the_features_row_and_names_its_length() -> None:
    frame = pl.DataFrame(
        {
            "value_stability": [0.25, 0.5, None],
            "key_stability": [0.75, None, None],
            "value_query_ids": [[1, 2], [3, 4], [5, 6]],
        }
    )

    found = [feature_labels.stability(4, feature, {4: frame}) for feature in range(4)]

    assert found == [
        "value 0.25   key 0.75   (of lists of 2)", "value 0.50   (of lists of 2)", "", "",
    ]  # fmt: skip
    assert feature_labels.stability(5, 0, {4: frame}) == ""
    assert feature_labels.stability(4, 0, {4: frame.select("value_query_ids")}) == ""


def test_another_features_lengths_are_not_shown() -> None:
    other = replace(evidence(), signature=signature(6, 36))

    assert not any("length" in line for line in drawn(other, width=80))


def test_a_feature_that_never_fired_is_silent_in_so_many_tokens_and_not_dead() -> None:
    lines = drawn(evidence(silent=True), width=80)

    assert lines[0].strip() == "EVIDENCE  6:35  silent in 512 reference tokens"
    assert not any("dead" in line or "top" in line for line in lines)


def test_neighbours_stand_beside_contexts_where_there_is_room() -> None:
    narrow, wide = drawn(evidence(), width=80), drawn(evidence(), width=140)

    assert "nearest by value" not in narrow[1]
    assert "reference tokens" in wide[1]
    assert "nearest by value" in wide[1]


def test_without_unicode_everything_is_ascii() -> None:
    words = ("日本", " dry", "\n", "a\u0301")

    assert all(line.isascii() for line in drawn(evidence(words=words), 90, ascii_only=True))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=[]), max_size=30), min_size=3, max_size=5),
    st.integers(1, 170),
    st.booleans(),
)
def test_every_line_takes_exactly_the_width_of_the_pane(
    words: list[str], width: int, ascii_only: bool
) -> None:
    lines = drawn(evidence(words=words), width, ascii_only=ascii_only)

    assert {cells(line) for line in lines} == {width}


@pytest.mark.parametrize("size", SIZES)
def test_arrows_choose_and_enter_opens_a_context_or_a_neighbour(size: tuple[int, int]) -> None:
    async def walk(stage: Stage, pane: EvidencePane, terminal: Terminal) -> None:
        await terminal.pilot.press("enter")
        assert not stage.heard
        await terminal.pilot.press("down", "down", "down", "up")
        answer = pane.view.shown.answer
        assert answer is not None
        assert pane.chosen == answer.contexts[1]
        assert any(line.startswith(">") and "7.500" in line for line in stage.painted)
        await terminal.pilot.press("enter")
        (heard,) = stage.heard
        assert isinstance(heard, EvidencePane.ContextChosen)
        assert (heard.control, heard.of, heard.context) == (pane, answer, answer.contexts[1])
        by_key = answer.by_key
        for _ in range(40):
            if pane.chosen == by_key[1]:
                break
            await terminal.pilot.press("down")
        await terminal.pilot.press("up")
        assert pane.chosen == by_key[0]
        assert any(">6:100" in line for line in stage.painted)
        await terminal.pilot.press("enter")
        heard = stage.heard[-1]
        assert isinstance(heard, EvidencePane.FeatureChosen)
        assert (heard.control, heard.layer, heard.feature) == (pane, 6, 100)

    on_stage(walk, size)


@pytest.mark.parametrize("size", SIZES)
def test_the_last_fact_can_be_reached_and_the_first_context_again(size: tuple[int, int]) -> None:
    async def walk(stage: Stage, pane: EvidencePane, terminal: Terminal) -> None:
        ways = (("end", "home", 1), ("pagedown", "pageup", 10), ("down", "up", 40))
        for last, first, times in ways:
            await terminal.pilot.press(*[last] * times)
            assert any("stability" in line for line in stage.painted)
            await terminal.pilot.press(*[first] * times)
            assert "reference tokens" in stage.painted[1]
            assert "EVIDENCE" in stage.painted[0]

    on_stage(walk, size)


def test_what_has_scrolled_away_cannot_be_opened() -> None:
    async def walk(stage: Stage, pane: EvidencePane, terminal: Terminal) -> None:
        await terminal.pilot.press(*["down"] * 16)
        assert pane.chosen is not None
        await terminal.pilot.press("home")
        assert pane.chosen is None
        await terminal.pilot.press("enter")
        assert not stage.heard

    on_stage(walk, (80, 10))


def test_a_stale_neighbour_is_not_opened_and_a_new_feature_has_none_chosen() -> None:
    async def walk(stage: Stage, pane: EvidencePane, terminal: Terminal) -> None:
        await terminal.pilot.press("down")
        assert pane.chosen is not None
        before = evidence()
        waits = "reading the reference, 3 of 16"
        late = replace(before.shown, asked=(6, 36), late=True, awaits=waits)
        pane.draw(replace(before, shown=late))
        await terminal.pilot.pause()
        assert "6:35  ▸ 6:36 reading the reference, 3 of 16…" in stage.painted[0]
        await terminal.pilot.press("enter")
        assert not stage.heard
        pane.draw(evidence(6, 36))
        await terminal.pilot.pause()
        assert pane.chosen is None
        assert "6:36  on 128 of 512 in the reference" in stage.painted[0]

    on_stage(walk, (80, 40))


@pytest.mark.parametrize("size", SIZES)
def test_no_text_reaches_the_terminal_raw(size: tuple[int, int]) -> None:
    async def walk(stage: Stage, pane: EvidencePane, terminal: Terminal) -> None:
        words = list(HOSTILE.values())
        for start in range(0, len(words) - 3, 3):
            pane.draw(evidence(words=words[start : start + 4]))
            await terminal.pilot.press("end", "home")
        assert r"\x1b[31m" in terminal.written
        assert not leaked(terminal)

    on_stage(walk, size)


def test_the_token_stands_out_and_tokens_that_fire_are_shaded() -> None:
    async def walk(stage: Stage, pane: EvidencePane, terminal: Terminal) -> None:
        segments = list(pane.render_line(2))
        bracket = next(s for s in segments if s.text == "[")
        assert bracket.style is not None
        assert bracket.style.underline
        backgrounds = {s.text.strip(): s.style.bgcolor for s in segments if s.style is not None}
        plain, some, all_of_it = (backgrounds[word] for word in ("dry", "Dry", "␣dry"))
        assert len({plain, some, all_of_it}) == 3

    on_stage(walk)


@pytest.mark.parametrize(("ascii_only", "some"), [(False, "Dry²["), (True, "Dry^2[")])
def test_without_colour_numbers_say_how_strongly_tokens_fire(
    monkeypatch: pytest.MonkeyPatch, ascii_only: bool, some: str
) -> None:
    assert "Dry[" in drawn(evidence(), width=80)[2]
    if not ascii_only:
        monkeypatch.setenv("NO_COLOR", "1")
    assert some in drawn(evidence(), width=80, ascii_only=ascii_only)[2]


def drawn(
    known: EvidenceView, width: int, *, height: int = 60, ascii_only: bool = False
) -> list[str]:
    pane = EvidencePane(ascii_only=ascii_only)
    pane.draw(known)
    head, body = pane.lay_out(width, height)
    return ["".join(said for said, _ in line) for line in (*head, *body)]


def on_stage(walk: Step, size: tuple[int, int] = (80, 24)) -> None:
    async def play() -> None:
        pane = EvidencePane()
        stage = Stage(pane)
        async with in_terminal(stage, size) as terminal:
            pane.focus()
            pane.draw(evidence())
            await terminal.pilot.pause()
            await walk(stage, pane, terminal)

    simulate(play())
