"""The session is released when idle, and must be unchanged when it is reopened."""

import gc
import re
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import sae_lens
import torch

from lens_core.errors import LensError, UsageError
from qlens_tui.engine import messages as m
from qlens_tui.engine.handlers import Answers
from tests.qlens_tui.workplace import CONFIG, Workplace, make_workplace

LAYER, FEATURE = 1, 3


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("session"))


@pytest.fixture(autouse=True)
def models_are_loaded_once():
    """Not here: these tests are about what stays in memory."""


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Workplace:
    """Files of its own, to be changed."""
    folder = tmp_path / "place"
    shutil.copytree(made.folder, folder)
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path / "cache"))
    return Workplace(folder)


class Engine:
    """The handlers, and the events that they sent."""

    def __init__(self, config: str) -> None:
        self.told: list[m.Event] = []
        self.answers = Answers(self.told.append, lambda *_: None)
        assert isinstance(self.answers.to(m.Open(config=config, offline=True)), m.Ready)

    def sign(self) -> m.Event:
        """The answer, without its overlap with a stage before, which the cache has not."""
        event = self.answers.to(m.ComputeSignature(id=7, layer=LAYER, feature=FEATURE))
        assert isinstance(event, m.SignatureReady)
        found = event.signature
        value, key = (replace(side, overlap=None) for side in (found.value, found.key))
        return replace(event, signature=replace(found, value=value, key=key))

    def refusal(self) -> str:
        with pytest.raises(LensError) as caught:
            self.sign()
        assert str(caught.value).isprintable()
        return str(caught.value)


def test_what_was_released_is_not_in_memory_and_answers_as_before_once_asked(place):
    engine = Engine(place.config)
    before = engine.sign()
    model = weakref.ref(engine.answers._session.model)
    assert engine.answers.release() == m.Released()
    assert model() is None
    assert engine.answers.idle_seconds is None
    engine.told.clear()
    assert engine.sign() == before
    assert m.Status(id=7, text="loading the model again") in engine.told
    assert engine.answers._session.model is not None


def test_a_request_that_needs_nothing_loaded_loads_nothing_when_it_opens_anew(place):
    engine = Engine(place.config)
    engine.answers.release()
    engine.told.clear()
    other = place.write("other.toml", CONFIG.replace("k = 5", "k = 9"))
    ready = engine.answers.to(m.Open(config=other, offline=True))
    assert ready.session.k == 9
    assert not [event for event in engine.told if "model again" in event.text]


@pytest.mark.parametrize(
    ("release_after", "seconds"), [('"auto"', None), ('"never"', None), ("0.5", 30), ("2", 120)]
)
def test_how_long_an_engine_waits_is_the_configuration_s(place, release_after, seconds):
    written = CONFIG.replace("[compute]", f"[compute]\nrelease_after = {release_after}")
    assert Engine(place.write("tiny.toml", written)).answers.idle_seconds == seconds


def test_settings_that_change_on_the_disk_wait_for_the_next_start(place):
    engine = Engine(place.config)
    before = engine.sign()
    engine.answers.release()
    Path(place.config).write_text(CONFIG.replace("k = 5", "k = 9"))
    assert engine.sign() == before


def changed_toml(place: Workplace) -> None:
    Path(place.config).write_text(CONFIG.replace("samples = 4", "samples = 3"))


def changed_text(place: Workplace) -> None:
    file = place.folder / "reference.txt"
    file.write_text(file.read_text()[::-1])


def changed_weights(place: Workplace) -> None:
    file = place.folder / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-2] ^= 0x01
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (changed_toml, "[reference] of tiny.toml changed"),
        (changed_text, "reference of tiny.toml changed"),
        (changed_weights, "model of tiny.toml changed"),
    ],
)
def test_something_else_than_was_open_is_never_answered_from(place, change, named):
    engine = Engine(place.config)
    engine.answers.release()
    change(place)
    assert named in engine.refusal()
    assert engine.refusal() == engine.refusal()
    with pytest.raises(UsageError, match="no configuration is open"):
        _ = engine.answers._session
    opened = engine.answers.to(m.Open(config=place.config, offline=True))
    assert isinstance(opened, m.Ready)
    assert isinstance(engine.sign(), m.SignatureReady)


def test_weights_that_are_known_to_have_changed_are_not_loaded_for_every_key_press(place):
    engine = Engine(place.config)
    engine.answers.release()
    changed_weights(place)
    engine.refusal()
    engine.told.clear()
    engine.refusal()
    assert engine.told == []


def test_a_configuration_that_is_gone_or_broken_is_a_line_until_it_is_back(place):
    engine = Engine(place.config)
    before = engine.sign()
    engine.answers.release()
    Path(place.config).rename(place.folder / "away.toml")
    assert "no such file" in engine.refusal()
    (place.folder / "away.toml").rename(place.config)
    assert engine.sign() == before


def save_sae(folder: Path, seed: int) -> None:
    config = sae_lens.StandardSAEConfig(
        d_in=16, d_sae=24, dtype="float32",
        metadata=sae_lens.saes.sae.SAEMetadata(
            model_name="gpt2-small", hook_name=f"blocks.{LAYER}.hook_resid_post"
        ),
    )  # fmt: skip
    sae = sae_lens.StandardSAE(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    sae.save_model(folder)


def test_a_dictionary_is_the_one_that_was_read_before_or_refused(place):
    save_sae(place.folder / f"sae{LAYER}", seed=1)
    written = CONFIG.replace(
        'kind = "neurons"',
        f'kind = "sae"\npath = "sae{LAYER}"\nlayers = [{LAYER}]\ntrained_on = "gpt2-small"',
    )
    engine = Engine(place.write("sae.toml", written))
    before = engine.sign()
    engine.answers.release()
    assert engine.sign() == before
    engine.answers.release()
    save_sae(place.folder / f"sae{LAYER}", seed=9)
    assert f"dictionary of layer {LAYER} changed on disk" in engine.refusal()
    with pytest.raises(UsageError, match="changed on disk"):
        engine.answers.to(m.ReadPrompt(layer=LAYER, text="a"))


def test_nothing_is_held_by_a_refusal(place):
    from lens_core.model import ResidualModel

    def models() -> int:
        gc.collect()
        return sum(type(each) is ResidualModel for each in gc.get_objects())

    before = models()  # of other tests
    engine = Engine(place.config)
    assert models() > before
    engine.answers.release()
    changed_text(place)
    engine.refusal()
    assert models() <= before


def test_progress_says_how_much_memory_a_recording_keeps(place):
    said: list[str] = []
    answers = Answers(lambda _event: None, lambda text, *_: said.append(text))
    answers.to(m.Open(config=place.config, offline=True))
    answers.to(m.ComputePaths(layer=LAYER, feature=FEATURE, side="value"))
    assert re.fullmatch(r"reading the reference \(\d+\.\d [KM]iB kept\)", said[-1])
