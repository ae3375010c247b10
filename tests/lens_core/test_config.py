"""What a configuration file may contain, and the one-line message for a mistake in it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_core.config import (
    Config,
    DictionaryConfig,
    ReferenceConfig,
    ReferenceSource,
    load_config,
    sample_names,
    with_overrides,
)
from lens_core.errors import ConfigError

SAE = {"kind": "sae", "release": "gpt2-small-resid-post-v5-32k", "id": "blocks.{layer}.x"}
MINIMAL: dict[str, dict[str, Any]] = {"model": {"name": "gpt2"}, "dictionary": SAE}


def _toml(tables: dict[str, dict[str, Any]]) -> str:
    """JSON's literals are TOML's, but for DEL, which TOML wants escaped."""

    def literal(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {literal(value)}" for key, value in table.items())]
    return "\n".join(lines)


def _write(folder: Path, text: str | bytes) -> Path:
    path = folder / "lens.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def _load(folder: Path, **sections: dict[str, Any]) -> Config:
    return load_config(_write(folder, _toml(MINIMAL | sections)))


def _refusal(folder: Path, **sections: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(folder, **sections)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder / 'lens.toml'}: ")
    return message


def test_a_model_and_a_dictionary_are_enough_and_the_rest_has_the_documented_defaults(
    tmp_path: Path,
) -> None:
    config = _load(tmp_path)

    shown = dataclasses.asdict(config)
    assert shown["model"] == {"name": "gpt2", "revision": "main"}
    assert shown["dictionary"] == {
        **SAE,
        "path": None,
        "layers": "all",
        "trained_on": None,
        "key": "gate",
    }
    assert shown["reference"] == {
        "kind": "chunks",
        "source": "hub:NeelNanda/pile-10k",
        "samples": 1024,
        "length": 32,
        "seed": 42,
        "prepend_bos": False,
        "skip_first": 0,
        "skip_last": 0,
    }
    assert shown["lens"] == {
        "k": 25,
        "transition": "full",
        "convention": "paper",
        "final_norm": "apply",
        "tuned": None,
    }
    assert shown["explanations"] == {"file": None}
    assert shown["compute"] == {
        "device": "auto",
        "dtype": "float32",
        "batch": "auto",
        "memory": "auto",
        "release_after": "auto",
    }
    assert config.path == tmp_path / "lens.toml"


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"lens": {"kk": 3}}, ("[lens].kk", "[lens].k")),
        ({"compute": {"release_afer": 5}}, ("[compute].release_afer", "[compute].release_after")),
        ({"lens": {"final-norm": "apply"}}, ("[lens].final-norm", "[lens].final_norm")),
        ({"reference": {"lenght": 3}}, ("[reference].lenght", "[reference].length")),
        ({"model": {"name": "gpt2", "NAMES": "x"}}, ("[model].NAMES", "[model].name")),
        ({"lens": {"samples": 3}}, ("[lens].samples", "[reference].samples")),
        ({"refrence": {"samples": 3}}, ('"refrence"', "[reference]")),
        ({"model": {"name": "gpt2", '"a\\nb"': 1}}, ("[model].a\\nb", "[model].name")),
    ],
)
def test_an_unknown_key_or_section_names_the_nearest_known_one(
    tmp_path: Path, sections: dict[str, dict[str, Any]], named: tuple[str, str]
) -> None:
    message = _refusal(tmp_path, **sections)

    unknown, nearest = named
    assert f"{unknown};" in message
    assert message.endswith(f"the nearest known is {nearest}")


def test_a_key_left_outside_of_its_section_is_told_where_it_belongs(tmp_path: Path) -> None:
    path = _write(tmp_path, "samples = 3\n" + _toml(MINIMAL))

    with pytest.raises(ConfigError, match=r"the nearest known is \[reference\]\.samples$"):
        load_config(path)


@pytest.mark.parametrize(
    ("section", "key", "value", "got", "allowed"),
    [
        ("model", "name", 3, "3", "a Hugging Face id"),
        ("model", "name", "", '""', "a Hugging Face id"),
        ("model", "name", "package:", '"package:"', "package:PACKAGE/FILE"),
        ("model", "name", "package:a/../b", '"package:a/../b"', "package:PACKAGE/FILE"),
        ("reference", "samples", 0, "0", "at least 1"),
        ("reference", "samples", True, "true", "an integer"),
        ("reference", "samples", 32.0, "32.0", "an integer"),
        ("reference", "samples", "32", '"32"', "an integer"),
        ("reference", "length", -1, "-1", "at least 1"),
        ("reference", "seed", 1 << 63, hex(1 << 63), "2^63 - 1"),
        ("reference", "skip_first", -1, "-1", "at least 0"),
        ("reference", "prepend_bos", 1, "1", "true or false"),
        ("reference", "source", "pile.txt", '"pile.txt"', '"text:FILE"'),
        ("reference", "source", "hub:", '"hub:"', '"hub:DATASET"'),
        ("reference", "source", "hub:a/b/c", '"hub:a/b/c"', '"hub:DATASET"'),
        ("lens", "k", 0, "0", "at least 1"),
        ("lens", "k", [25], "[25]", "an integer"),
        ("lens", "transition", "Full", '"Full"', '"identity", "first-order" or "full"'),
        ("lens", "convention", "x\u202e\n", '"x\\u202e\\n"', '"paper" or "exact"'),
        ("lens", "final_norm", False, "false", '"apply" or "linearize"'),
        ("lens", "tuned", 3, "3", "the path of a file or a folder"),
        ("lens", "tuned", "", '""', "the path of a file or a folder"),
        ("lens", "tuned", "hub:", '"hub:"', "OWNER/NAME"),
        ("lens", "tuned", "hub:name", '"hub:name"', "OWNER/NAME"),
        ("lens", "tuned", "hub:a/b/../c", '"hub:a/b/../c"', "OWNER/NAME"),
        ("lens", "tuned", "hub:spaces/a", '"hub:spaces/a"', "hub:[spaces/]OWNER/NAME"),
        ("lens", "tuned", "https://hf.co/a/b", '"https://hf.co/a/b"', "OWNER/NAME"),
        ("compute", "device", "gpu", '"gpu"', '"cuda:N"'),
        ("compute", "device", "cuda:", '"cuda:"', '"cuda:N"'),
        ("compute", "batch", 0, "0", '"auto" or an integer of at least 1'),
        ("compute", "batch", "big", '"big"', '"auto" or an integer of at least 1'),
        ("compute", "batch", True, "true", '"auto" or an integer of at least 1'),
        ("compute", "memory", 0, "0", '"auto" or a number of GiB above 0'),
        ("compute", "memory", "4 GB", '"4 GB"', "a number of GiB above 0"),
        ("compute", "memory", True, "true", "a number of GiB above 0"),
        ("compute", "release_after", 0, "0", '"auto", "never" or a number of minutes above 0'),
        ("compute", "release_after", -0.5, "-0.5", "a number of minutes above 0"),
        ("compute", "release_after", False, "false", "a number of minutes above 0"),
        ("compute", "release_after", "30", '"30"', "a number of minutes above 0"),
        ("compute", "release_after", "Never", '"Never"', '"never"'),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    tmp_path: Path, section: str, key: str, value: Any, got: str, allowed: str
) -> None:
    message = _refusal(tmp_path, **{section: MINIMAL.get(section, {}) | {key: value}})

    assert f"[{section}].{key} must be " in message
    assert allowed in message
    assert message.endswith(f", got {got}")


@pytest.mark.parametrize("layers", ["8", [], [1, 1], [-1], [True], ["1"], 8, [1.0]])
def test_layers_are_all_or_distinct_layer_numbers(tmp_path: Path, layers: Any) -> None:
    message = _refusal(tmp_path, dictionary=SAE | {"layers": layers})

    assert '[dictionary].layers must be "all" or a list of distinct layer numbers' in message


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_are_refused_with_the_reason(tmp_path: Path, dtype: str) -> None:
    message = _refusal(tmp_path, compute={"dtype": dtype})

    assert '"float32" or "float64"' in message
    assert "fewer bits reorders the tokens" in message


def test_positions_left_out_must_leave_one_in(tmp_path: Path) -> None:
    one_left = {"length": 32, "skip_first": 16, "skip_last": 15}
    assert _load(tmp_path, reference=one_left).reference.skip_first == 16

    message = _refusal(tmp_path, reference=one_left | {"skip_last": 16})
    assert "leave out 32 positions of 32" in message


def test_a_token_file_has_its_own_length_so_the_skips_wait_for_it(tmp_path: Path) -> None:
    reference = {"source": "tokens:t.json", "length": 1, "skip_first": 16}

    assert _load(tmp_path, reference=reference).reference.skip_first == 16


@pytest.mark.parametrize(
    ("dictionary", "told"),
    [
        ({}, "[dictionary].kind is missing"),
        ({"kind": "sea"}, 'must be "sae", "transcoder" or "neurons", got "sea"'),
        ({"kind": "sae"}, "release and id, or path, is missing for a sae"),
        ({"kind": "sae", "release": "r"}, "release or id is missing for a sae"),
        ({"kind": "transcoder", "id": "i"}, "release or id is missing for a transcoder"),
        (SAE | {"path": "saes"}, "a path besides release and id"),
        ({"kind": "sae", "path": "p", "id": "i"}, "a path besides release and id"),
        ({"kind": "neurons", "release": "r"}, "[dictionary].release means nothing for neurons"),
        ({"kind": "neurons", "id": "i"}, "[dictionary].id means nothing for neurons"),
        ({"kind": "neurons", "path": "p"}, "[dictionary].path means nothing for neurons"),
        ({"kind": "neurons", "key": "down"}, '[dictionary].key must be "gate" or "up"'),
        (SAE | {"key": "up"}, "a sae has one encoder"),
        (SAE | {"key": "gate"}, "a sae has one encoder"),
        (SAE | {"id": "layer_{l}"}, "may hold {layer} and no other braces"),
        (SAE | {"id": "layer_3", "layers": [3, 4]}, "put {layer} into id"),
        ({"kind": "sae", "path": "s/3", "layers": [3, 4]}, "put {layer} into path"),
    ],
)
def test_a_dictionary_has_exactly_one_source(
    tmp_path: Path, dictionary: dict[str, Any], told: str
) -> None:
    assert told in _refusal(tmp_path, dictionary=dictionary)


def test_gated_neurons_may_choose_the_up_projection(tmp_path: Path) -> None:
    assert _load(tmp_path, dictionary={"kind": "neurons", "key": "up"}).dictionary.key == "up"


def test_the_models_name_and_the_dictionary_are_required(tmp_path: Path) -> None:
    assert "[model].name is missing" in _refusal(tmp_path, model={})
    with pytest.raises(ConfigError, match=r"\[model\]\.name is missing"):
        load_config(_write(tmp_path, ""))


@pytest.mark.parametrize("text", ["model = 3", "[[model]]\nname = 'x'", "dictionary = 'sae'"])
def test_a_section_must_be_a_table(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"\[(model|dictionary)\] must be a table, got "):
        load_config(_write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[model]\nname = gpt2\n", "is not valid TOML: Invalid value (at line 2"),
        ("[model]\nname = 'a'\nname = 'b'", "line 3"),
        ("[model]\n\nname = [", "line 3"),
        (b"[model]\nname = '\xff'", "line 2 is not UTF-8"),
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("x = " + "1" * 5000, "is not valid TOML"),
        (b"\x00\x01\x02", "is not valid TOML"),
        (b"#" * (1 << 21), "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_toml_gets_one_line(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path, text))

    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    text = "\ufeff" + _toml(MINIMAL).replace("\n", "\r\n")

    assert load_config(_write(tmp_path, text)).model.name == "gpt2"


def test_a_missing_file_a_directory_and_a_pipe_get_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    for path, told in [
        (tmp_path / "absent.toml", "no such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "pipe.toml", "is not a regular file"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (tmp_path / "nul\0.toml", "no such file"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert str(caught.value).startswith(f"{path}: {told}")
        assert "\n" not in str(caught.value)


def test_an_unknown_sample_lists_the_nearest_names() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("smollm2-neuron")

    message = str(caught.value)
    assert "the nearest are smollm2-neurons, " in message
    assert "give a path" in message


def test_a_bundled_name_is_a_sample_and_a_path_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _write(tmp_path, _toml(MINIMAL)).rename(tmp_path / "smollm2-neurons")
    _write(tmp_path, _toml(MINIMAL)).rename(tmp_path / "mine")

    assert load_config("smollm2-neurons").dictionary.kind == "neurons"
    assert load_config("./smollm2-neurons").dictionary.kind == "sae"
    assert load_config("mine").dictionary.kind == "sae"
    with pytest.raises(ConfigError, match="no such file"):
        load_config("absent.toml")


def test_relative_paths_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sections = {
        "model": {"name": "./model"},
        "dictionary": {"kind": "sae", "path": "../saes/layer_{layer}"},
        "reference": {"source": "text:~/pile.txt"},
        "explanations": {"file": "../said.csv"},
    }

    config = _load(tmp_path, **sections)

    assert config.model.name == str(tmp_path / "model")
    assert config.dictionary.path == tmp_path.parent / "saes" / "layer_{layer}"
    assert config.reference.parsed_source == ReferenceSource(
        "text", str(tmp_path / "home" / "pile.txt")
    )
    assert config.explanations.file == tmp_path.parent / "said.csv"


def test_a_hub_id_stays_a_hub_id_even_where_a_folder_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)

    for name in ("org/model", "gpt2", "package:pkg/file.gguf", ".hidden"):
        assert _load(tmp_path, model={"name": name}).model.name == name


HUB = "https://huggingface.co/"


@pytest.mark.parametrize(
    ("url", "written"),
    [
        (f"{HUB}openai-community/gpt2", '"openai-community/gpt2"'),
        (f"{HUB}gpt2/", '"gpt2"'),
        ("huggingface.co/a/b", '"a/b"'),
        ("HTTP://WWW.hf.co//a/b?library=x#files", '"a/b"'),
        (f"{HUB}a/b/tree/main", '"a/b"'),
        (f"{HUB}a/b/tree/step7", '"a/b" and [model].revision = "step7"'),
        (f"{HUB}a/b/resolve/main/x.gguf?download=true", "the path of a downloaded copy"),
        (f"{HUB}datasets/a/b", "the path of a downloaded copy"),
        (f"{HUB}models?search=gpt2", "the path of a downloaded copy"),
        (f"{HUB}docs/transformers", "the path of a downloaded copy"),
        (HUB, "the path of a downloaded copy"),
        ("https://example.org/gpt2", "the path of a downloaded copy"),
        ("s3://bucket/model.gguf", "the path of a downloaded copy"),
    ],
)
def test_a_url_as_the_model_is_told_what_to_write(tmp_path: Path, url: str, written: str) -> None:
    told = _refusal(tmp_path, model={"name": url})

    assert "[model].name must be a Hugging Face id (owner/name)" in told
    assert told.endswith(f'got "{url}": write {written}')


@pytest.mark.parametrize(
    ("section", "key", "value", "written"),
    [
        ("dictionary", "release", f"{HUB}owner/saes/tree/main/x", '"owner/saes"'),
        ("dictionary", "trained_on", f"{HUB}google/gemma-3-1b-pt", '"google/gemma-3-1b-pt"'),
        ("reference", "source", f"hub:{HUB}datasets/owner/text", '"hub:owner/text"'),
        ("reference", "source", f"{HUB}datasets/owner/text/viewer", '"hub:owner/text"'),
    ],
)
def test_a_url_elsewhere_is_told_the_hub_id(
    tmp_path: Path, section: str, key: str, value: str, written: str
) -> None:
    tables = MINIMAL.get(section, {}) | {key: value}

    told = _refusal(tmp_path, **{section: tables})

    assert f"[{section}].{key} must be " in told
    assert told.endswith(f": write {written}")


@pytest.mark.parametrize("source", [f"hub:{HUB}owner/model", "text:https://example.org/a.txt"])
def test_a_url_is_no_source(tmp_path: Path, source: str) -> None:
    assert '[reference].source must be "hub:' in _refusal(tmp_path, reference={"source": source})


def test_a_url_is_no_folder_of_dictionaries(tmp_path: Path) -> None:
    tables = {"kind": "sae", "path": f"{HUB}owner/saes"}

    assert "[dictionary].path must be a path" in _refusal(tmp_path, dictionary=tables)


def test_a_tuned_lens_is_relative_to_the_file_or_on_the_hub(tmp_path: Path) -> None:
    for written in ("tuned", "./tuned", "../x.pt"):
        config = _load(tmp_path, lens={"tuned": written})
        assert config.lens.tuned == os.path.normpath(tmp_path / written)
        assert with_overrides(config, k=3).lens.tuned == config.lens.tuned
    for source in ("hub:a/b", "hub:spaces/a/b/lens/gpt2"):
        assert _load(tmp_path, lens={"tuned": source}).lens.tuned == source


def test_the_command_line_overrides_the_file_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = _load(tmp_path, lens={"k": 7, "convention": "exact"})

    changed = with_overrides(
        config,
        transition="first-order",
        device="cuda:1",
        dtype="float64",
        batch=4,
        layers=[3, 1],
        reference_tokens=Path("t.json"),
        explanations=Path("said.csv"),
    )

    assert (changed.lens.k, changed.lens.convention) == (7, "exact")
    assert changed.lens.transition == "first-order"
    assert (changed.compute.device, changed.compute.dtype) == ("cuda:1", "float64")
    assert changed.compute.batch == 4
    assert changed.dictionary.layers == (3, 1)
    assert changed.reference.source == f"tokens:{tmp_path / 't.json'}"
    assert changed.explanations.file == tmp_path / "said.csv"
    assert with_overrides(config) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"transition": "second-order"},
        {"convention": ""},
        {"final_norm": "ignore"},
        {"device": "tpu"},
        {"dtype": "bfloat16"},
        {"batch": 0},
        {"layers": []},
        {"layers": [2, 2]},
    ],
)
def test_overrides_obey_the_rules_of_the_file(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r" must be .*, got "):
        with_overrides(_load(tmp_path), **wrong)


@pytest.mark.parametrize("endless", ["inf", "nan", "-inf"])
def test_a_time_without_end_is_called_never(tmp_path: Path, endless: str) -> None:
    path = _write(tmp_path, f"{_toml(MINIMAL)}\n[compute]\nrelease_after = {endless}\n")
    with pytest.raises(ConfigError, match='"never" or a number of minutes above 0, got'):
        load_config(path)


@pytest.mark.parametrize(
    ("written", "on_gpu", "on_cpu"),
    [("auto", 1800, None), ("never", None, None), (5, 300, 300), (0.25, 15, 15)],
)
def test_an_idle_engine_gives_a_gpu_back_and_keeps_a_cpu_unless_told_otherwise(
    tmp_path: Path, written: Any, on_gpu: float | None, on_cpu: float | None
) -> None:
    compute = _load(tmp_path, compute={"release_after": written}).compute
    assert [compute.idle_seconds(device) for device in ("cuda:1", "mps", "cpu")] == [
        on_gpu,
        on_gpu,
        on_cpu,
    ]


def test_any_number_of_minutes_is_one_that_can_be_waited(tmp_path: Path) -> None:
    for endless in (10**400, 1e300):
        waited = _load(tmp_path, compute={"release_after": endless}).compute.idle_seconds("cuda:0")
        assert waited is not None
        assert 60 * 60 * 24 * 365 < waited < threading.TIMEOUT_MAX


def test_a_section_made_in_a_notebook_obeys_the_rules_too() -> None:
    with pytest.raises(ConfigError, match="samples must be an integer of at least 1, got 0"):
        ReferenceConfig(samples=0)
    with pytest.raises(ConfigError, match="release and id, or path, is missing"):
        DictionaryConfig(kind="sae")
    with pytest.raises(ConfigError, match="layers must be"):
        dataclasses.replace(DictionaryConfig(kind="neurons"), layers=())


@pytest.mark.parametrize("text", ["bundled", "hub:NeelNanda/pile-10k", "text:a b.txt", "tokens:/t"])
def test_a_source_prints_as_it_is_written(text: str) -> None:
    assert str(ReferenceSource.parse(text)) == text


def test_reading_a_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lens_core.config import load_config, sample_names;"
        "[load_config(name) for name in sample_names()];"
        "heavy = {'torch', 'numpy', 'transformers', 'sae_lens'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sample_names_are_sorted_and_not_empty() -> None:
    names = sample_names()

    assert "smollm2-neurons" in names
    assert list(names) == sorted(names)


_LINES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)
_NAMES = st.from_regex(r"[A-Za-z0-9][\w.-]{0,20}", fullmatch=True)
_COUNTS = st.integers(1, 1 << 40)


@settings(deadline=None)
@given(
    reference=st.fixed_dictionaries(
        {"length": st.integers(20, 1 << 20)},
        optional={
            "samples": _COUNTS,
            "seed": st.integers(0, (1 << 63) - 1),
            "prepend_bos": st.booleans(),
            "skip_first": st.integers(0, 9),
            "skip_last": st.integers(0, 9),
        },
    ),
    lens=st.fixed_dictionaries({}, optional={"k": _COUNTS}),
    compute=st.fixed_dictionaries(
        {},
        optional={
            "batch": st.just("auto") | _COUNTS,
            "memory": st.just("auto") | _COUNTS | st.floats(1e-3, 1e9),
            "release_after": st.sampled_from(["auto", "never"]) | _COUNTS | st.floats(1e-3, 1e9),
        },
    ),
    layers=st.just("all") | st.lists(st.integers(0, 200), min_size=1, unique=True),
    name=_NAMES,
    revision=_LINES,
)
def test_every_valid_value_arrives_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    reference: dict[str, Any],
    lens: dict[str, Any],
    compute: dict[str, Any],
    layers: Any,
    name: str,
    revision: str,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    config = _load(
        folder,
        model={"name": name, "revision": revision},
        dictionary=SAE | {"layers": layers},
        reference=reference,
        lens=lens,
        compute=compute,
    )

    assert (config.model.name, config.model.revision) == (name, revision)
    assert config.dictionary.layers == (layers if layers == "all" else tuple(layers))
    for table, section in [
        (reference, config.reference),
        (lens, config.lens),
        (compute, config.compute),
    ]:
        for key, value in table.items():
            assert getattr(section, key) == value


_ANY_VALUE = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _LINES,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
_KEYS = st.sampled_from(
    [
        (section, key)
        for section, keys in {
            "model": "name revision",
            "dictionary": "kind release id path layers trained_on key",
            "reference": "source samples length seed prepend_bos skip_first skip_last",
            "lens": "k transition convention final_norm tuned",
            "explanations": "file",
            "compute": "device dtype batch memory release_after",
        }.items()
        for key in keys.split()
    ]
)


@settings(deadline=None)
@given(where=_KEYS, value=_ANY_VALUE)
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[str, str], value: Any
) -> None:
    section, key = where
    refusal = f"[{section}]"
    try:
        _load(tmp_path_factory.getbasetemp(), **{section: MINIMAL.get(section, {}) | {key: value}})
    except ConfigError as error:
        refusal = str(error)

    assert f"[{section}]" in refusal
    assert refusal.isprintable()


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda t: t.encode()))
def test_any_bytes_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(_write(tmp_path_factory.getbasetemp(), content))

    assert len(str(caught.value).splitlines()) == 1
