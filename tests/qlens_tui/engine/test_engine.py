"""The real engine in its own process: its answers, start, interruptions and end."""

import io
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lens_core.config import load_config
from lens_core.dictionaries.feature_dictionary import read_function
from lens_core.directories import results_dir
from lens_core.evidence_report import AFTER, BEFORE
from lens_core.neighbours import neighbours
from lens_core.session import open_session
from lens_core.storage.results import ResultCache
from qlens_tui.engine import messages as m
from qlens_tui.engine.client import COMMAND, Engine
from qlens_tui.engine.handlers import LONGEST
from qlens_tui.engine.kept_sessions import KeptEvents
from qlens_tui.engine.process import Worker
from qlens_tui.engine.scheduler import Desk
from qlens_tui.engine.wire import LARGEST_FRAME, messages_of, write_message
from tests.qlens_tui.workplace import D_VOCAB, HOSTILE, N_LAYERS, Workplace, make_workplace
from tests.waiting import PATIENCE, gone, until

LAYER, FEATURE = 1, 3
# One sample at a time makes a build of many short slices.
SLOW = """
[model]
name = "./model"
[dictionary]
kind = "neurons"
[reference]
source = "text:long.txt"
samples = 24
length = 20
[lens]
k = 5
[compute]
device = "cpu"
batch = 1
"""


UNIT_PASSES = 16 * 12  # rows of the model's width, samples of a half


def brought(event: m.Event) -> Any:
    """The core's answer that an event carries; the event itself where it carries none."""
    rest = [f.name for f in fields(event) if f.name not in ("id", "is_last")]
    return getattr(event, rest[0]) if rest in PAYLOADS else event


PAYLOADS = [
    ["session"], ["layer"], ["signature"], ["paths"], ["evidence"], ["found"], ["prompt"],
    ["sample"],
]  # fmt: skip


