"""Answers that come late, in another order, or not at all: what the app shows and asks then.

The engine of these tests only takes requests down; a test gives the answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from textual.pilot import Pilot

from qlens_tui.app.app import QlensApp
from qlens_tui.app.last_visit import LastVisit, remember
from qlens_tui.app.screens.workbench import Workbench
from qlens_tui.app.widgets.choice_list import ChoiceList
from qlens_tui.app.widgets.text_line import TextLine
from qlens_tui.app.widgets.token_pane import TokenPane
from qlens_tui.engine import messages as m
from qlens_tui.engine.scheduler import Desk
from qlens_tui.table import frames as features
from qlens_tui.table.known_layer import KnownLayer
from tests.qlens_tui.app.desk import settled, status, told
from tests.qlens_tui.app.features import comparison, found, signature
from tests.qlens_tui.app.simulated_time import simulate

Asked = TypeVar("Asked", bound=m.Request)


class SilentEngine:
    """Records requests and answers nothing."""

    def __init__(self) -> None:
        self.requests: list[m.Request] = []
        self.alive = False
        self.log: Path | None = None

    @property
    def pid(self) -> int | None:
        return 1 if self.alive else None

    def start(self) -> None:
        self.alive = True

    def send(self, request: m.Request) -> int:
        self.requests.append(replace(request, id=len(self.requests) + 1))
        return len(self.requests)

    def close(self, patience: float = 2.0) -> None:
        self.alive = False


class QuietApp(QlensApp):
    """The app with such an engine."""

    silent: SilentEngine

    def make_engine(self) -> SilentEngine:  # type: ignore[override]
        self.silent = SilentEngine()
        return self.silent


class Talk:
    """The app's keys and screens, and the engine's answers, sent by the test."""

    def __init__(self, app: QuietApp, pilot: Pilot[Any]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def bench(self) -> Workbench:
        return self.app._bench

    def asked(self, kind: type[Asked]) -> list[Asked]:
        return [each for each in self.app.silent.requests if isinstance(each, kind)]

    async def say(self, *events: m.Event) -> None:
        for event in events:
            self.app.relay(event)
        await settled(self.pilot)

    async def open(self, *layers: int, operators: m.OperatorSource = "built") -> None:
        await self.say(
            m.Ready(id=self.asked(m.Open)[-1].id, session=m.SessionFacts(
                config="c", content="c", model="tiny", model_fingerprint="f",
                n_layers=4, d_model=8, d_vocab=10, k=5, device="cpu", dtype="float32",
                blocks=tuple(f"{kind}.{at}" for at in range(4) for kind in ("attn", "mlp")),
                layers=layers, dictionary_kind="sae", operators=operators,
                reference=m.ReferenceFacts(64, 32, 2048, "s", "o", 0, 0),
                settings=m.Settings(), cache="x",
            ))
        )  # fmt: skip
        asked = self.asked(m.ReadVocabulary)[-1]
        await self.say(m.VocabularyReady(id=asked.id, tokens=tuple("abcdefghij")))

    async def describe(self, layer: int, **facts: Any) -> None:
        asked = [each.id for each in self.asked(m.DescribeLayer) if each.layer == layer]
        found = m.LayerFacts(
            layer=layer, dictionary=f"d{layer}", sha256=f"s{layer}", n_features=20,
            operators="built", value_blocks=(2 * layer + 2, 8), key_blocks=(0, 2 * layer),
            provenance={}, atlas=None,
        )  # fmt: skip
        await self.say(m.LayerReady(id=asked[-1], layer=replace(found, **facts)))

    def table(self) -> str:
        return "\n".join(self.bench.table.lines)

    async def keys(self, *keys: str) -> None:
        await settled(self.pilot, *keys)


@pytest.fixture
def talk(tmp_path, monkeypatch):
    """Run an act on an app that was last left at a place."""
    for name in ("STATE", "DATA", "CACHE"):
        monkeypatch.setenv(f"QLENS_{name}_DIR", str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "tiny.toml"
    config.write_text("")

    def start(act: Callable[[Talk], Awaitable[None]], place: LastVisit | None = None) -> None:
        if place is not None:
            remember(config, place)
        app = QuietApp(config)

        async def whole() -> None:
            async with app.run_test(size=(160, 48)) as pilot:
                await settled(pilot)
                await act(Talk(app, pilot))
                app.finish()
            app.end()

        simulate(whole())

    return start


def known(*layers: int) -> tuple[KnownLayer, ...]:
    return tuple(KnownLayer(layer, f"s{layer}", f"d{layer}", 20) for layer in layers)


@pytest.mark.parametrize("everywhere", [True, False])
def test_rows_of_a_layer_that_the_configuration_lost_cannot_be_marked(talk, everywhere):
    async def act(talk):
        assert talk.bench.table.feature == (1, 1)
        await talk.open(0)
        await talk.keys("G", "s")
        assert talk.bench.table.feature in (None, (0, 19))
        assert set(talk.bench.marking.marks) <= {0}

    talk(act, LastVisit(layer=1, feature=1, everywhere=everywhere, known=known(0, 1)))


def test_a_dictionary_that_does_not_load_is_told_where_its_features_would_be(talk):
    async def act(talk):
        await talk.open(0, 1)
        assert "loading the dictionary" in status(talk.bench)
        await talk.say(m.Failed(id=talk.asked(m.DescribeLayer)[-1].id, text="d0 is \x1bdamaged"))
        assert r"d0 is \x1bdamaged" in talk.table()
        assert "no dictionary: press B to try again" in status(talk.bench)
        await talk.keys("B")
        assert "loading the dictionary" in status(talk.bench)
        await talk.describe(0)
        assert "loading" not in status(talk.bench)
        assert talk.bench.table.feature == (0, 0)

    talk(act)


def test_columns_that_could_not_be_computed_say_why_and_b_tries_again(talk):
    async def act(talk):
        await talk.open(0)
        assert "being computed" in talk.table()  # its atlas may be in the cache
        await talk.describe(0)
        await talk.say(m.Failed(id=talk.asked(m.Tabulate)[-1].id, text="the disk is full"))
        assert "no columns (B tries again): the disk is full" in talk.table()
        for _ in range(2):
            await talk.keys("B")
            assert "being computed" in talk.table()
            assert not talk.asked(m.Build)
        assert len(talk.asked(m.Tabulate)) == 2
        await talk.say(m.Cancelled(id=talk.asked(m.Tabulate)[-1].id))
        assert "cancelled: press B to compute the columns" in talk.table()

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


def test_the_first_stage_is_shown_and_what_was_left_before_the_last_goes_on_on_return(talk):
    def lists(asked, tokens, *, is_last=False):
        of = replace(signature(0, asked.feature, k=5), settings=asked.settings, n_tokens=tokens)
        of = replace(of, value=replace(of.value, n_tokens=tokens))
        return m.SignatureReady(id=asked.id, signature=of, is_last=is_last)

    def asked(feature):
        return [each for each in talk_.asked(m.ComputeSignature) if each.feature == feature]

    async def act(talk):
        nonlocal talk_
        talk_ = talk
        await talk.open(0)
        await talk.describe(0)
        (first,) = asked(1)
        await talk.say(lists(first, 256))
        assert "256 of 2,048" in value_pane(talk)
        await talk.keys("j")
        await talk.say(m.Dropped(id=first.id), lists(asked(2)[0], 2048, is_last=True))
        assert "of 2,048" not in value_pane(talk)
        await talk.keys("k")
        assert "256 of 2,048" in value_pane(talk)
        (_, again) = asked(1)
        await talk.say(lists(again, 1024), lists(again, 2048, is_last=True))
        assert "of 2,048" not in value_pane(talk)
        await talk.keys("j", "k")
        assert len(asked(1)) == 2

    talk_: Talk | None = None
    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


def test_a_late_comparison_of_an_old_mask_is_never_shown(talk):
    def lists(asked, tokens=2048):
        of = replace(signature(0, 1), settings=asked.settings, n_tokens=tokens)
        of = replace(of, value=replace(of.value, n_tokens=tokens))
        return m.SignatureReady(id=asked.id, signature=of, is_last=tokens == 2048)

    def compared(asked):
        of = comparison(0, 1, settings=asked.settings, layers=4)
        assert of.value is not None
        of = replace(of, value=replace(of.value, n_tokens=2048))
        return m.ComparisonReady(id=asked.id, comparison=of)

    async def switch(talk, *off):
        talk.bench._carry(replace(talk.bench.state.settings, off=frozenset(off)))
        await settled(talk.pilot)
        return talk.asked(m.ComputeSignature)[-1]

    async def act(talk):
        await talk.open(0)
        await talk.describe(0)
        one = await switch(talk, 2)
        await talk.say(lists(one, 256))
        assert not talk.asked(m.ComputeComparison)
        assert "against all on: ▸ after all 2,048 tokens" in value_pane(talk)
        await talk.say(lists(one))
        (old,) = talk.asked(m.ComputeComparison)
        assert "against all on: ▸ comparing" in value_pane(talk)
        other = await switch(talk, 2, 3)
        assert talk.asked(m.Cancel)[-1].target == old.id
        await talk.say(compared(old))  # it was on its way
        assert talk.bench.pane("value").is_grey  # the old lists, with their own mask
        assert "mlp.1" not in value_pane(talk)
        await talk.say(lists(other))
        assert "off: attn.1 mlp.1" in value_pane(talk)
        assert "against all on: ▸ comparing" in value_pane(talk)
        (_, new) = talk.asked(m.ComputeComparison)
        await talk.say(compared(new))
        assert "against all on: score -25.0%" in value_pane(talk)
        before = len(talk.asked(m.Request))
        await switch(talk, 2)
        assert "against all on: score -25.0%" in value_pane(talk)
        assert "off: attn.1 (a: all on)" in value_pane(talk)
        kinds = {type(each) for each in talk.asked(m.Request)[before:]}
        assert not kinds & {m.ComputeSignature, m.ComputeComparison}  # both are still known

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


def value_pane(talk):
    return "\n".join(talk.bench.query_one("#value", TokenPane).lines)


def test_b_says_what_a_build_takes_and_begins_it_when_told_to(talk):
    plan = m.BuildFacts(
        directory="d", device="cuda", passes=400, passes_done=100, micro_batch=8, length=34,
        bytes_on_disk=3 * 10**9, bytes_while_building=5 * 10**9, seconds=9000.0,
    )  # fmt: skip

    async def act(talk):
        await talk.open(0, operators="none")
        await talk.describe(0, operators="none")
        for answer in ("escape", "down", ""):
            await talk.keys("B")
            assert not talk.asked(m.Build)
            await talk.say(m.BuildPlanned(id=talk.asked(m.PlanBuild)[-1].id, plan=plan))
            shown = "\n".join(talk.app.screen.query_one(ChoiceList).lines)
            for fact in ("2 h 30 min", "cuda", "2.8 GiB on disk", "4.7 GiB", "25% done"):
                assert fact in shown
            await talk.keys(*filter(None, [answer]), *([] if answer == "escape" else ["enter"]))
        assert len(talk.asked(m.Build)) == 1
        await talk.keys("B")  # under way
        assert len(talk.asked(m.PlanBuild)) == 3

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


def test_a_layer_that_comes_back_into_sight_is_computed_first_again(talk):
    async def act(talk):
        await talk.open(0, 1)
        await talk.describe(0)
        await talk.keys("l", "h")
        desk = Desk()
        for request in talk.asked(m.Tabulate):
            desk.put(request)
        waiting = {each.layer: each.in_sight for each in desk._waiting}
        assert waiting == {0: True, 1: False}
        jobs = [job.name for job in talk.bench.state.jobs]
        assert sorted(jobs) == ["atlas of layer 0", "atlas of layer 1"]

    talk(act, LastVisit(layer=0, feature=1, known=known(0, 1)))


def test_a_job_of_a_layer_that_was_left_says_what_it_waits_for(talk):
    async def act(talk):
        await talk.open(0, 1)
        await talk.describe(0)
        await talk.keys("l")
        left, in_sight = (
            next(each for each in reversed(talk.asked(m.Tabulate)) if each.layer == layer)
            for layer in (0, 1)
        )
        await talk.say(m.Status(id=left.id, text="atlas", done=30, total=120, eta=9.0))
        await talk.say(m.Status(id=in_sight.id, text="atlas", done=5, total=10))
        await talk.keys("w")
        lines = talk.bench.app.screen.query_one(ChoiceList).lines
        assert any("atlas of layer 0: 25% done, waits for atlas of layer 1" in x for x in lines)
        assert any("atlas of layer 1: atlas 50%" in each for each in lines)
        await talk.keys("escape")
        await talk.say(m.AtlasReady(id=in_sight.id, layer=1, directory="/nowhere"))
        await talk.keys("w")
        lines = talk.bench.app.screen.query_one(ChoiceList).lines
        assert not any("waits for" in each for each in lines)

    talk(act, LastVisit(layer=0, feature=1, known=known(0, 1)))


def test_contexts_that_were_dropped_on_the_way_back_are_asked_for_again(talk):
    async def act(talk):
        await talk.open(0)
        await talk.describe(0)
        (first,) = talk.asked(m.ComputeEvidence)
        await talk.keys("j")
        await talk.keys("k")
        assert [each.feature for each in talk.asked(m.ComputeEvidence)] == [
            1,
            2,
        ]  # one is under way
        await talk.say(m.Dropped(id=first.id))
        assert [each.feature for each in talk.asked(m.ComputeEvidence)] == [1, 2, 1]

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


@pytest.mark.parametrize(
    ("facts", "stand_in"),
    [({}, True), ({"convention": "exact"}, False), ({"final_norm": "linearize"}, False)],
)
def test_lists_of_an_atlas_stand_in_only_for_what_an_atlas_holds(
    talk, facts, stand_in, monkeypatch
):
    read = []
    monkeypatch.setattr(features, "signature_of", lambda row, *_, **__: read.append(row))

    async def act(talk):
        await talk.keys("j")
        assert bool(read) == stand_in

    talk(act, LastVisit(layer=0, feature=1, known=known(0), **facts))


def test_the_failure_of_an_older_text_is_not_that_of_the_newer(talk):
    async def act(talk):
        await talk.open(0)
        await talk.describe(0)
        await talk.keys("p", "a", "enter", "p", "b", "enter")
        old, new = talk.asked(m.ReadPrompt)
        await talk.say(m.Failed(id=old.id, text="too long"))
        said = talk.app.screen.query_one(TextLine)
        assert "too long" not in "".join(said.lines)
        await talk.say(
            m.PromptReady(id=new.id, prompt=m.PromptFirings(
                layer=0, text=new.text, feature=0, bos=False, ids=(1,), tokens=("b",),
                strongest=(m.FiringFeatures((), ()),), activations=(0.0,),
            ))
        )  # fmt: skip
        assert "computing" not in "".join(said.lines)
        await talk.keys("p", "c", "enter")
        await talk.say(m.Failed(id=talk.asked(m.ReadPrompt)[-1].id, text="too long"))
        assert "too long" in "".join(said.lines)

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


def test_a_search_that_nobody_can_answer_waits_and_says_so(talk):
    async def act(talk):
        await talk.open(0, 1)
        await talk.describe(0)
        await talk.keys("slash", "a", "enter")
        hits = talk.app.screen.query_one(ChoiceList)
        assert "searching" in "".join(hits.lines)
        talk.bench.state.opened.session = None
        n = len(talk.asked(m.Search))
        await talk.keys("c")
        assert len(talk.asked(m.Search)) == n
        assert "waiting for the model: opening" in "".join(hits.lines)

    talk(act, LastVisit(layer=0, feature=1, known=known(0, 1)))


def test_a_side_whose_paths_were_cancelled_is_not_said_to_be_computing(talk):
    def paths(asked: m.ComputePaths) -> m.PathsReady:
        layers = (1, 2, 3) if asked.side == "value" else (0,)
        return m.PathsReady(id=asked.id, paths=m.Paths(
            layer=0, feature=1, side=asked.side, settings=m.Settings(),
            method="direct", n_tokens=1, split="first-reader",
            rows=tuple(m.PathShare(f"mlp.{layer}", 0.1, True, (), ()) for layer in layers),
        ))  # fmt: skip

    async def act(talk):
        await talk.open(0)
        await talk.describe(0)
        value, key = talk.asked(m.ComputePaths)
        await talk.say(m.Cancelled(id=value.id))
        assert "cancelled" in "".join(talk.bench.paths.lines)
        await talk.say(m.Status(id=key.id, text="reading the reference", done=1, total=5))
        assert "reading the reference" in "".join(talk.bench.paths.lines)
        await talk.say(paths(key))
        head = talk.bench.paths.lines[0]
        assert "! value: cancelled" in head
        assert "computing" not in head
        # Back again it is asked anew.
        await talk.keys("j")
        await talk.keys("k")
        again = [each for each in talk.asked(m.ComputePaths) if each.feature == 1][-1]
        assert again.side == "value"
        await talk.say(paths(again))
        assert "cancelled" not in talk.bench.paths.lines[0]

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


@pytest.mark.parametrize("key", ["t", "m", "e"])
def test_marks_that_cannot_be_read_are_a_toast(talk, key):
    async def act(talk):
        for file in talk.bench.marking.triage.path.parent.iterdir():
            file.write_bytes(b"damaged" * 4096)
        await talk.keys(key)
        assert talk.app.screen is talk.bench
        assert str(talk.bench.marking.triage.path) in told(talk.app)

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


@pytest.mark.parametrize("name", ["~f", "~nobody/x.csv", "x" * 300 + ".csv"])
def test_a_file_name_that_no_file_can_have_is_told_in_the_prompt(talk, name):
    async def act(talk):
        await talk.keys("e", "enter")
        talk.app.screen.query_one("#typed").value = name
        await talk.keys("enter")
        assert talk.app.screen is not talk.bench
        assert talk.app.screen.query_one("#told").lines[0].strip()

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


def test_taking_off_a_tag_that_there_is_not_makes_none(talk):
    async def act(talk):
        await talk.keys("t", *"-typo", "enter")
        assert "there is no tag typo to remove" in talk.app.screen.query_one("#told").lines[0]
        await talk.keys("escape", "escape", "t", *"keep me", "enter")
        assert talk.bench.marking.triage.tags() == ["keep me"]
        await talk.keys("t", *"-keep  me", "enter")  # as it is kept, not as it is typed
        assert talk.bench.marking.triage.tags() == []

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


def test_contexts_from_a_text_that_is_no_longer_used_are_asked_for_again(talk):
    async def act(talk):
        await talk.open(0)
        await talk.describe(0, text="0" * 64)
        (first,) = talk.asked(m.ComputeEvidence)
        await talk.say(m.EvidenceReady(id=first.id, evidence=found(0, 1)))
        shown = talk.bench.pane("evidence").shown
        assert (shown.answer.text.sha256, shown.late) == ("0" * 64, False)
        await talk.keys("j")
        second = talk.asked(m.ComputeEvidence)[-1]
        text = replace(found().text, is_reference=False, sha256="1" * 64)
        await talk.say(m.EvidenceReady(id=second.id, evidence=replace(found(0, 2), text=text)))
        await talk.keys("k")
        assert [each.feature for each in talk.asked(m.ComputeEvidence)] == [1, 2, 1]
        await talk.describe(0, text="1" * 64)
        await talk.keys("j")
        assert [each.feature for each in talk.asked(m.ComputeEvidence)] == [1, 2, 1]

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))


def test_contexts_stay_on_the_screen_while_their_activations_are_read(talk):
    async def act(talk):
        await talk.open(0)
        await talk.describe(0)
        (asked,) = talk.asked(m.ComputeEvidence)
        whole = found(0, 1)
        bare = replace(
            whole, contexts=tuple(replace(each, activations=()) for each in whole.contexts)
        )
        await talk.say(m.EvidenceReady(id=asked.id, evidence=bare, is_last=False))
        pane = talk.bench.pane("evidence")
        assert (pane.shown.answer, pane.shown.late) == (bare, False)
        await talk.say(m.Status(id=asked.id, text="reading the contexts"))
        assert (pane.shown.answer, pane.shown.late) == (bare, False)
        await talk.say(m.EvidenceReady(id=asked.id, evidence=whole))
        assert pane.shown.answer == whole
        assert talk.asked(m.ComputeEvidence) == [asked]

    talk(act, LastVisit(layer=0, feature=1, known=known(0)))
