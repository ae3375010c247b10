"""What earlier visits computed is shown while the model is loaded."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from qlens_tui.app.screens.workbench import Workbench
from qlens_tui.app.views import SIDES
from qlens_tui.engine import messages as m
from tests.qlens_tui.app.desk import NARROW, SIZES, AnswersAtOnce, arrive, reopen, run, settled
from tests.qlens_tui.app.terminal import Terminal
from tests.qlens_tui.workplace import CONFIG, Workplace, make_workplace

NOTE = "kept from before"
PANES = ("value", "key", "paths", "evidence")


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Workplace:
    """A model and a reference, and no operators: answers come in stages."""
    return make_workplace(tmp_path_factory.mktemp("early"))


@pytest.fixture
def place(plain, tmp_path, monkeypatch) -> Workplace:
    """A copy whose files were written long ago, with its own cache, marks and saved visit."""
    shutil.copytree(plain.folder, tmp_path / "place")
    age(tmp_path / "place")
    for name in ("CACHE", "STATE", "DATA"):
        monkeypatch.setenv(f"QLENS_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)
    return Workplace(tmp_path / "place")


def age(folder: Path) -> None:
    long_ago = time.time() - 1000
    for path in folder.rglob("*"):
        os.utime(path, (long_ago, long_ago))


def visit(place: Workplace, *keys: str) -> dict[m.Request, object]:
    """Look at some features until all is there; returns the panes' answers by their questions."""
    found: dict[m.Request, object] = {}

    async def look(terminal: Terminal, bench: Workbench) -> None:
        for key in ("", *keys):
            await settled(terminal.pilot, *([key] if key else []))
            found.update(shown(bench))

    # Not `run`, which waits for the columns that operators give.
    reopen(place, look, loads=True)
    return found


def shown(bench: Workbench) -> dict[m.Request, object]:
    state = bench.state
    asked = [state.lists_asked, *map(state.shares_asked, SIDES), state.evidence_asked]
    return {each: state.answer(each) for each in [*asked, state.comparison_asked] if each}


def questions(engine: AnswersAtOnce) -> list[m.Request]:
    return [replace(each, id=0) for each in engine.requests if isinstance(each, m.OfFeature)]


def heads(bench: Workbench) -> list[str]:
    return [bench.pane(name).lines[0] for name in PANES]


def test_lists_paths_and_evidence_of_an_earlier_visit_are_there_before_the_model(place):
    given = visit(place, "j")

    async def act(terminal, bench):
        assert bench.state.opened.session is None
        assert bench.table.feature == (0, 1)
        for name in ("value", "key", "paths", "evidence"):
            bench.focus_pane(name)
            await settled(terminal.pilot)
            pane = bench.pane(name)
            assert pane.shown.of == (0, 1)
            assert not pane.is_grey
            assert NOTE in pane.lines[0]
        assert shown(bench) == {question: given[question] for question in shown(bench)}
        assert None not in shown(bench).values()
        assert bench.paths.view.n_layers == 3
        assert bench.pane("value").view.k == 5
        assert not questions(bench.app.engine)

    reopen(place, act, size=NARROW)


def test_the_cursor_walks_through_what_is_kept_and_the_rest_waits(place):
    given = visit(place, "j", "j")

    async def act(terminal, bench):
        assert bench.table.feature == (0, 2)
        for key, feature in (("k", 1), ("k", 0), ("j", 1)):
            await settled(terminal.pilot, key)
            assert bench.state.feature == (0, feature)
            assert shown(bench) == {question: given[question] for question in shown(bench)}
            assert all(NOTE in head for head in heads(bench))
        await settled(terminal.pilot, "j", "j", "j")
        assert bench.state.feature == (0, 4)
        for name in PANES:
            pane = bench.pane(name)
            assert pane.is_grey or pane.shown.answer is None
            assert "waiting for the model" in "".join(pane.lines)
            assert NOTE not in "".join(pane.lines)  # that would be said of the awaited ones

    reopen(place, act)


