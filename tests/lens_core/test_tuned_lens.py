"""Tuned Lens: which translator a feature has, and files that are not one of this model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lens_core.config import LensConfig
from lens_core.errors import LensFileError, QlensWarning
from lens_core.instruments import DictionaryShelf
from lens_core.lens import QueryLens
from lens_core.lenses import ON_REQUEST, lens_named
from lens_core.lenses.tuned import TunedLens
from lens_core.tuned_lens import load_translators
from tests.lens_core.fake_hub import COMMIT, TOKEN, hub_error
from tests.lens_core.test_lens import make_lens, of_one
from tests.lens_core.toy_dictionaries import Bomb

TUNED, PUBLISHED = lens_named("tuned"), lens_named("tuned:published")
FEATURE = 7


class Host:
    """A model of three layers, as far as a Tuned Lens can see."""

    name = "some/model"
    n_layers = 3
    d_model = 4
    dtype = torch.float64
    device = torch.device("cpu")
    W_U = torch.linspace(-3, 3, 4 * 50, dtype=torch.float64).view(4, 50)


def parameters(layers: int = 3, d: int = 4, **changes: Any) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    made = {}
    for layer in range(layers):
        made[f"{layer}.weight"] = torch.randn(d, d, generator=draw, dtype=torch.float64) / 4
        made[f"{layer}.bias"] = torch.randn(d, generator=draw, dtype=torch.float64)
    return made | changes


def folder(path: Path, tensors: Any, config: Any = None) -> Path:
    """What tuned-lens saves."""
    path.mkdir(exist_ok=True)
    torch.save(tensors, path / "params.pt")
    if config is not None:
        (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def refused(source: Path | str, **options: Any) -> str:
    with pytest.raises(LensFileError) as caught:
        load_translators(str(source), Host(), **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    assert TOKEN not in message
    return message


@pytest.fixture
def lens(tiny, reference, word_tokenizer, tmp_path):
    """With the translators of `parameters` for this model."""
    save_file(parameters(tiny.n_layers, tiny.d_model), tmp_path / "tuned.safetensors")
    plain = make_lens(tiny, reference, word_tokenizer)
    config = LensConfig(tuned=str(tmp_path / "tuned.safetensors"))
    return QueryLens(plain.carrier, plain.dictionaries, plain.vocabulary, config, k=10)


def test_a_feature_has_the_translator_of_the_layer_that_reads_it(tiny, reference, lens):
    """Against tuned-lens's own formula, `h + Linear(h)` on the hidden states of that number."""
    tokens = reference.tokens[:2]
    hidden = tiny.bridge.original_model(tokens, output_hidden_states=True).hidden_states
    state = parameters(tiny.n_layers, tiny.d_model)
    for layer in range(tiny.n_layers - 1):
        dictionary = lens.dictionary(layer)
        index = layer + 1
        h = tiny.sites(tokens)[dictionary.write_site]
        assert torch.allclose(h, hidden[index], rtol=1e-4, atol=1e-4)
        translator = torch.nn.Linear(tiny.d_model, tiny.d_model, dtype=torch.float64)
        translator.load_state_dict({name: state[f"{index}.{name}"] for name in ("weight", "bias")})
        v = dictionary.values[FEATURE]
        with torch.no_grad():
            moved = (h + v + translator(h + v)) - (h + translator(h))
        scores = tiny.unembed(tiny.final_norm(moved.mean((0, 1)).detach()))
        found = lens.signature(layer, FEATURE, also=[TUNED]).value.top["tuned"]
        assert found.ids == tuple(scores.topk(10).indices.tolist())
        assert found.scores == pytest.approx(scores.topk(10).values.tolist(), rel=1e-4)
        assert found.n_tokens is None


def test_behind_the_last_layer_nothing_is_translated(tiny, lens):
    shown = lens.signature(tiny.n_layers - 1, FEATURE, also=[TUNED, PUBLISHED]).value.top
    assert shown["tuned"].ids == shown["tuned:published"].ids == shown["logit"].ids
    assert shown["tuned"].moved == (0,) * 10


def test_as_published_the_feature_s_own_number_and_the_bias_count(tiny, lens):
    state = parameters(tiny.n_layers, tiny.d_model)
    v = lens.dictionary(0).values[FEATURE]
    carried = v + state["0.weight"] @ v + state["0.bias"]
    scores = tiny.unembed(tiny.final_norm(carried))
    found = lens.signature(0, FEATURE, also=[PUBLISHED]).value.top["tuned:published"]
    assert found.ids == tuple(scores.topk(10).indices.tolist())