class Client:
    """An engine and its events."""

    def __init__(self) -> None:
        self.told: queue.SimpleQueue[m.Event] = queue.SimpleQueue()
        self.engine = Engine(self.told.put)
        self.engine.start()

    def send(self, request: m.Request) -> int:
        return self.engine.send(request)

    def until(self, *kinds: type[m.Event], about: int | None = None) -> m.Event:
        """The next event of these kinds; what comes before is skipped, as are first stages."""
        end = time.monotonic() + PATIENCE
        while True:
            event = self.told.get(timeout=max(0.01, end - time.monotonic()))
            is_last = getattr(event, "is_last", True)
            if isinstance(event, kinds) and about in (None, event.id) and is_last:
                return event

    def ask(self, request: m.Request) -> Any:
        """The answer to a request: the event, or the core's object in it."""
        wanted = self.send(request)
        while True:
            event = self.until(m.Event, about=wanted)
            if not isinstance(event, m.Status | m.Notice):
                return brought(event)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Iterator[Workplace]:
    made = make_workplace(tmp_path_factory.mktemp("engine"))
    made.write("slow.toml", SLOW)
    made.write("long.txt", "So much depends upon a red wheel barrow glazed with rain water. " * 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QLENS_CACHE_DIR", str(made.cache))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield made


@pytest.fixture(scope="module")
def client(workplace) -> Iterator[Client]:
    """With a process that has imported torch, which is what takes the time."""
    made = Client()
    yield made
    made.engine.close()


@pytest.fixture
def opened(client, workplace) -> Client:
    ready = client.ask(m.Open(config=workplace.config, offline=True))
    assert isinstance(ready, m.SessionFacts), ready
    return client


@pytest.fixture
def session(workplace):
    return open_session(load_config(workplace.config), offline=True)


@pytest.fixture
def quick(workplace) -> Iterator[Client]:
    """A process of its own, for tests that need no torch."""
    made = Client()
    yield made
    made.engine.close()


def refused(client: Client, config: str) -> str:
    failed = client.ask(m.Open(config=config))
    assert isinstance(failed, m.Failed), failed
    assert not failed.defect
    assert "\n" not in failed.text
    return failed.text


def test_it_says_something_long_before_torch_is_there(quick):
    first = quick.until(m.Status)
    assert first.text == "starting"


def test_a_session_opens_and_says_what_it_is(client, workplace, session):
    asked = client.send(m.Open(config=workplace.config, offline=True, overrides={"k": 7}))
    steps = []
    while not isinstance(event := client.until(m.Status, m.Ready, about=asked), m.Ready):
        steps.append(event.text)
    found = event.session
    assert "importing torch and transformers" in steps
    assert (found.k, found.layers, found.d_vocab) == (7, tuple(range(N_LAYERS)), D_VOCAB)
    assert found.blocks[:3] == ("attn.0", "mlp.0", "attn.1")
    assert found.model_fingerprint == session.model.fingerprint
    assert found.reference.sha256 == session.reference.sha256
    assert found.reference.n_tokens == 80
    assert found.cache == str(workplace.cache)


def test_a_layer_is_described_when_asked_for(opened, session):
    dictionary = session.lens.dictionary(LAYER)
    found = opened.ask(m.DescribeLayer(layer=LAYER))
    assert (found.sha256, found.n_features) == (dictionary.sha256, dictionary.n_features)
    assert found.value_blocks == (dictionary.write_site, 2 * N_LAYERS)
    assert found.key_blocks == (0, dictionary.read_site)
    asked = opened.send(m.DescribeLayers())
    rest = {opened.until(m.LayerReady, about=asked).layer.layer for _ in range(N_LAYERS - 1)}
    opened.until(m.Done, about=asked)
    assert rest == set(range(N_LAYERS)) - {LAYER}


@pytest.mark.parametrize(
    "settings",
    [
        m.Settings(),
        m.Settings(off=frozenset({4})),
        m.Settings(transition="first-order", off=frozenset({0, 5})),
    ],
)
def test_a_signature_is_the_lens_s(opened, session, settings):
    expected = session.lens.signature(LAYER, FEATURE, settings, length=LONGEST, bottom=True)
    found = opened.ask(m.ComputeSignature(layer=LAYER, feature=FEATURE, settings=settings))
    assert (found.method, found.settings, found.n_tokens) == (expected.method, settings, 80)
    for side in ("value", "key"):
        ours, theirs = found.side(side), expected.side(side)
        assert ours.transported_norm == pytest.approx(theirs.transported_norm)
        for end in ("top", "bottom"):
            for lens, other in getattr(theirs, end).items():
                one = getattr(ours, end)[lens]
                assert (one.ids, one.tokens, one.moved) == (other.ids, other.tokens, other.moved)
                assert one.scores == pytest.approx(other.scores, rel=1e-5, abs=1e-6)


def test_an_answer_is_on_disk_once_it_was_told(opened, workplace, session):
    asked = m.ComputeEvidence(layer=LAYER, feature=FEATURE)
    given = opened.ask(asked)
    of = session.content, session.lens.dictionary(LAYER).sha256
    kept = KeptEvents(ResultCache(results_dir(workplace.cache)))

    def last() -> m.Event | None:
        found = kept.answer(asked, *of)  # its stages are kept one after another
        return found if isinstance(found, m.EvidenceReady) and found.is_last else None

    assert until(last, "the answer is kept") == m.EvidenceReady(evidence=given)


def test_paths_are_the_lens_s(opened, session):
    split, rows = session.lens.paths("key", LAYER, FEATURE)
    found = opened.ask(m.ComputePaths(layer=LAYER, feature=FEATURE, side="key"))
    assert (found.split, [row.block for row in found.rows]) == (split, [r.block for r in rows])
    assert [row.share for row in found.rows] == pytest.approx([r.share for r in rows], rel=1e-4)


def test_evidence_is_where_the_feature_fires_and_what_is_like_it(opened, session):
    activity = session.lens.activity(LAYER)
    dictionary = session.lens.dictionary(LAYER)
    found = opened.ask(m.ComputeEvidence(layer=LAYER, feature=FEATURE, contexts=4, neighbours=3))
    assert found.density == pytest.approx(float(activity.density[FEATURE]))
    assert found.silent == (found.density == 0)
    for context in found.contexts:
        tokens = session.reference.tokens[context.sample]
        texts = session.lens.vocabulary.texts(tokens.tolist())
        at = context.position
        assert context.token == texts[at]
        assert context.token_id == int(tokens[at])
        assert "".join(context.before) == "".join(texts[max(0, at - BEFORE) : at])
        assert list(context.after) == texts[at + 1 : at + 1 + AFTER]
    strongest = [context.activation for context in found.contexts]
    assert strongest == sorted(strongest, reverse=True)
    for side in ("key", "value"):
        near = getattr(found, f"by_{side}")
        ids, cosines = neighbours(dictionary, FEATURE, side, 3)
        assert [each.feature for each in near] == ids.tolist()
        assert [each.cosine for each in near] == pytest.approx(cosines.tolist(), rel=1e-4)


def test_contexts_come_first_and_then_the_activations_around_them(opened, session):
    asked = opened.send(m.ComputeEvidence(layer=LAYER, feature=FEATURE, contexts=1))
    stages: list[m.EvidenceReady] = []
    while not stages or not stages[-1].is_last:
        event = opened.told.get(timeout=PATIENCE)
        if isinstance(event, m.EvidenceReady) and event.id == asked:
            stages.append(event)
    first, last = stages
    assert (first.is_last, last.is_last) == (False, True)
    assert len(first.evidence.contexts) == 1
    assert any(first.evidence.quarters)
    assert not any(each.activations for each in first.evidence.every_context)

    for context in last.evidence.every_context:
        sample = opened.ask(
            m.ReadSample(
                layer=LAYER, feature=FEATURE, text=last.evidence.text.sha256, sample=context.sample
            )
        )
        tokens = session.reference.tokens[context.sample].tolist()
        assert sample.ids == tuple(tokens)
        assert sample.tokens == tuple(session.lens.vocabulary.texts(tokens))
        start = context.position - len(context.before)
        part = slice(start, start + len(context.tokens))
        assert sample.tokens[part] == context.tokens
        assert sample.activations[part] == pytest.approx(context.activations, rel=1e-4, abs=1e-5)
        assert max(sample.activations) == pytest.approx(context.activation, rel=1e-4)
        assert sample.activations[context.position] == max(sample.activations)


@pytest.mark.parametrize(
    ("text", "sample", "said"),
    [("0" * 64, 0, "no longer in the cache"), ("", 99, "sample 99 is out of range")],
)
def test_a_sample_that_is_not_there_is_one_line(opened, session, text, sample, said):
    text = text or session.reference.sha256
    failed = opened.ask(m.ReadSample(layer=LAYER, feature=FEATURE, text=text, sample=sample))
    assert isinstance(failed, m.Failed)
    assert said in failed.text
    assert not failed.defect


def test_every_token_of_a_hostile_vocabulary_arrives_as_it_is(opened, session):
    found = opened.ask(m.ReadVocabulary())
    assert list(found.tokens) == session.lens.vocabulary.texts(list(range(D_VOCAB)))
    assert set(HOSTILE) <= set(found.tokens)


PROMPTS = ("noise, said the river", *HOSTILE, "\x00\x1b[2J\x9d", "\u202e\u2066", "[/", " ")


@pytest.mark.parametrize("text", PROMPTS)
def test_what_fires_on_a_text_is_what_the_dictionary_encodes(opened, session, text):
    found = opened.ask(m.ReadPrompt(layer=LAYER, text=text, feature=FEATURE, n=6))
    ids = session.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    dictionary = session.lens.dictionary(LAYER)
    stream = session.model.sites(torch.tensor([ids]))[dictionary.read_site][0]
    expected = dictionary.encode(read_function(dictionary, session.model)(stream))

    assert (found.text, found.ids, found.bos) == (text, tuple(ids), False)
    assert list(found.tokens) == session.lens.vocabulary.texts(ids)
    assert found.activations == pytest.approx(expected[:, FEATURE].tolist(), rel=1e-4, abs=1e-5)
    for firing, row in zip(found.strongest, expected, strict=True):
        best = sorted((each for each in row.tolist() if each > 0), reverse=True)[:6]
        assert firing.activations == pytest.approx(best, rel=1e-4, abs=1e-5)
        there = [float(row[feature]) for feature in firing.features]
        assert there == pytest.approx(best, rel=1e-4, abs=1e-5)


def test_a_text_is_read_behind_the_token_that_begins_the_reference(client, workplace):
    config = Path(workplace.config).read_text().replace("samples", "prepend_bos = true\nsamples")
    begun = workplace.write("bos.toml", config)
    assert isinstance(client.ask(m.Open(config=begun, offline=True)), m.SessionFacts)
    found = client.ask(m.ReadPrompt(layer=LAYER, text="ab"))
    assert (found.bos, found.tokens) == (True, ("<|end|>", "a", "b"))
    assert found.activations is None


def test_what_needs_operators_says_how_to_get_them(client, workplace):
    bare = workplace.write("bare.toml", Path(workplace.config).read_text().replace("20", "19"))
    assert isinstance(client.ask(m.Open(config=bare, offline=True)), m.SessionFacts)
    for request in (m.Search(query=m.TokenQuery((5,))), m.Tabulate(layer=LAYER)):
        failed = client.ask(request)
        assert isinstance(failed, m.Failed)
        assert "qlens build" in failed.text
    plain = client.ask(m.Search(query=m.TokenQuery((5,)), lens="logit", n=2))
    assert [hit.query_score for hit in plain.hits] == [None, None]


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (m.ComputeSignature(layer=99, feature=0), "no dictionary for layer 99"),
        (m.ComputeSignature(layer=0, feature=10**9), "out of range"),
        (
            m.ComputeSignature(layer=0, feature=0, settings=m.Settings(off=frozenset({99}))),
            "no block 99",
        ),
        (m.ReadPrompt(layer=99, text="a"), "no dictionary for layer 99"),
        (m.ReadPrompt(layer=0, text="a", feature=10**9), "out of range"),
        (m.ReadPrompt(layer=0, text=""), "no tokens"),
        (m.ReadPrompt(layer=0, text="a\udc80"), "half of one"),
        (m.ReadPrompt(layer=0, text="a" * 65), "65 tokens and .* reads 64 at most: shorten it"),
        (
            m.Search(query=m.TokenQuery((-1,)), lens="logit"),
            "token id -1 is outside the vocabulary",
        ),
    ],
)
def test_a_mistake_is_one_line_and_no_defect(opened, request_, complaint):
    failed = opened.ask(request_)
    assert isinstance(failed, m.Failed)
    assert re.search(complaint, failed.text)
    assert "\n" not in failed.text
    assert not failed.defect