def test_once_the_model_is_there_nothing_is_computed_twice_or_changes(place):
    given = visit(place, "j")

    async def act(terminal, bench):
        before = shown(bench)
        lines = [bench.pane(name).lines[1:] for name in PANES[:3]]
        await arrive(terminal, bench)
        assert not any(NOTE in head for head in heads(bench))
        assert shown(bench) == before
        assert [bench.pane(name).lines[1:] for name in PANES[:3]] == lines
        asked = questions(bench.app.engine)
        assert not {each for each in asked if (each.layer, each.feature) == (0, 1)}
        for question, found in given.items():
            event = bench.app.engine.answer(question)
            fresh = next(
                getattr(event, name) for name in ("signature", "paths", "evidence")
                if hasattr(event, name)
            )  # fmt: skip
            if isinstance(fresh, m.Signature):  # an overlap is of a stage that the cache has not
                fresh, found = map(without_overlap, (fresh, found))
            assert fresh == found
        await settled(terminal.pilot, "j")
        assert bench.pane("paths").shown.of == (0, 2)

    reopen(place, act)


def without_overlap(found: m.Signature) -> m.Signature:
    value, key = (replace(side, overlap=None) for side in (found.value, found.key))
    return replace(found, value=value, key=key)


def test_switches_and_what_they_changed_are_there_too(place):
    async def switch(terminal, bench):
        bench.focus_pane("paths")
        await settled(terminal.pilot, "space")
        assert bench.state.settings.off
        assert bench.state.answer(bench.state.comparison_asked) is not None

    reopen(place, switch, loads=True)

    async def act(terminal, bench):
        assert bench.state.settings.off
        assert None not in shown(bench).values()
        assert isinstance(bench.state.answer(bench.state.comparison_asked), m.Comparison)
        assert "vs on" in "".join(bench.pane("value").lines)
        # Those of all on were kept as well.
        await settled(terminal.pilot, "a")
        assert not bench.state.settings.off
        assert None not in shown(bench).values()

    reopen(place, act)


@pytest.mark.parametrize("size", SIZES)
def test_a_stage_is_labelled_and_gone_on_with(place, size):
    async def stop_early(terminal, bench):
        engine = bench.app.engine
        serve = engine._serve

        def first_stage(request):
            serve(replace(request, ahead=True) if isinstance(request, m.ComputePaths) else request)

        engine._serve = first_stage
        await settled(terminal.pilot, "j")

    reopen(place, stop_early, loads=True)

    async def act(terminal, bench):
        asked = bench.state.shares_asked("value")
        first = bench.state.answer(asked)
        assert 0 < first.n_tokens < 80
        bench.focus_pane("paths")
        await settled(terminal.pilot)
        assert f"{NOTE}  exact on {first.n_tokens} of 80 " in bench.paths.lines[0]
        assert bench.state.is_lacking(asked)
        await arrive(terminal, bench)
        assert bench.state.answer(asked).n_tokens == 80
        assert asked in questions(bench.app.engine)
        assert bench.state.feature == (0, 1)

    reopen(place, act, size=size)


def test_the_engine_s_first_stages_do_not_replace_a_later_one_that_is_kept(place):
    visit(place)

    async def act(terminal, bench):
        asked = bench.state.lists_asked
        whole = bench.state.answer(asked)
        bench.state.forget_answers()
        later, first = (replace(whole, n_tokens=n_tokens) for n_tokens in (40, 20))
        for found, shown in ((first, first), (later, later), (first, later), (whole, whole)):
            event = m.SignatureReady(signature=found, is_last=found is whole)
            bench.state.keep_answer(asked, event)
            assert bench.state.answer(asked) is shown
            assert bench.state.is_lacking(asked) == (shown is not whole)

    reopen(place, act)


def other_weights(place: Workplace) -> None:
    file = place.folder / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 0x01
    file.write_bytes(content)


def other_k(place: Workplace) -> None:
    Path(place.config).write_text(CONFIG.replace("k = 5", "k = 3"))


def no_cache(place: Workplace) -> None:
    shutil.rmtree(os.environ["QLENS_CACHE_DIR"])


