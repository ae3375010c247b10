"""What an engine answered is found again without a model, and only for the same content."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lens_core.contexts.collect import collect_contexts
from lens_core.directories import results_dir
from lens_core.inputs import inputs_of
from lens_core.reference import ReferenceSample
from lens_core.storage.maintenance import cache_verify
from qlens_tui.engine import messages as m
from qlens_tui.engine.handlers import Answers
from qlens_tui.engine.kept_sessions import KeptSession, kept_session
from tests.qlens_tui.workplace import CONFIG, Workplace, make_workplace

LAYER, FEATURE = 1, 3
LONG_AGO = time.time() - 1000
OFF = m.Settings(off=frozenset({4}))
QUESTIONS: list[m.Request] = [
    m.ComputeSignature(layer=LAYER, feature=FEATURE),
    m.ComputeSignature(layer=LAYER, feature=FEATURE, settings=OFF),
    m.ComputeComparison(layer=LAYER, feature=FEATURE, settings=OFF),
    m.ComputePaths(layer=LAYER, feature=FEATURE, side="value"),
    m.ComputePaths(layer=LAYER, feature=FEATURE, side="key"),
    m.ComputePaths(layer=LAYER, feature=FEATURE, side="key", split="last-writer"),
    m.ComputeBlockTokens(layer=LAYER, feature=FEATURE, side="value", block=5),
    m.ComputeEvidence(layer=LAYER, feature=FEATURE),
    m.ComputeCosines(layer=LAYER, feature=FEATURE, other_layer=LAYER, other_feature=5),
]
LISTS = QUESTIONS[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("kept"))


@pytest.fixture(autouse=True)
def models_are_loaded_once():
    """Not here: files change, and their times do not."""


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Workplace:
    """Files of its own, to be changed, and written long ago."""
    folder = tmp_path / "place"
    shutil.copytree(made.folder, folder)
    age(folder)
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path / "cache"))
    return Workplace(folder)


def age(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


class Engine:
    """The handlers, and the events that they sent."""

    def __init__(self, config: str, **overrides: str | int) -> None:
        self.told: list[m.Event] = []
        self.answers = Answers(self.told.append, lambda *_: None)
        self.ready = self.ask(m.Open(config=config, offline=True, overrides=overrides))
        self.ask(m.DescribeLayer(layer=LAYER))

    def ask(self, request: m.Request) -> m.Event:
        """The last answer, after all stages; each is kept."""
        event = self.answers.to(request)
        self.answers.keep(request, event)
        later = m.next_stage(request, event)
        return event if later is None else self.ask(later)


def kept(place: Workplace, **overrides: str | int) -> KeptSession | None:
    return kept_session(m.Open(config=place.config, offline=True, overrides=overrides))


def test_every_answer_is_found_again_as_it_was_given(place):
    engine = Engine(place.config)
    given = [engine.ask(question) for question in QUESTIONS]
    found = kept(place)
    assert found.facts == engine.ready.session
    assert found.layers[LAYER].sha256 == engine.answers._session.lens.dictionary(LAYER).sha256
    assert [found.answer(question) for question in QUESTIONS] == given


def test_it_is_what_a_fresh_engine_answers(place, monkeypatch, tmp_path):
    for question in QUESTIONS:
        Engine(place.config).ask(question)
    found = kept(place)
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path / "other"))
    assert kept(place) is None
    fresh = Engine(place.config)
    assert fresh.ready.session.content == found.facts.content
    for question in QUESTIONS:
        assert found.answer(question) == fresh.ask(question)


def test_what_was_not_asked_is_not_found(place):
    Engine(place.config).ask(LISTS)
    found = kept(place)
    for other in (
        *QUESTIONS[1:],
        replace(LISTS, feature=FEATURE + 1),
        replace(LISTS, layer=0),
        replace(LISTS, settings=m.Settings(transition="first-order")),
        m.Search(query=m.TokenQuery((1,))),
    ):
        assert found.answer(other) is None


def test_no_torch_is_needed_to_find_it(place):
    Engine(place.config).ask(LISTS)
    program = f"""