def test_of_requests_for_one_pane_only_the_newest_is_answered(client, workplace):
    """Send requests while a session is opened, so that dropping does not depend on speed."""
    client.send(m.Open(config=workplace.config, offline=True))
    asked = [client.send(m.ComputeSignature(layer=LAYER, feature=i)) for i in range(8)]
    dropped = [client.until(m.Dropped, m.SignatureReady).id for _ in asked[:-1]]
    assert dropped == asked[:-1]
    last = client.until(m.SignatureReady, m.Dropped)
    assert (last.id, last.signature.feature) == (asked[-1], 7)


def test_what_needs_walks_arrives_in_stages_the_last_of_which_is_the_answer(client, workplace):
    session = client.ask(m.Open(config=workplace.config, offline=True))
    switched = m.Settings(off=frozenset({1}), method="direct")
    for request, kind in (
        (m.ComputeSignature(layer=LAYER, feature=9, settings=switched), m.SignatureReady),
        (m.ComputePaths(layer=LAYER, feature=9, side="value", settings=switched), m.PathsReady),
    ):
        number, stages = client.send(request), []
        while not stages or not stages[-1].is_last:
            event = client.told.get(timeout=PATIENCE)
            if isinstance(event, kind) and event.id == number:
                stages.append(event)
            else:
                assert isinstance(event, m.Status), event
        found = [each.signature if kind is m.SignatureReady else each.paths for each in stages]
        counted = [each.n_tokens for each in found]
        assert counted == sorted(set(counted))
        assert len(counted) == 3
        assert counted[-1] == session.reference.n_tokens
        assert {each.settings for each in found} == {switched}
        if kind is m.SignatureReady:
            assert [each.value.overlap is None for each in found] == [True, False, False]
            assert all(0 <= each.value.overlap <= 1 for each in found[1:])
    at_once = client.send(m.ComputeSignature(layer=LAYER, feature=9, settings=switched))
    event = client.told.get(timeout=PATIENCE)  # from the result cache
    assert (event.id, event.is_last) == (at_once, True)


