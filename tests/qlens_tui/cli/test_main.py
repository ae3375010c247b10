"""The command as a whole: how it starts, what goes where, how it ends."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_core.errors import ConfigError, ModelError, QlensWarning
from qlens_tui.cli.exits import explained
from qlens_tui.cli.output import Output, as_json
from qlens_tui.cli.progress import build_progress
from tests.qlens_tui.workplace import FORBIDDEN, Workplace
from tests.waiting import PATIENCE

COMMANDS = ("show", "search", "build", "merge", "doctor", "cache")
FULL = [(">/dev/full", "no space left")] if Path("/dev/full").exists() else []
HEAVY = ("torch", "transformers", "polars", "textual", "rich", "numpy", "diskcache")


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """A folder without a model, for commands that end before they need one."""
    return Workplace(tmp_path)


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from qlens_tui.cli.main import main\n"
        "sys.argv = ['qlens', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    imported = set(done.stderr.split())
    assert "qlens_tui.cli.commands.show" in imported
    assert imported.isdisjoint(HEAVY)
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, "cache info", "cache verify", "cache clear"])
def test_every_command_has_help_with_an_example(place: Workplace, command: str) -> None:
    result = place.run(*command.split(), "--help")

    assert result.exit_code == 0
    assert f"qlens {command}" in result.stdout.partition("Example")[2]
    assert result.stdout.isascii()  # click writes it past our streams
    assert ("--ascii" in result.stdout) == (command != "cache")
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("show demo 99:1", "there is no dictionary for layer 99: layers are 4, 10, 20"),
        ("show demo 10:99999", "layer 10 has features 0 to 2303"),
        ("show demo 10:5 --off att.1", "'att.1' is not a block"),
        ("search demo x --layers 4,7", "there is no dictionary for layer 7"),
        ("atlas demo --layers 3-5", "there is no dictionary for layer 3"),
        ("export demo -o a.csv --layers 5", "there is no dictionary for layer 5"),
        ("export demo -o a.csv --where key_gain>", "it is not a complete condition"),
        ("export demo -o a.csv --where note>1", "cannot compare string with numeric type"),
        ("export demo -o a.csv --where gain>1", "no column gain: the nearest is gain k"),
    ],
)
def test_what_needs_no_model_is_refused_before_torch_is_imported(
    place: Workplace, command: str, told: str
) -> None:
    program = "import sys; sys.modules['torch'] = None; from qlens_tui.cli.main import main; main()"
    env = os.environ | {"QLENS_CACHE_DIR": str(place.cache), "PYTHONPATH": os.getcwd()}

    done = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        capture_output=True, text=True, env=env, cwd=place.folder,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert told in line


def test_a_folder_of_one_layer_and_a_release_tell_their_layers_without_a_model(
    place: Workplace,
) -> None:
    folder = place.folder / "sae"
    folder.mkdir()
    cfg = {"d_sae": 12, "metadata": {"hook_name": "blocks.3.hook_resid_post"}}
    (folder / "cfg.json").write_text(json.dumps(cfg), "utf-8")
    model = '[model]\nname = "./nowhere"\n[dictionary]\nkind = "sae"\n'
    one = place.write("one.toml", model + 'path = "sae"\n')
    listed = 'release = "gpt2-small-resid-post-v5-32k"\nid = "blocks.{layer}.hook_resid_post"\n'
    release = place.write("release.toml", model + listed)

    assert "layers are 3" in place.refusal(2, "show", one, "2:0")
    assert "layer 3 has features 0 to 11" in place.refusal(2, "show", one, "3:12")
    assert "layers are 0, 1, 2, 3" in place.refusal(2, "search", release, "x", "--layers", "12")


def test_a_bad_reference_file_is_found_before_a_model_is_looked_for(place: Workplace) -> None:
    settings = '[model]\nname = "./nowhere"\n[dictionary]\nkind = "neurons"\n[reference]\n'
    config = place.write("tiny.toml", settings + 'source = "text:nowhere.txt"\n')
    tokens = place.write("ids.json", "[[1, 2], [3]]")

    assert "reference text" in place.refusal(1, "show", config, "0:0")
    line = place.refusal(1, "show", config, "0:0", "--reference-tokens", tokens)
    assert "ids.json, sample 1: has 1 tokens" in line


@pytest.mark.parametrize("command", ["atlas", "export"])
def test_help_says_that_a_file_is_replaced(place: Workplace, command: str) -> None:
    assert "replaces FILE" in " ".join(place.run(command, "--help").stdout.split())


def test_later_commands_are_not_there_yet(place: Workplace) -> None:
    assert "No such command 'channels'" in place.refusal(2, "channels")


def test_the_version_is_one_line(place: Workplace) -> None:
    result = place.run("--version")

    assert result.exit_code == 0
    assert result.stdout.startswith("qlens ")
    assert result.stdout.count("\n") == 1


def test_without_a_command_the_help_is_shown_as_a_mistake(place: Workplace) -> None:
    result = place.run()

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: qlens" in result.stderr


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["shwo"], "No such command 'shwo'"),
        (["show"], "Missing argument 'CONFIG'"),
        (["show", "tiny.toml", "8"], "'8' is not LAYER:FEATURE"),
        (["show", "tiny.toml", "1:-3"], "'1:-3' is not LAYER:FEATURE"),
        (["show", "tiny.toml", "1:2", "--off", "attn.0", "--only", "attn.1"], "give only one of"),
        (["show", "tiny.toml", "1:2", "--transition", "half"], "'half' is not one of"),
        (["show", "tiny.toml", "1:2", "-k", "0"], "0 is not in the range x>=1"),
        (["search", "tiny.toml"], "give a token, or --id NUMBER"),
        (["search", "tiny.toml", "x", "--id", "3"], "give a token, or --id NUMBER"),
        (["search", "tiny.toml", "x", "--layers", "5-3"], "'5-3' is not a list of layers"),
        (["build", "tiny.toml", "--shard", "3/2"], "'3/2' is not I/N"),
        (["build", "tiny.toml", "--shard", "0/2"], "'0/2' is not I/N"),
        (["cache", "clear", "--kind", "tags"], "'tags' is not one of"),
    ],
)
def test_wrong_usage_is_one_line_that_points_to_the_help(
    place: Workplace, args: list[str], names: str
) -> None:
    line = place.refusal(2, *args)

    assert names in line
    assert f"(see `qlens{'' if args == ['shwo'] else ' ' + args[0]}" in line


def test_a_missing_configuration_names_the_nearest(place: Workplace) -> None:
    assert "smollm2-neurons" in place.refusal(2, "show", "smolm2-neurons", "0:0")


def test_a_missing_file_is_named(place: Workplace) -> None:
    line = place.refusal(2, "build", str(place.folder / "none.toml"))

    assert "none.toml: no such file" in line


def test_an_unknown_key_names_the_nearest_known_one(place: Workplace) -> None:
    config = place.write("bad.toml", "[model]\nname='x'\n[dictionary]\nkinds='neurons'\n")

    assert "[dictionary].kind" in place.refusal(2, "search", config, "x")


def test_a_configuration_of_another_dtype_is_refused(place: Workplace) -> None:
    config = place.write("ok.toml", "[model]\nname='./m'\n[dictionary]\nkind='neurons'\n")

    line = place.refusal(2, "show", config, "0:0", "--dtype", "float16")

    assert '"float32" or "float64"' in line


def test_a_name_with_escape_sequences_is_shown_harmlessly(place: Workplace) -> None:
    line = place.refusal(2, "show", "x\x1b]52;c;AAAA\x07\u202e.toml", "0:0")

    assert not any(character in line for character in FORBIDDEN)
    assert r"\x1b]52;c;AAAA\x07\u202e.toml" in line


def test_a_missing_model_directory_is_one_line(place: Workplace) -> None:
    config = place.write("ok.toml", "[model]\nname='./m'\n[dictionary]\nkind='neurons'\n")

    line = place.refusal(1, "show", config, "0:0")

    assert f"there is no directory {place.folder / 'm'}" in line
    assert "[model].name" in line


def test_a_model_that_would_have_to_be_fetched_is_named_when_offline(place: Workplace) -> None:
    config = place.write("hub.toml", "[model]\nname='no/such'\n[dictionary]\nkind='neurons'\n")

    line = place.refusal(1, "show", config, "0:0", "--offline")

    assert "no/such" in line
    assert "huggingface.co" in line


def test_a_file_in_place_of_the_cache_directory_is_one_line(place: Workplace) -> None:
    config = place.write("ok.toml", "[model]\nname='./m'\n[dictionary]\nkind='neurons'\n")
    place.write("cache", "not a directory")

    for command in (["show", config, "0:0"], ["build", config], ["cache", "info"]):
        line = place.refusal(1, *command)
        assert "is not a directory: set QLENS_CACHE_DIR" in line


def test_a_closed_pipe_ends_quietly(place: Workplace) -> None:
    read, write = os.pipe()
    os.close(read)
    process = place.start("cache", "info", "--json", stdout=write)
    os.close(write)

    _, errors = process.communicate(timeout=PATIENCE)

    assert errors == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ModelError("no weights"), 1, "no weights"),
        (ConfigError("no key"), 2, "no key"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "qlens doctor"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "batch"),
    ],
)
def test_what_a_machine_or_a_user_causes_is_explained(
    error: Exception, status: int, says: str
) -> None:
    ending = explained(error)

    assert ending is not None
    assert says in ending[0]
    assert ending[1] == status


def test_a_defect_keeps_its_traceback(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("lens_core.storage.maintenance.cache_info", broken)

    assert isinstance(place.run("cache", "info").exception, ZeroDivisionError)


def test_a_working_command_keeps_chatter_and_warnings_off_its_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output()
    with output.working():
        print("a library talks")
        warnings.warn(QlensWarning("who knows\x1b[2J"), stacklevel=1)
        warnings.warn("a library's own affair", UserWarning, stacklevel=1)
    output.document({"answer": float("nan")})

    captured = capsys.readouterr()
    assert captured.out == '{"answer": null}\n'
    assert captured.err == "a library talks\nqlens: warning: who knows\\x1b[2J\n"


def test_progress_counts_only_what_this_run_did(capsys: pytest.CaptureFixture[str]) -> None:
    with build_progress(Output(), 50, 100) as report:
        for done in range(0, 101, 5):
            report(done, 100)

    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["60%", "70%", "80%", "90%", "100%"]
    assert lines[-1] == "qlens: 100% (100 of 100 passes)"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(ANYTHING)
def test_json_is_printable_ascii_and_reads_back_with_null_for_what_is_not_finite(
    value: object,
) -> None:
    text = as_json({"value": value})

    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["value"] == _finite(value)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return {k: _finite(v) for k, v in value.items()} if isinstance(value, dict) else value


USAGE = ["cache", "nope"]
RESULT = ["cache", "info"]
QUESTION = ["cache", "clear"]


@pytest.mark.parametrize("args", [RESULT, [*RESULT, "--json"], ["--help"], ["--version"]])
@pytest.mark.parametrize(("stream", "why"), [(">&-", "it is closed"), *FULL])
def test_output_that_cannot_be_written_is_named(
    place: Workplace, args: list[str], stream: str, why: str
) -> None:
    done = place.shell(args, stream)

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"cannot write to standard output: {why}" in line
    assert "QLENS_CACHE_DIR" not in line


@pytest.mark.parametrize("stream", ["2>&-", *(f"2{stream}" for stream, _ in FULL)])
@pytest.mark.parametrize(
    ("args", "status"), [(RESULT, 0), (USAGE, 2), ([], 2), (["show", "none", "0:0"], 2)]
)
def test_errors_that_cannot_be_written_change_neither_the_result_nor_the_status(
    place: Workplace, args: list[str], status: int, stream: str
) -> None:
    as_usual, done = place.shell(args, ""), place.shell(args, stream)

    assert done.returncode == as_usual.returncode == status
    assert (done.stdout, done.stderr) == (as_usual.stdout, "")


@pytest.mark.parametrize("stream", ["<&-", "0>/dev/null"])
@pytest.mark.parametrize("args", [RESULT, QUESTION])
def test_input_that_cannot_be_read_is_empty(place: Workplace, args: list[str], stream: str) -> None:
    as_usual, done = place.shell(args, "</dev/null"), place.shell(args, stream)

    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout, done.stderr) == (
        as_usual.returncode, as_usual.stdout, as_usual.stderr,
    )  # fmt: skip


@pytest.mark.parametrize("args", [RESULT, USAGE, QUESTION])
def test_a_command_without_any_stream_ends_with_its_status(
    place: Workplace, args: list[str]
) -> None:
    done = place.shell(args, "<&- >&- 2>&-")

    assert done.returncode == (2 if args == USAGE else 1)


def test_what_a_library_writes_to_a_closed_stream_is_in_no_file_of_ours(place: Workplace) -> None:
    first = (
        "import os, sys; from qlens_tui.cli.streams import prepare_streams; prepare_streams(); "
        "kept = open(sys.argv.pop(1), 'w'); os.write(2, b'warning')"
    )
    file = place.folder / "file"

    place.shell([str(file), *RESULT], "<&- >&- 2>&-", first=first)

    assert file.read_text("utf-8") == ""


def test_a_full_disk_is_named_where_the_system_names_the_file(tmp_path: Path) -> None:
    ending = explained(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x")))

    assert ending is not None
    assert ending[0].startswith(f"no space left in {tmp_path}: free some")