import sys
from qlens_tui.engine.kept_sessions import kept_session
from qlens_tui.engine.messages import ComputeSignature, Open
found = kept_session(Open(config={place.config!r}, offline=True))
print(found.answer(ComputeSignature(layer={LAYER}, feature={FEATURE})).signature.feature)
print("torch" in sys.modules, "transformers" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.split() == [str(FEATURE), "False", "False"], run.stderr


def other_weights(place: Workplace) -> None:
    """In place, and with the old time of modification."""
    file = place.folder / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 0x01
    file.write_bytes(content)


def other_tokenizer(place: Workplace) -> None:
    file = place.folder / "model" / "tokenizer.json"
    found = json.loads(file.read_text("utf-8"))
    vocabulary = found["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    file.write_text(json.dumps(found))


def other_text(place: Workplace) -> None:
    file = place.folder / "reference.txt"
    file.write_text(file.read_text()[::-1])


def other_k(place: Workplace) -> None:
    Path(place.config).write_text(CONFIG.replace("k = 5", "k = 9"))


CHANGES = [other_weights, other_tokenizer, other_text, other_k]


@pytest.mark.parametrize("change", CHANGES)
def test_of_other_content_nothing_is_found_before_or_after_it_is_opened(place, change):
    Engine(place.config).ask(LISTS)
    content = kept(place).facts.content
    change(place)
    age(place.folder)
    assert kept(place) is None
    other = Engine(place.config)
    assert other.ready.session.content != content
    found = kept(place)
    assert found.answer(LISTS) is None
    assert found.answer(QUESTIONS[3]) is None
    given = other.ask(LISTS)
    assert found.answer(LISTS) == given


def test_an_override_is_another_session(place):
    Engine(place.config).ask(LISTS)
    assert kept(place, k=9) is None
    Engine(place.config, k=9)
    assert kept(place, k=9).answer(LISTS) is None
    assert kept(place).answer(LISTS) is not None


def test_a_copy_of_the_same_content_finds_what_was_answered_once_it_was_opened(place, tmp_path):
    given = Engine(place.config).ask(LISTS)
    shutil.copytree(place.folder, tmp_path / "copy")
    age(tmp_path / "copy")
    copy = Workplace(tmp_path / "copy")
    assert kept(copy) is None
    Engine(copy.config)
    assert kept(copy).answer(LISTS) == given


@pytest.mark.parametrize(
    ("what", "now"),
    [
        ("lens_core.inputs.RESULTS_FORMAT", -1),
        ("lens_core.inputs.versions", lambda: {"torch": "0"}),
        ("qlens_tui.engine.kept_sessions._FORMAT", -1),
    ],
)
def test_of_another_format_or_version_nothing_is_found(place, monkeypatch, what, now):
    Engine(place.config).ask(LISTS)
    monkeypatch.setattr(what, now)
    assert kept(place) is None


def test_answers_of_another_format_are_not_those_of_this_one(place, monkeypatch):
    Engine(place.config).ask(LISTS)
    monkeypatch.setattr("lens_core.session.RESULTS_FORMAT", -1)
    Engine(place.config)
    assert kept(place).answer(LISTS) is None


def flipped(entry: bytes) -> bytes:
    return entry[:-60] + bytes([entry[-60] ^ 1]) + entry[-59:]


def cut(entry: bytes) -> bytes:
    return entry[: len(entry) // 2]


@pytest.mark.parametrize("damage", [flipped, cut, lambda _entry: b""])
def test_a_damaged_entry_is_dropped_and_written_again(
    place, tmp_path, damage: Callable[[bytes], bytes]
):
    given = Engine(place.config).ask(LISTS)
    with closing(sqlite3.connect(results_dir(tmp_path / "cache") / "cache.db")) as database:
        rows = database.execute("SELECT rowid, value FROM Cache").fetchall()
        with database:
            for rowid, value in rows:
                database.execute(
                    "UPDATE Cache SET value = ? WHERE rowid = ?",
                    (sqlite3.Binary(damage(bytes(value))), rowid),
                )
    assert kept(place) is None  # the session's own entry is damaged too
    again = Engine(place.config)
    found = kept(place)
    assert found.answer(LISTS) is None
    assert again.ask(LISTS) == given
    assert found.answer(LISTS) == given
    cache_verify(tmp_path / "cache", repair=True)
    assert cache_verify(tmp_path / "cache") == []


def test_a_stage_is_kept_until_more_is_and_never_in_place_of_more(place):
    engine = Engine(place.config)
    settings = m.Settings(method="direct")
    whole = m.ComputePaths(layer=LAYER, feature=FEATURE, side="value", settings=settings)
    ahead = replace(whole, ahead=True)
    first = engine.ask(ahead)
    assert not first.is_last
    found = kept(place)
    assert found.answer(whole) == found.answer(ahead) == first
    last = engine.ask(whole)
    assert last.is_last
    assert found.answer(whole) == last
    assert first.paths.n_tokens < last.paths.n_tokens
    engine.answers.keep(whole, first)
    assert found.answer(whole) == last


def test_contexts_in_a_longer_corpus_take_the_place_of_the_references(place):
    engine = Engine(place.config)
    question = m.ComputeEvidence(layer=LAYER, feature=FEATURE)
    assert engine.ask(question).evidence.text.is_reference
    session = engine.answers._session
    tokens = torch.arange(2000).view(-1, 20) % 97
    collect_contexts(session.lens, ReferenceSample(tokens, "made here"), [LAYER], session.cache)
    longer = engine.ask(question).evidence
    assert (longer.text.origin, longer.is_whole) == ("made here", True)
    assert kept(place).answer(question).evidence == longer
    # What the layer's contexts are found in has changed, which a new engine says.
    before = kept(place).layers[LAYER].text
    engine.ask(m.DescribeLayer(layer=LAYER))
    assert kept(place).layers[LAYER].text == longer.text.sha256 != before


@pytest.mark.parametrize("after", [1, 2])
def test_the_last_stage_is_there_although_the_engine_was_stopped_in_the_next(place, after):
    engine = Engine(place.config)
    settings = m.Settings(method="direct")
    asked = m.ComputeSignature(layer=LAYER, feature=FEATURE, settings=settings)

    for stage in range(after):
        asked = replace(asked, stage=stage)
        last = engine.answers.to(asked)
        engine.answers.keep(asked, last)
    found = kept(place).answer(asked)
    assert (found.signature, found.is_last) == (last.signature, False)


def test_files_written_as_they_were_read_are_not_trusted(place):
    (place.folder / "reference.txt").touch()
    given = Engine(place.config).ask(LISTS)
    assert kept(place) is None
    age(place.folder)
    assert kept(place) is None
    Engine(place.config)
    assert kept(place).answer(LISTS) == given


def test_a_change_while_the_model_is_loaded_is_not_noted_as_what_was_read(place, monkeypatch):
    from qlens_tui.engine import session

    prepare = session.prepare_libraries

    def meanwhile(**how):
        # After the files were looked at, and before they are read.
        prepare(**how)
        monkeypatch.setattr(session, "inputs_of", changing)

    def changing(config):
        found = inputs_of(config)
        other_text(place)
        age(place.folder)
        return found

    inputs_of = session.inputs_of
    monkeypatch.setattr(session, "prepare_libraries", meanwhile)
    Engine(place.config)
    assert kept(place) is None


def test_what_the_hub_s_cache_got_while_the_session_was_open_is_no_change(place, monkeypatch):
    fetched: dict[str, str] = {}

    def with_hub(config):
        found = inputs_of(config)
        return replace(found, hub={**found.hub, **fetched})

    monkeypatch.setattr("qlens_tui.engine.kept_sessions.inputs_of", with_hub)
    engine = Engine(place.config)
    given = engine.ask(LISTS)
    fetched["refs/main"] = "one"
    assert kept(place) is None
    engine.ask(m.DescribeLayer(layer=0))
    found = kept(place)
    assert sorted(found.layers) == [0, LAYER]
    assert found.answer(LISTS) == given
    # What replaced something may have been read, or not.
    fetched["refs/main"] = "other"
    engine.ask(m.DescribeLayer(layer=2))
    assert kept(place) is None


def test_built_operators_are_another_content(place):
    engine = Engine(place.config)
    before = engine.ask(LISTS)
    engine.ask(m.Build())
    found = kept(place)
    assert found.facts.operators == "built"
    assert found.answer(LISTS) is None
    engine.ask(m.DescribeLayer(layer=LAYER))
    found = kept(place)
    assert found.layers[LAYER].operators == "built"
    after = engine.ask(LISTS)
    assert (before.signature.operators, after.signature.operators) == ("none", "built")
    assert found.answer(LISTS) == after


def test_what_cannot_be_opened_is_no_error_here(place):
    assert kept_session(m.Open(config=str(place.folder / "none.toml"))) is None
    Path(place.config).write_text("[model")
    assert kept(place) is None