def test_after_a_switch_paths_have_shares_before_the_lists_are_over_all_tokens(client, workplace):
    # Sent while a session is opened, so that the order does not depend on speed.
    client.send(m.Open(config=workplace.config, offline=True))
    switched = m.Settings(off=frozenset({1}), method="direct")
    feature = {"layer": LAYER, "feature": 8, "settings": switched}
    asked = {client.send(m.ComputeSignature(**feature)): "lists"}
    asked |= {client.send(m.ComputePaths(**feature, side=side)): side for side in ("value", "key")}
    told = []
    while len(told) < 9:
        event = client.told.get(timeout=PATIENCE)
        if isinstance(event, m.SignatureReady | m.PathsReady):
            told.append((asked[event.id], event.is_last))
    assert told[0] == ("lists", False)
    assert told.index(("value", False)) < told.index(("lists", True))
    assert told.index(("key", False)) < told.index(("lists", True))
    assert sum(is_last for _, is_last in told) == 3


def test_a_build_gives_way_to_a_key_press_can_be_stopped_and_goes_on(client, workplace):
    assert isinstance(client.ask(m.Open(config=workplace.folder.joinpath("slow.toml").as_posix(),
                                        offline=True)), m.SessionFacts)  # fmt: skip
    plan = client.ask(m.PlanBuild()).plan
    assert plan.passes > plan.passes_done == 0
    assert plan.seconds > 0
    assert plan.bytes_while_building > plan.bytes_on_disk > 0
    assert not list(workplace.cache.glob("operators/*/units/*"))  # nothing was begun
    build = client.send(m.Build())
    while client.until(m.Status, about=build).done < UNIT_PASSES + 10:
        pass
    sign = client.send(
        m.ComputeSignature(layer=LAYER, feature=FEATURE, settings=m.Settings(method="direct"))
    )
    before = client.until(m.SignatureReady, m.Built)
    assert before.id == sign
    client.send(m.Cancel(target=build))
    assert client.until(m.Cancelled, m.Built).id == build

    units = list(workplace.cache.glob("operators/*/units/*.safetensors"))
    assert units
    begun = client.ask(m.PlanBuild()).plan
    assert begun.passes_done > 0
    assert begun.passes == plan.passes
    again = client.ask(m.Build())
    assert isinstance(again, m.Built), again
    by_operators = client.ask(m.ComputeSignature(layer=LAYER, feature=FEATURE))
    assert (by_operators.method, by_operators.operators) == ("operator", "built")
    assert by_operators.value.top.query_lens.ids == before.signature.value.top.query_lens.ids

    atlas = client.ask(m.Tabulate(layer=LAYER))
    assert isinstance(atlas, m.AtlasReady), atlas
    assert client.ask(m.DescribeLayer(layer=LAYER)).atlas == atlas.directory
    hits = client.ask(m.Search(query=m.TokenQuery((5,)), n=4)).hits
    assert len(hits) == 4
    assert [hit.rank for hit in hits] == sorted(hit.rank for hit in hits)
    best = client.ask(m.ComputeSignature(layer=hits[0].layer, feature=hits[0].feature))
    scores = dict(zip(best.value.top.query_lens.ids, best.value.top.query_lens.scores, strict=True))
    assert scores[5] == pytest.approx(hits[0].score, rel=1e-4)
    assert {hit.query_score for hit in hits} == {None}
    by_query = {
        (hit.layer, hit.feature): hit for hit in client.ask(m.Search(query=m.TokenQuery((5,)))).hits
    }
    for hit in client.ask(m.Search(query=m.TokenQuery((5,)), lens="logit", n=4)).hits:
        assert hit.score == hit.logit_score
        queried = by_query[hit.layer, hit.feature].score
        assert hit.query_score == pytest.approx(queried, rel=1e-4, abs=1e-6)