@pytest.mark.parametrize("change", [other_weights, other_k, no_cache])
def test_nothing_old_is_shown_of_other_content(place, change):
    visit(place, "j")
    change(place)

    async def act(terminal, bench):
        assert bench.table.feature == (0, 1)
        assert bench.state.opened.kept is None
        assert all(bench.pane(name).shown.answer is None for name in PANES)
        assert "waiting for the model" in "".join(bench.pane("value").lines)
        await arrive(terminal, bench)
        assert None not in shown(bench).values()

    reopen(place, act)


def test_nothing_of_another_dictionary_than_the_table_s_is_shown(place):
    visit(place)
    state = next(Path(os.environ["QLENS_STATE_DIR"]).glob("*[0-9a-f].json"))
    sha256 = '"sha256": "'
    text = state.read_text()
    assert sha256 in text
    state.write_text(text.replace(sha256, sha256 + "0"))

    async def act(terminal, bench):
        assert bench.state.opened.kept is not None
        assert all(bench.pane(name).shown.answer is None for name in PANES)

    reopen(place, act)


@pytest.mark.parametrize("what", ["content", "dictionary"])
def test_what_the_model_turns_out_not_to_be_is_dropped(place, what):
    """Files that look unchanged, and are not."""
    visit(place, "j")

    async def act(terminal, bench):
        asked = bench.state.lists_asked
        old = bench.state.answer(asked)
        wrong = replace(old, n_tokens=7)
        bench.state.keep_answer(asked, m.SignatureReady(signature=wrong))
        kept = bench.state.opened.kept
        if what == "content":
            bench.state.expect(replace(kept.facts, content="other"))
            bench.state.keep_answer(asked, m.SignatureReady(signature=wrong))
        else:
            layers = {0: replace(kept.layers[0], sha256="other")}
            bench.state.opened.kept = replace(kept, layers=layers)
        await arrive(terminal, bench)
        assert without_overlap(bench.state.answer(asked)) == without_overlap(old)
        assert asked in questions(bench.app.engine)

    reopen(place, act)


def test_a_read_that_ends_after_the_model_is_there_changes_nothing(place):
    visit(place, "j")

    async def act(terminal, bench):
        kept = bench.state.opened.kept
        asked = replace(bench.state.lists_asked, feature=9)
        wrong = m.SignatureReady(signature=bench.state.answer(bench.state.lists_asked))

        class Slow:
            facts, layers = kept.facts, kept.layers

            def answer(self, question: m.Request) -> m.Event:
                bench.state.opened.session = kept.facts  # as it is read
                return wrong

        bench.state.opened.kept = Slow()
        bench.requests.ask(asked)
        await settled(terminal.pilot)
        assert bench.state.answer(asked) is None

    reopen(place, act)


def test_what_stands_while_the_engine_is_started_again_is_marked(place):
    async def act(terminal, bench):
        engine = bench.app.engine
        assert not any(NOTE in head for head in heads(bench))
        start, engine.start = engine.start, lambda: None
        engine.die()
        await settled(terminal.pilot)
        assert all(NOTE in head for head in heads(bench))
        engine.start = start
        bench.app.restart()
        await settled(terminal.pilot)
        assert not any(NOTE in head for head in heads(bench))

    reopen(place, act, loads=True)


def test_with_operators_it_is_the_same(tiny_place, tmp_path, monkeypatch):
    folder = tmp_path / "built"
    shutil.copytree(tiny_place.folder, folder)
    age(folder)
    for name in ("STATE", "DATA"):
        monkeypatch.setenv(f"QLENS_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("QLENS_CACHE_DIR", str(folder / "cache"))
    place = Workplace(folder)

    async def look(terminal, bench):
        await settled(terminal.pilot, "b")

    run(place, look)

    async def act(terminal, bench):
        assert None not in shown(bench).values()
        assert bench.pane("value").shown.answer.operators == "built"
        assert bench.pane("value").look.end == "bottom"
        assert NOTE in bench.pane("value").lines[0]

    reopen(place, act)
