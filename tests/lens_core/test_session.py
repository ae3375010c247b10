"""From a configuration file to answers, on a tiny real model on disk."""

import json
import shutil

import pytest
import torch

from lens_core.config import load_config
from lens_core.errors import SampleError, StoreError
from lens_core.operators.build import assemble, build_operators
from lens_core.operators.plan import plan_build
from lens_core.session import open_session
from tests.models import tiny_hf


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory, word_tokenizer):
    directory = tmp_path_factory.mktemp("model")
    tiny_hf("llama").float().save_pretrained(directory)
    word_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def config_file(model_directory, tmp_path, monkeypatch):
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("QLENS_SHARED_CACHE", raising=False)
    tokens = torch.randint(3, 101, (4, 18), generator=torch.Generator().manual_seed(0))
    (tmp_path / "tokens.json").write_text(json.dumps(tokens.tolist()))
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'[model]\nname = "{model_directory}"\n[dictionary]\nkind = "neurons"\n'
        '[reference]\nsource = "tokens:tokens.json"\n[lens]\nk = 6\n[compute]\ndevice = "cpu"\n'
    )
    return path


def build(session):
    plan = plan_build(session.model, session.model.fingerprint, session.reference)
    build_operators(session.model, session.reference, plan, session.operators_directory)
    assemble(session.operators_directory)


def test_a_configuration_opens_and_answers(config_file):
    said = []
    session = open_session(load_config(config_file), say=said.append)
    signature = session.lens.signature(1, 3, session.settings)
    assert (signature.method, len(signature.value.query_lens.ids)) == ("direct", 6)
    assert said


def test_finished_operators_are_used_from_then_on(config_file):
    build(open_session(load_config(config_file)))
    session = open_session(load_config(config_file))
    assert session.lens.signature(1, 3).method == "operator"


def test_a_colleagues_operators_are_used_read_only(config_file, tmp_path, monkeypatch):
    build(open_session(load_config(config_file)))
    shared = shutil.move(tmp_path / "cache", tmp_path / "shared")
    before = sorted(path for path in shared.rglob("*") if path.is_file())
    monkeypatch.setenv("QLENS_SHARED_CACHE", str(shared))
    session = open_session(load_config(config_file))
    assert session.lens.signature(1, 3).method == "operator"
    assert sorted(path for path in shared.rglob("*") if path.is_file()) == before
    assert not session.operators_directory.exists()


def test_operators_of_other_weights_under_the_same_path_are_not_used(
    config_file, model_directory, tmp_path
):
    copy = shutil.copytree(model_directory, tmp_path / "copy")
    config_file.write_text(config_file.read_text().replace(str(model_directory), str(copy)))
    build(open_session(load_config(config_file)))
    assert open_session(load_config(config_file)).lens.signature(1, 3).method == "operator"
    tiny_hf("llama", seed=1).float().save_pretrained(copy)
    assert open_session(load_config(config_file)).lens.signature(1, 3).method == "direct"


def test_a_token_of_the_reference_that_the_model_lacks_is_a_line(config_file, tmp_path):
    (tmp_path / "tokens.json").write_text("[[5, 101]]")
    with pytest.raises(SampleError, match="101 is not a token id"):
        open_session(load_config(config_file))


def test_a_cache_directory_that_is_a_file_is_a_line(config_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(StoreError) as caught:
        open_session(load_config(config_file))
    assert "\n" not in str(caught.value)


@pytest.mark.hub
def test_a_published_dictionary_opens_from_the_hub(tmp_path, monkeypatch):
    import os

    if os.environ.get("QLENS_TEST_HUB") != "1":
        pytest.skip("set QLENS_TEST_HUB=1 and HF_HUB_OFFLINE=0 where huggingface.co can be reached")
    monkeypatch.setenv("QLENS_CACHE_DIR", str(tmp_path))
    session = open_session(load_config("gpt2-small-32k"))
    assert session.lens.dictionary(8).n_features == 32768