def test_an_idle_engine_gives_the_model_back_and_whoever_asks_next_waits_for_it(client, workplace):
    text = Path(workplace.config).read_text()
    brief = workplace.write(
        "brief.toml", text.replace("[compute]", "[compute]\nrelease_after=4e-3")
    )
    assert isinstance(client.ask(m.Open(config=brief, offline=True)), m.SessionFacts)
    before = client.ask(m.ComputeSignature(layer=LAYER, feature=FEATURE))
    client.until(m.Released)
    asked = client.send(m.ComputeSignature(layer=LAYER, feature=FEATURE))
    assert "loading the model again" in client.until(m.Status, m.SignatureReady, about=asked).text
    again = client.until(m.SignatureReady, m.Failed, about=asked)
    assert again.signature.value.top.query_lens.ids == before.value.top.query_lens.ids
    client.until(m.Released)

    Path(brief).write_text(text.replace("length = 20", "length = 18"))
    failed = client.ask(m.ComputeSignature(layer=LAYER, feature=FEATURE))
    assert isinstance(failed, m.Failed)
    assert "[reference] of brief.toml changed" in failed.text
    assert isinstance(client.ask(m.Open(config=brief, offline=True)), m.SessionFacts)


def test_a_bad_configuration_is_one_line_and_the_engine_lives_on(quick, workplace):
    assert "no such file" in refused(quick, workplace.config + "x.toml")
    wrong = workplace.write("wrong.toml", Path(workplace.config).read_text() + "\n[lenses]\n")
    assert "[lens]" in refused(quick, wrong)
    assert isinstance(quick.ask(m.ComputeSignature(layer=0, feature=0)), m.Failed)


