"""Whether a configuration's files are as they were is told without reading them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from lens_core.config import Config, load_config, with_overrides
from lens_core.inputs import inputs_of

LONG_AGO = time.time() - 1000


def aged(root: Path) -> None:
    """As if the files under `root` had been written long ago."""
    for path in root.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))


def written(folder: Path, dictionary: str = 'kind = "neurons"', model: str = "./model") -> Config:
    file = folder / "some.toml"
    file.write_text(
        f'[model]\nname = "{model}"\n[dictionary]\n{dictionary}\n'
        '[reference]\nsource = "text:reference.txt"\n[compute]\ndevice = "cpu"\n'
    )
    return load_config(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    of_model = ("model/config.json", "model/model.safetensors", "model/tokenizer.json")
    of_sae = ("saes/l3/cfg.json", "saes/l3/sae_weights.safetensors")
    for name in (*of_model, *of_sae, "reference.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'{{"model_type": "{name}"}}')
    aged(tmp_path)
    return tmp_path


SAE = 'kind = "sae"\npath = "saes/l{layer}"'


def test_the_same_files_have_the_same_checksum_and_are_named(folder):
    config = written(folder, SAE)
    one, other = inputs_of(config), inputs_of(config)
    assert one.sha256 == other.sha256
    assert one.still_hold(other)
    assert {str(Path(path).relative_to(folder)) for path in one.files} == {
        "model/config.json", "model/model.safetensors", "model/tokenizer.json", "reference.txt",
        "saes/l3/cfg.json", "saes/l3/sae_weights.safetensors",
    }  # fmt: skip


def in_place(file: Path) -> None:
    """Other content of the same length, and the old time of modification."""
    before = file.stat()
    file.write_text(file.read_text()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(file: Path) -> None:
    other = file.with_suffix(".new")
    shutil.copy2(file, other)
    other.replace(file)


def longer(file: Path) -> None:
    file.write_text(file.read_text() + " ")


@pytest.mark.parametrize("change", [in_place, replaced, longer, Path.unlink])
@pytest.mark.parametrize(
    "name", ["model/model.safetensors", "model/tokenizer.json", "reference.txt",
             "saes/l3/sae_weights.safetensors"],
)  # fmt: skip
def test_any_change_of_a_file_is_seen(folder, name, change: Callable[[Path], None]):
    config = written(folder, SAE)
    before = inputs_of(config)
    change(folder / name)
    now = inputs_of(config)
    assert now.sha256 != before.sha256
    assert not before.still_hold(now)


def test_another_layer_s_folder_is_a_change_for_a_dictionary_of_all_layers(folder):
    config = written(folder, SAE)
    before = inputs_of(config)
    shutil.copytree(folder / "saes/l3", folder / "saes/l4")
    assert inputs_of(config).sha256 != before.sha256


@pytest.mark.parametrize(
    "overrides",
    [{"k": 7}, {"transition": "identity"}, {"dtype": "float64"}, {"layers": (3,)},
     {"reference_tokens": Path("x.json")}],
)  # fmt: skip
def test_what_is_asked_is_part_of_it(folder, overrides):
    config = written(folder, SAE)
    assert inputs_of(with_overrides(config, **overrides)).sha256 != inputs_of(config).sha256


def test_the_device_and_the_batch_are_not(folder):
    config = written(folder)
    other = replace(config, compute=replace(config.compute, device="cuda", batch=3, memory=2))
    assert inputs_of(other).sha256 == inputs_of(config).sha256


@pytest.mark.parametrize(
    ("what", "now"),
    [("RESULTS_FORMAT", -1), ("versions", lambda: {"torch": "0"})],
    ids=["format", "version"],
)
def test_another_format_or_version_is_another_checksum(folder, monkeypatch, what, now):
    inputs = inputs_of(written(folder))
    before = inputs.sha256
    monkeypatch.setattr(f"lens_core.inputs.{what}", now)
    assert inputs.sha256 != before


def test_a_file_written_just_now_might_be_written_again_unseen(folder):
    config = written(folder)
    (folder / "reference.txt").write_text("x")
    inputs = inputs_of(config)
    assert not inputs.still_hold(inputs_of(config))


def test_a_model_that_is_not_there_is_no_error(folder):
    shutil.rmtree(folder / "model")
    assert list(inputs_of(written(folder, SAE.replace("saes", "none"))).files) == [
        str(folder / "reference.txt")
    ]


@pytest.fixture
def hub(folder, monkeypatch) -> Path:
    """A cache of the hub with one model, as its client writes it."""
    cache = folder / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    repository = cache / "models--one--model"
    snapshot = repository / "snapshots" / "c0ffee"
    for part in (snapshot, repository / "blobs", repository / "refs"):
        part.mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    for name in ("config.json", "model.safetensors"):
        blob = repository / "blobs" / f"hash-of-{name}"
        blob.write_text('{"model_type": "llama"}')
        (snapshot / name).symlink_to(blob)
    return cache


def test_files_of_the_hub_are_known_by_their_hash(folder, hub, monkeypatch):
    snapshot = hub / "models--one--model" / "snapshots" / "c0ffee"
    monkeypatch.setattr("lens_core.model_files.cached_snapshot", lambda _config: snapshot)
    config = written(folder, model="one/model")
    before = inputs_of(config)
    assert sorted(before.hub.values()) == ["hash-of-config.json", "hash-of-model.safetensors"]
    (snapshot / "model.safetensors").resolve().touch()
    assert inputs_of(config).sha256 == before.sha256
    (snapshot / "model.safetensors").unlink()
    (hub / "models--one--model" / "blobs" / "other").write_text("{}")
    (snapshot / "model.safetensors").symlink_to(hub / "models--one--model" / "blobs" / "other")
    assert inputs_of(config).sha256 != before.sha256


def test_a_release_is_known_by_the_commit_that_the_hub_s_cache_has(folder, hub):
    commit = hub / "models--one--model" / "refs" / "main"
    config = written(folder, 'kind = "sae"\nrelease = "one/model"\nid = "l{layer}"\nlayers = [1]')
    before = inputs_of(config)
    assert before.hub == {str(commit): "c0ffee"}
    commit.write_text("decade")
    now = inputs_of(config)
    assert now.sha256 != before.sha256
    # The cache got it since: what was read of local files is unchanged.
    assert before.still_hold(now)