@of_one
def test_one_map_carries_every_feature(lens):
    dictionary = lens.dictionary(1)
    for each in (TUNED, PUBLISHED):
        every = each.map(lens, "value", dictionary)(dictionary.values)
        for feature in (0, 3, 9):
            one = each.carry(lens, "value", dictionary, feature, lens.settings).vector
            assert torch.allclose(every[feature], one, rtol=1e-10)


@of_one
def test_what_has_no_list_says_why(lens, tiny, reference, word_tokenizer):
    middle = dataclasses.replace(lens.dictionary(1), write_site=3)
    shelf = DictionaryShelf(range(tiny.n_layers), lambda layer: middle)
    at_mid = QueryLens(lens.carrier, shelf, lens.vocabulary, lens.config, k=10)
    found = at_mid.signature(1, FEATURE, also=[TUNED])
    assert (
        found.value.top["tuned"].reason == "Tuned Lens has no translator for the middle of a layer"
    )
    assert found.key.top["tuned"].reason == "Tuned Lens has no key side"
    plain = make_lens(tiny, reference, word_tokenizer)
    reason = plain.signature(1, FEATURE, also=[TUNED]).value.top["tuned"].reason
    assert reason == "Tuned Lens needs its parameters: set [lens].tuned to a file or a folder"


@pytest.mark.parametrize("prefix", ["", "layer_translators."])
def test_every_way_to_save_them_is_the_same_lens(tmp_path: Path, prefix: str) -> None:
    plain = parameters()
    named = {f"{prefix}{name}": tensor for name, tensor in plain.items()}
    config = {"d_model": 4, "num_hidden_layers": 3, "bias": True, "base_model_name_or_path": "x"}
    places = [folder(tmp_path / "a", named, config), folder(tmp_path / "b", plain) / "params.pt"]
    (tmp_path / "c").mkdir()
    save_file(named | {"unembed.weight": torch.zeros(2)}, tmp_path / "c" / "params.safetensors")
    places += [tmp_path / "c", tmp_path / "c" / "params.safetensors"]
    found = [load_translators(str(place), Host()) for place in places]
    assert len({each.sha256 for each in found}) == 1
    for each in found:
        assert torch.equal(each.weights[2], plain["2.weight"])
        assert torch.equal(each.biases[1], plain["1.bias"])
    half = load_translators(
        str(folder(tmp_path / "d", {name: each.half() for name, each in plain.items()})), Host()
    )
    assert half.weights[0].dtype == torch.float64
    assert half.sha256 != found[0].sha256


def test_a_lens_without_biases_is_one(tmp_path: Path) -> None:
    weights = {name: each for name, each in parameters().items() if "weight" in name}
    found = load_translators(str(folder(tmp_path / "a", weights)), Host())
    assert found.biases == (None, None, None)
    v = torch.ones(4, dtype=torch.float64)
    assert torch.equal(found.map(1, with_bias=True)(v), v + weights["1.weight"] @ v)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (parameters(d=6), "0.weight of 6x6, expected 4x4"),
        (parameters(4), "translators of 4 layers, expected 3"),
        (parameters(2), "translators of 2 layers, expected 3"),
        ({}, "translators of 0 layers, expected 3"),
        ({k: v for k, v in parameters().items() if k != "1.weight"}, "lacks 1.weight"),
        ({k: v for k, v in parameters().items() if k != "1.bias"}, "lacks 1.bias"),
        (parameters(**{"0.bias": torch.zeros(3)}), "0.bias of 3, expected 4"),
        (parameters(**{"0.bias": torch.tensor(1.0)}), "0.bias of a number, expected 4"),
        (parameters(**{"mlp.0.weight": torch.zeros(3)}), "'mlp.0.weight', expected LAYER.weight"),
        (parameters(**{"a\nb\x1b[31m": torch.zeros(3)}), "expected LAYER.weight"),
        (parameters(**{"0.weight": torch.full((4, 4), torch.nan)}), "NaN values in 0.weight"),
        (
            {**parameters(), "layer_translators.0.bias": torch.zeros(4)},
            "holds 0.bias twice",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], said: str
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    for place in (folder(tmp_path / "a", tensors), tmp_path / "x.safetensors"):
        message = refused(place)
        assert said in message
        assert str(tmp_path) in message
        if "expected" in said:
            assert "some/model" in message
            assert "check [lens].tuned" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(4, 4)], "holds a list, not named tensors"),
        ({0: torch.zeros(4, 4)}, "not named tensors"),
        ({"0.weight": 3}, "'0.weight', which is no tensor"),
        ({"0.weight": torch.zeros(4, 4, dtype=torch.int64)}, "which is no tensor of numbers"),
        ({"0.weight": torch.zeros(4, 4).to_sparse()}, "which is no tensor of numbers"),
        ({"0.weight": torch.zeros(4, 4, device="meta")}, "which is no tensor of numbers"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    assert said in refused(folder(tmp_path / "a", content))


def test_a_huge_shape_costs_nothing(tmp_path: Path) -> None:
    """A view with a stride of zero: a few bytes on disk, terabytes if it were copied."""
    content = {"0.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}
    assert "of 1048576x1048576, expected 4x4" in refused(folder(tmp_path / "a", content))


def test_a_pickle_with_code_is_never_run(tmp_path: Path) -> None:
    target = tmp_path / "run"
    place = folder(tmp_path / "a", {"0.weight": Bomb(target)})
    assert "a pickle that holds more than tensors" in refused(place)
    (place / "params.pt").write_bytes(pickle.dumps(Bomb(target)))
    assert "cannot be read" in refused(place)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"{}", b"\xff" * 99])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("params.pt", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        assert str(tmp_path / name) in refused(tmp_path / name)
    whole = folder(tmp_path / "a", parameters()) / "params.pt"
    whole.write_bytes(whole.read_bytes()[:-200])
    assert "cannot be read" in refused(whole)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"d_model": 768}, "found d_model 768 in config.json, expected 4"),
        ({"num_hidden_layers": 12}, "found num_hidden_layers 12 in config.json, expected 3"),
        ({"d_model": "x\n" * 99}, "expected 4"),
        ({"lens_type": "mlp\x1b[31m"}, "only a linear_tuned_lens"),
        ("[1]", "not a JSON object"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (" " * (1 << 21), "larger than 1 MiB"),
    ],
)
def test_a_configuration_that_says_otherwise_is_refused(
    tmp_path: Path, config: Any, said: str
) -> None:
    assert said in refused(folder(tmp_path / "a", parameters(), config))