def test_an_interrupt_at_the_terminal_does_not_reach_it(quick):
    quick.until(m.Status)
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(quick.engine.pid, number)
    assert "no such file" in refused(quick, "/nowhere.toml")
    assert os.getsid(quick.engine.pid) != os.getsid(0)


def test_a_killed_engine_is_reported_and_another_takes_its_place(quick):
    quick.until(m.Status)
    os.kill(quick.engine.pid, signal.SIGKILL)
    assert "SIGKILL" in quick.until(m.Died).text
    assert quick.engine.pid is None
    unanswered = quick.send(m.Build())
    quick.engine.start()
    assert "no such file" in refused(quick, "/nowhere.toml")
    assert quick.send(m.Build()) > unanswered


def test_closing_leaves_no_process_no_thread_and_says_nothing(workplace):
    threads = set(threading.enumerate())
    client = Client()
    client.until(m.Status)
    process = psutil.Process(client.engine.pid)
    client.engine.close()
    assert not process.is_running()
    until(lambda: set(threading.enumerate()) == threads, "no thread is left")
    assert client.told.empty()


def test_closing_while_something_is_served_ends_the_work_and_is_no_crash(monkeypatch):
    desk, told = Desk(), []
    worker = Worker(desk, told.append)

    def answer(request):
        desk.close()
        worker.tick("building", 0, 9)
        pytest.fail("it went on")

    monkeypatch.setattr(worker._answers, "to", answer)
    desk.put(m.Build(id=1))
    worker.run()
    assert not told


