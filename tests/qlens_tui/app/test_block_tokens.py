"""The tokens of a block whose share came without them: asked for where the cursor rests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qlens_tui.engine import messages as m
from qlens_tui.text import token_label
from tests.qlens_tui.app.desk import NARROW, run, settled

pytestmark = pytest.mark.usefixtures("place")


async def bare(terminal, bench) -> dict[str, m.PathShare]:
    """Shares without tokens, as without operators of the blocks; what they were before, by name."""
    paths = bench.paths.shown.answer.values()
    found = {row.block: row for each in paths for row in each.rows}
    engine = bench.app.engine
    tell = engine._on_event

    def tell_less(event: m.Event) -> None:
        if isinstance(event, m.PathsReady):
            rows = tuple(replace(row, ids=(), tokens=()) for row in event.paths.rows)
            event = replace(event, paths=replace(event.paths, rows=rows))
        tell(event)

    engine._on_event = tell_less
    bench.state.forget_answers()
    bench.feature_requests.changed()
    await settled(terminal.pilot)
    return found


def favours(bench) -> list[m.ComputeBlockTokens]:
    return [each for each in bench.app.engine.requests if isinstance(each, m.ComputeBlockTokens)]


def info(bench) -> str:
    """The line of the block under the cursor."""
    name = f"{'mlp' if bench.paths.cursor % 2 else 'attn'}.{bench.paths.cursor // 2} "
    return next(line for line in bench.paths.lines if line.startswith(f" {name}"))


async def rest(terminal, *keys: str) -> None:
    await settled(terminal.pilot, *keys)
    await terminal.pilot.pause(0.5)
    await settled(terminal.pilot)


def test_where_the_cursor_rests_the_blocks_tokens_are_computed(place):
    async def act(terminal, bench):
        known = await bare(terminal, bench)
        assert not favours(bench)
        bench.focus_pane("paths")
        await rest(terminal)
        seen = 0
        for key in ("l", "j", "h", "h", "k"):
            block = bench.paths.cursor
            name = f"{'mlp' if block % 2 else 'attn'}.{block // 2}"
            # By passes of its own what it was by operators.
            words = "  ".join(map(token_label, known[name].tokens))
            assert words[:30] in info(bench)
            seen += 1
            await rest(terminal, key)
        asked = len(favours(bench))
        assert 1 < asked <= seen + 1
        await rest(terminal, "k")
        await rest(terminal, "j")
        assert len(favours(bench)) <= asked + 1  # what is known is not asked for again

    run(place, act, size=NARROW)


def test_who_is_not_in_the_pane_asks_for_no_passes(place):
    async def act(terminal, bench):
        await bare(terminal, bench)
        await rest(terminal, "j", "k")
        assert not favours(bench)

    run(place, act)


STOPS = {
    "another feature": lambda bench: bench.action_feature(1),
    "a switch": lambda bench: bench.paths.action_switch(),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_what_is_being_done_is_said_and_what_needs_it_no_more_stops_it(place, stop):
    async def act(terminal, bench):
        await bare(terminal, bench)
        bench.app.engine.alive = False
        bench.focus_pane("paths")
        await rest(terminal)
        (asked,) = favours(bench)
        assert "its tokens" in info(bench)
        bench.hear(m.Status(id=asked.id, text="reading the reference", done=1, total=4))
        assert "reading the reference 25%" in info(bench)
        assert asked.id in [job.id for job in bench.state.jobs]
        stop(bench)
        await settled(terminal.pilot)
        assert asked.id not in [work.id for work in bench.state.under_way]
        cancelled = [r.target for r in bench.app.engine.requests if isinstance(r, m.Cancel)]
        assert asked.id in cancelled

    run(place, act)


def test_a_pass_that_fails_says_so_in_the_blocks_line(place):
    async def act(terminal, bench):
        await bare(terminal, bench)
        bench.app.engine.alive = False
        bench.focus_pane("paths")
        await rest(terminal)
        (asked,) = favours(bench)
        bench.hear(m.Failed(id=asked.id, text="the disk\x1b[2J is full"))
        assert r"the disk\x1b[2J is full" in info(bench)

    run(place, act, size=(160, 48))