def test_another_unembedding_is_a_warning(tmp_path: Path) -> None:
    """By tuned-lens's own hash: numpy's short form of the matrix, one row per token."""
    text = np.array_str(np.linspace(-3, 3, 200, dtype=np.float32).reshape(4, 50).T, precision=1)
    ours = hashlib.sha256(text.encode()).hexdigest()
    config = {"unembed_hash": ours, "base_model_name_or_path": "their/model\x1b"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_translators(str(folder(tmp_path / "a", parameters(), config)), Host())
    other = folder(tmp_path / "b", parameters(), config | {"unembed_hash": "0" * 64})
    with pytest.warns(QlensWarning, match=r"another unembedding .* 'their/model") as told:
        load_translators(str(other), Host())
    assert str(told[0].message).isprintable()


def test_a_place_without_parameters_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none").endswith(f"no such file or folder: {tmp_path / 'none'}")
    assert "has neither params.safetensors nor params.pt" in refused(tmp_path)


SOURCE = "hub:spaces/owner/lenses/lens/model"


def test_one_of_the_hub_is_fetched_once(tmp_path: Path, hub: Any) -> None:
    saved = folder(tmp_path / "a", parameters(), {"d_model": 4})
    files = {name: (saved / name).read_bytes() for name in ("params.pt", "config.json")}
    asked = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        asked.append(path)
        name = path.removeprefix("/spaces/owner/lenses/resolve/main/lens/model/")
        if name not in files:
            return hub_error(request, 404, "EntryNotFound")
        headers = {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}
        headers["Content-Length"] = str(len(files[name]))
        content = b"" if request.method == "HEAD" else files[name]
        return httpx2.Response(200, headers=headers, content=content, request=request)

    hub(respond)
    found = load_translators(SOURCE, Host())
    assert found.sha256 == load_translators(str(saved), Host()).sha256
    assert found.source == SOURCE
    hub(lambda request: hub_error(request, 500))
    assert load_translators(SOURCE, Host(), offline=True).sha256 == found.sha256


def test_one_that_the_hub_does_not_have_is_one_line(hub: Any, hub_cache: Path) -> None:
    hub(lambda request: hub_error(request, 404, "EntryNotFound"))
    assert "has neither params.safetensors nor params.pt" in refused(SOURCE)
    hub(lambda request: hub_error(request, 401, "RepoNotFound"))
    message = refused(SOURCE)
    assert "there is no public repository" in message
    assert "/spaces/owner/lenses" in message
    assert "check [lens].tuned" in message
    assert "not in the local Hugging Face cache" in refused(SOURCE, offline=True)


def test_every_baseline_has_a_name_of_its_own() -> None:
    assert len({each.name for each in ON_REQUEST}) == len(ON_REQUEST)
    assert isinstance(TUNED, TunedLens)