def customised(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run `code` in place of reading a configuration's text, in every Python started from here."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    program = (
        f"import tomllib\ntruth = tomllib.loads\ndef loads(text):\n{lines}tomllib.loads = loads\n"
    )
    (folder / "sitecustomize.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_what_a_library_prints_goes_to_the_log_and_not_between_frames(
    workplace, tmp_path, monkeypatch
):
    code = (
        "import os, sys\n"
        "print('noise from python', flush=True)\n"
        "os.write(1, b'noise from C')\n"
        "os.system('echo noise from a child; cat')\n"
        "return {}"
    )
    customised(tmp_path, monkeypatch, code)
    client = Client()
    try:
        assert "[model]" in refused(client, workplace.config)
        log = client.engine.log.read_text()
        assert all(f"noise from {who}" in log for who in ("python", "C", "a child"))
    finally:
        client.engine.close()


def test_a_defect_is_told_in_a_line_and_traced_in_the_log(workplace, tmp_path, monkeypatch):
    customised(tmp_path, monkeypatch, "raise RuntimeError('one\\ntwo')")
    client = Client()
    try:
        failed = client.ask(m.Open(config=workplace.config))
        assert (failed.text, failed.defect) == ("RuntimeError: one two", True)
        assert "Traceback" in client.engine.log.read_text()
        assert isinstance(client.ask(m.Open(config=workplace.config)), m.Failed)
    finally:
        client.engine.close()


# Who locks a lock twice waits for ever, in C, without Python's lock, woken by no signal: as in
# the middle of the longest of products.
ENDLESS = """
import ctypes, pathlib
lock, taken = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
lock(taken)
pathlib.Path({marker!r}).touch()
lock(taken)
"""
APP = """
import sys, time
from qlens_tui.engine.client import Engine
from qlens_tui.engine.messages import Open
engine = Engine(lambda event: None)
engine.start()
engine.send(Open(config=sys.argv[1]))
print(engine.pid, flush=True)
time.sleep(600)
"""


def test_after_the_app_is_killed_the_engine_ends_in_the_middle_of_a_call_into_c(
    workplace, tmp_path, monkeypatch
):
    marker = tmp_path / "computing"
    customised(tmp_path, monkeypatch, ENDLESS.format(marker=str(marker)))
    app = subprocess.Popen([sys.executable, "-c", APP, workplace.config], stdout=subprocess.PIPE)
    engine = psutil.Process(int(app.stdout.readline()))
    until(marker.exists, "the engine is in the call", app)
    assert engine.is_running()
    app.kill()
    app.wait()
    app.stdout.close()
    assert gone(engine)


def test_closing_does_not_wait_for_a_call_that_does_not_end(workplace, tmp_path, monkeypatch):
    marker = tmp_path / "computing"
    customised(tmp_path, monkeypatch, ENDLESS.format(marker=str(marker)))
    client = Client()
    client.send(m.Open(config=workplace.config))
    until(marker.exists, "the engine is in the call")
    process = psutil.Process(client.engine.pid)
    closing = threading.Thread(target=client.engine.close, kwargs={"patience": 0.5}, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert not process.is_running()


def test_a_garbled_frame_is_answered_and_a_lost_stream_ends_the_engine(workplace):
    garbled = b"[1, 2"
    frames = io.BytesIO()
    frames.write(len(garbled).to_bytes(4, "big") + garbled)
    write_message(frames, m.ComputeSignature(id=5, layer=0, feature=0))
    frames.write((LARGEST_FRAME + 1).to_bytes(4, "big") + b"x" * 100)
    ran = subprocess.run(COMMAND, input=frames.getvalue(), capture_output=True, timeout=PATIENCE)
    started, *told = messages_of(io.BytesIO(ran.stdout), m.Event)
    texts = [event.text for event in told if isinstance(event, m.Failed)]
    assert isinstance(started, m.Status)
    assert "not JSON" in texts[0]
    assert any("not a valid length" in text for text in texts)
    assert ran.returncode == 3


def test_an_engine_that_writes_nonsense_is_ended_and_reported(workplace, monkeypatch):
    program = (
        "import sys, time; sys.stdout.write('hello, world'); sys.stdout.flush(); time.sleep(99)"
    )
    monkeypatch.setattr("qlens_tui.engine.client.COMMAND", (sys.executable, "-c", program))
    client = Client()
    assert "invalid data" in client.until(m.Died).text
    assert client.engine.pid is None
    client.engine.close()
