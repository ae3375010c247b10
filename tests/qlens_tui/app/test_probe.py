"""What fires on a text: the list for each token, and going to a feature."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlens_tui.app.screens.probe import ProbeScreen, meant
from qlens_tui.app.screens.prompt import Prompt
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.firing_tokens import FiringTokens
from qlens_tui.app.widgets.key_line import KeyLine
from qlens_tui.app.widgets.title_line import TitleLine
from qlens_tui.engine import messages as m
from qlens_tui.table import feature_labels
from qlens_tui.text import cells
from tests.qlens_tui.app.desk import NARROW, SIZES, run, settled, status
from tests.qlens_tui.app.terminal import HOSTILE, Terminal, leaks

TEXT = "the river, noise"


class Trial:
    """The screen on the whole app; `heard` is what the engine answered."""

    def __init__(self, terminal: Terminal, bench) -> None:
        self.terminal, self.bench = terminal, bench
        self.heard: list[m.PromptFirings] = []
        self.screen: ProbeScreen | None = None
        engine = bench.app.engine
        tell = engine._on_event

        def on_event(event: m.Event) -> None:
            if isinstance(event, m.PromptReady):
                self.heard.append(event.prompt)
            tell(event)

        engine._on_event = on_event

    async def ask(self, text: str | None = TEXT) -> None:
        self.bench.searches.by_text()
        await settled(self.terminal.pilot)
        self.screen = self.bench.app.screen_stack[-2]
        assert isinstance(self.screen, ProbeScreen)
        if text is not None:
            await self.type(text)

    @property
    def asked(self) -> m.ReadPrompt:
        """The last question."""
        return [each for each in self.bench.app.engine.requests if isinstance(each, m.ReadPrompt)][
            -1
        ]

    async def tell(self, event: m.Event) -> None:
        """What an engine says that takes its time."""
        self.bench.hear(event)
        await settled(self.terminal.pilot)

    async def type(self, text: str) -> None:
        prompt = self.bench.app.screen
        assert isinstance(prompt, Prompt)
        prompt.query_one("#typed").value = text
        await self.press("enter")

    async def press(self, *keys: str) -> None:
        await settled(self.terminal.pilot, *keys)

    @property
    def title(self) -> str:
        return self.screen.query_one(TitleLine).lines[0].strip()

    @property
    def tokens(self) -> FiringTokens:
        return self.screen.query_one(FiringTokens)

    @property
    def features(self) -> ChoiceList:
        return self.screen.query_one(ChoiceList)

    @property
    def last(self) -> m.PromptFirings:
        return self.heard[-1]


@pytest.fixture
def trial(place) -> Callable[..., None]:
    def go(act: Callable[[Trial], Awaitable[None]], **options: object) -> None:
        async def whole(terminal, bench) -> None:
            await act(Trial(terminal, bench))
            assert bench.app.is_running
            assert not terminal.leaks()

        run(place, whole, **options)

    return go


@pytest.mark.parametrize("size", SIZES)
def test_a_text_s_tokens_stand_with_what_the_feature_does_on_each(trial, size):
    async def act(at: Trial) -> None:
        await at.ask()
        assert (at.last.layer, at.last.feature) == at.bench.table.feature
        shown = at.tokens.lines
        assert len(at.last.ids) == len(TEXT)
        fired = [activation for activation in at.last.activations if activation > 0]
        assert f"fires on {len(fired)} of {len(TEXT)} tokens" in at.title
        start = at.tokens.top
        for row, activation, token in zip(
            shown[1:], at.last.activations[start:], at.last.tokens[start:], strict=False
        ):
            assert ("␣" if token == " " else token) in row
            assert ("█" in row) == (activation > 0)
        longest = max(shown[1:], key=lambda row: row.count("█"))
        assert longest == shown[1 + at.tokens.cursor - start]
        assert longest.startswith(">")
        keys = at.screen.query_one(KeyLine).lines[0]
        assert "enter open" in keys
        assert "space watch" in keys
        assert keys.rstrip().endswith("esc back")

    trial(act, size=size)


def test_the_strongest_features_of_the_token_are_listed_and_enter_goes_to_one(trial):
    async def act(at: Trial) -> None:
        await at.ask()
        await at.press("j", "right", "k", "left", "l")
        here = at.last.strongest[at.tokens.cursor]
        rows = at.features.lines[1:]
        named = [row.replace("=", " ").lstrip("> ").split()[0] for row in rows if row.strip()]
        assert named == [f"0:{feature}" for feature in here.features][: len(named)]
        opened = at.bench.state.opened
        frames = at.bench.reader.frames(opened.known)
        named = (0, here.features[0])
        labels = feature_labels.labels([named], frames, opened.texts, "key")[named]
        assert at.features.lines[0].rstrip().endswith("fires on")
        assert labels[0].strip() in rows[0] or "\\" in rows[0]
        await at.press("down")
        assert at.features.cursor == 1
        await at.press("enter")
        assert at.bench.app.screen is at.bench
        assert at.bench.table.feature == (0, here.features[1])

    trial(act, size=NARROW)


def test_j_k_and_the_arrows_walk_the_tokens_and_n_those_on_which_the_feature_fires(trial):
    async def act(at: Trial) -> None:
        await at.ask()
        for _ in range(len(TEXT)):
            await at.terminal.pilot.press("left")
        assert at.tokens.cursor == 0
        await at.press("right", "j", "k")
        assert at.tokens.cursor == 1
        await at.press("right", "right", "left")
        assert at.tokens.cursor == 2
        fired = [k for k, activation in enumerate(at.last.activations) if activation > 0]
        await at.press("n")
        assert at.tokens.cursor == next(k for k in fired if k > 2)
        await at.press("N", "N", "N")
        before = [k for k in fired if k <= 2]
        assert at.tokens.cursor in (before or fired)
        for _ in range(2 * len(TEXT)):
            await at.terminal.pilot.press("j")
        assert at.tokens.cursor == len(TEXT) - 1

    trial(act)


def test_space_watches_another_feature_along_the_text(trial):
    async def act(at: Trial) -> None:
        await at.ask()
        await at.press("right", "down", "down")
        cursor, before = at.tokens.cursor, at.last
        chosen = before.strongest[cursor].features[2]
        await at.press("space")
        assert at.last.feature == chosen
        assert at.last.activations != before.activations
        assert at.tokens.cursor == cursor
        assert at.features.cursor == 2
        assert at.features.lines[3].split()[:3] == [">", "=", f"0:{chosen}"]
        assert at.title.startswith(f"0:{chosen} ")

    trial(act)


def test_p_edits_the_text_and_it_is_offered_again_the_next_time(trial):
    async def act(at: Trial) -> None:
        await at.ask()
        await at.press("p")
        assert at.bench.app.screen.query_one("#typed").value == TEXT
        await at.press("escape")
        assert at.bench.app.screen is at.screen
        await at.press("p")
        await at.type("other")
        assert at.last.text == "other"
        assert len(at.tokens.lines[1:]) >= 5
        await at.press("escape")
        assert at.bench.app.screen is at.bench
        await at.press("l")
        await at.ask(None)
        assert at.bench.app.screen.query_one("#typed").value == "other"
        await at.press("enter")
        assert (at.last.text, at.last.layer) == ("other", 1)

    trial(act)


def test_escape_without_a_text_leaves_and_an_empty_one_is_not_asked(trial):
    async def act(at: Trial) -> None:
        await at.ask(None)
        await at.press("enter")
        assert isinstance(at.bench.app.screen, Prompt)
        await at.press("escape")
        assert at.bench.app.screen is at.bench
        assert at.heard == []

    trial(act)


def test_a_text_that_cannot_be_read_is_one_line_and_another_may_follow(trial):
    async def act(at: Trial) -> None:
        await at.ask("a" * 65)
        assert at.title.startswith("! the text has 65 tokens and")
        assert at.features.cursor is None
        await at.press("enter", "space", "n", "j", "k", "up", "down")
        await at.press("p")
        await at.type(r"half \udc80 of one")
        assert "a lone surrogate" in at.title
        await at.press("p")
        await at.type(TEXT)
        assert at.title.startswith("0:0 ")

    trial(act, size=NARROW)


def test_an_engine_that_dies_meanwhile_is_told_and_harms_nothing(trial):
    async def act(at: Trial) -> None:
        at.bench.app.engine.alive = False  # it takes requests, and is busy
        await at.ask()
        assert at.title == "computing…"
        question = at.asked
        await at.tell(m.Status(id=question.id, text="loading the model again"))
        assert at.title == "loading the model again…"
        at.bench.opening.lost("the engine was killed by SIGKILL\x1b[2J", "restarting the engine")
        await at.press()
        assert at.title == r"! the engine was killed by SIGKILL\x1b[2J"
        await at.press("p")
        await at.type(TEXT)
        assert at.title == "waiting for the model: restarting the engine…"
        await at.press("space", "enter", "j", "escape")
        assert at.bench.app.screen is at.bench
        # What comes late is for nobody.
        await at.tell(m.PromptReady(id=question.id, prompt=m.PromptFirings(
            layer=0, text="", feature=None, bos=False, ids=(1,), tokens=("x",),
            strongest=(m.FiringFeatures((), ()),), activations=None,
        )))  # fmt: skip
        assert at.bench.app.screen is at.bench

    trial(act)


def test_an_answer_to_an_older_question_is_not_shown(trial):
    async def act(at: Trial) -> None:
        await at.ask()
        title = at.title
        at.bench.app.engine.alive = False
        await at.press("p")
        await at.type("one")
        first = at.asked
        await at.press("p")
        await at.type("two")
        silent = replace(at.heard[-1], activations=(0.0,) * len(TEXT))
        await at.tell(m.PromptReady(id=first.id, prompt=silent))
        assert at.title == "computing…"
        await at.tell(m.PromptReady(id=at.asked.id, prompt=at.heard[-1]))
        assert at.title == title

    trial(act)


def test_among_all_layers_the_layer_of_the_feature_is_tried(trial):
    async def act(at: Trial) -> None:
        await at.press("l", "h", "h")
        assert at.bench.state.layer is None
        layer, feature = at.bench.table.feature
        await at.ask()
        assert (at.last.layer, at.last.feature) == (layer, feature)

    trial(act)


def escaped(text: str) -> str:
    """A line to type for a text, in ASCII only."""
    return "".join(
        c if c.isascii() and c.isprintable() and c != "\\" else f"\\U{ord(c):08x}" for c in text
    )


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_any_text_at_all_can_be_typed(text):
    assert escaped(text).isascii()
    assert meant(escaped(text)) == text


def test_what_is_pasted_into_the_prompt_is_never_sent_raw(trial):
    async def act(at: Trial) -> None:
        await at.ask(None)
        at.bench.app.screen.query_one("#typed").value = "".join(HOSTILE.values())
        await at.press("home", "escape")

    trial(act)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_whatever_is_typed_or_told_is_shown_and_never_sent_raw(trial, ascii_only):
    async def act(at: Trial) -> None:
        for name in ("escape", "NUL", "bidi override", "joined", "variation", "tag", "wide"):
            text = HOSTILE[name][:12]
            await at.ask(escaped(text))
            assert at.last.text == text
            await at.press("right", "escape")
        at.bench.app.engine.alive = False
        await at.ask("ab")
        tokens = tuple(HOSTILE.values())
        count = len(tokens)
        hostile = m.PromptFirings(
            layer=0, text="".join(tokens), feature=1, bos=True,
            ids=tuple(range(count)), tokens=tokens,
            strongest=(m.FiringFeatures((1, 2), (3.0, 1.0)),) * count,
            activations=tuple(float(k % 3) for k in range(count)),
        )  # fmt: skip
        await at.tell(m.PromptReady(id=at.asked.id, prompt=hostile))
        for _ in range(count):
            await at.terminal.pilot.press("j")
        await at.press("p")
        await at.type("abc")
        await at.tell(m.Failed(id=at.asked.id, text="".join(tokens).replace("\n", " ")))
        if ascii_only:
            panes = (at.tokens, at.features, at.screen.query_one(TitleLine))
            assert all(line.isascii() for pane in panes for line in pane.lines)

    trial(act, ascii_only=ascii_only, size=(80, 24))


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r"a\nb\tc\rd", "a\nb\tc\rd"),
        (r"\\n and \\ and \x", "\\n and \\ and \\x"),
        (r"\x1b\u202e\U0001f600", "\x1b\u202e\U0001f600"),
        (r"C:\dir \alpha", r"C:\dir \alpha"),
        (r"\U0fffffff", r"\U0fffffff"),
        ("\\", "\\"),
    ],
)
def test_escapes_stand_for_what_no_key_types(typed, text):
    assert meant(typed) == text


@settings(deadline=None)
@given(
    tokens=st.lists(st.text(st.characters(exclude_categories=[]), max_size=30), min_size=1),
    activations=st.data(),
    width=st.integers(20, 60),
    ascii_only=st.booleans(),
)
def test_every_row_takes_the_width_it_has(tokens, activations, width, ascii_only):
    strength = st.floats(0, 1e6) | st.just(0.0)
    told = m.PromptFirings(
        layer=0, text="", feature=7, bos=False, ids=tuple(range(len(tokens))),
        tokens=tuple(tokens), strongest=(m.FiringFeatures((), ()),) * len(tokens),
        activations=tuple(activations.draw(strength) for _ in tokens),
    )  # fmt: skip
    pane = FiringTokens(ascii_only=ascii_only)
    pane.redraw = lambda: None  # type: ignore[method-assign]
    pane._follow = lambda: None  # type: ignore[method-assign]
    pane.tell(told)
    head, body = pane.lay_out(width, 10)
    rows = ["".join(text for text, _ in line) for line in (*head, *body)]
    assert [cells(row) for row in rows] == [width] * len(rows)
    assert not leaks("".join(rows))
    assert len(body) == len(tokens)
    bar = "#" if ascii_only else "█"
    for row, activation in zip(rows[1:], told.activations, strict=True):
        assert row.rstrip().endswith(bar) or activation == 0


def test_the_screens_of_one_text_after_another_leave_nothing_waiting(trial):
    async def act(at: Trial) -> None:
        for _ in range(3):
            await at.ask()
            await at.press("escape")
        assert at.bench.app.screen is at.bench
        await asyncio.sleep(0)

    trial(act)


def test_what_fires_can_be_marked_and_becomes_the_table(trial):
    async def act(at: Trial) -> None:
        await at.ask()
        here = at.last.strongest[at.tokens.cursor].features
        await at.press("down", "s", "t", *"river", "enter")
        mark = at.bench.marking.mark((0, here[1]))
        assert (mark.star, mark.tags) == (True, ("river",))
        assert re.match(r"> +0:\d+ \*  t", at.features.lines[2].replace("=", " "))
        await at.press("T")
        assert at.bench.app.screen is at.bench
        assert at.bench.table.rows.features()["feature"].to_list() == list(here)
        assert "what fires on" in status(at.bench)
        await at.press("escape")
        assert len(at.bench.table.rows) > len(here)

    trial(act, size=NARROW)
