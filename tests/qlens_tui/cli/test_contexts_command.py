"""`qlens contexts`: the same files whether interrupted or not."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.qlens_tui.workplace import D_MLP, N_LAYERS, Workplace, make_workplace
from tests.waiting import PATIENCE, held, until

CORPUS = "".join(f"{number} bottles of beer on the wall, take one down;\n" for number in range(40))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("original"))


@pytest.fixture
def place(original: Workplace, request: pytest.FixtureRequest) -> Workplace:
    """A cache of one's own, and a corpus."""
    place = original.with_cache(request.node.name)
    place.write("corpus.txt", CORPUS)
    return place


def corpus_of(place: Workplace) -> str:
    return str(place.folder / "corpus.txt")


def files(place: Workplace) -> dict[str, bytes]:
    found = (place.cache / "contexts").rglob("*.safetensors")
    return {path.name: path.read_bytes() for path in found}


def test_a_run_says_how_far_it_is_and_what_it_found(place: Workplace) -> None:
    result = place.run("contexts", place.config, "--corpus", corpus_of(place))

    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "qlens: 100% (1,860 of 1,860 tokens)"
    head, *rest = result.stdout.splitlines()
    layers, total, origin = rest[:N_LAYERS], rest[N_LAYERS], "".join(rest[N_LAYERS + 1 :])
    assert head.split() == ["layer", "features", "silent", "mean", "density"]
    assert [line.split()[:2] for line in layers] == [[str(i), "24"] for i in range(N_LAYERS)]
    assert total.startswith("1,860 tokens, ")
    assert origin == f"text:{corpus_of(place)}"
    assert len(files(place)) == N_LAYERS + 1
    assert "contexts" in place.run("cache", "info").stdout


def test_the_document_tells_corpus_layers_and_files(place: Workplace) -> None:
    found = place.document(
        "contexts", place.config, "--corpus", corpus_of(place), "--layers", "0,2", "--tokens", "90"
    )

    assert found["corpus"] == {
        "origin": f"text:{corpus_of(place)}", "samples": 5, "length": 20, "n_tokens": 100,
    }  # fmt: skip
    assert [each["layer"] for each in found["layers"]] == [0, 2]
    assert all(each["features"] == D_MLP for each in found["layers"])
    assert all(0 < each["density"] < 1 for each in found["layers"])
    assert all(Path(each["file"]).parent == Path(found["directory"]) for each in found["layers"])
    assert found["reference"]["samples"] == 4


def test_show_uses_the_longest_corpus_and_says_which(place: Workplace) -> None:
    asked = ("show", place.config, "1:3", "--no-paths")
    before = place.document(*asked)["activity"]
    assert before["text"]["is_reference"]
    ran = place.run("contexts", place.config, "--corpus", corpus_of(place), "--layers", "1")
    assert ran.exit_code == 0, ran.stderr
    found = place.document(*asked)["activity"]

    assert found["text"].pop("sha256") != before["text"].pop("sha256")
    assert found["text"] == {
        "is_reference": False, "origin": f"text:{corpus_of(place)}", "samples": 93, "length": 20,
        "n_tokens": 1860,
    }  # fmt: skip
    assert sum(found["histogram"]["counts"]) == round(1860 * found["density"]) > 20
    assert [len(quarter) <= 2 for quarter in found["quarters"]] == [True] * 4
    every = [*found["contexts"], *(each for quarter in found["quarters"] for each in quarter)]
    assert len({each["sample"] for each in every}) == len(every) > 5
    for number, quarter in enumerate(found["quarters"]):
        for context in quarter:
            share = context["activation"] / found["max_activation"]
            assert number / 4 < share <= (number + 1) / 4
    for context in every:
        assert context["before"] + context["token"] + context["after"] in CORPUS
        assert max(context["activations"]) == pytest.approx(context["activation"], rel=1e-4)
    printed = place.run(*asked).stdout
    assert "of 1,860 tokens of corpus.txt (" in printed.replace("\n", " ")
    assert "from each quarter of its range" in printed
    assert place.document(*asked[:2], "0:3", "--no-paths")["activity"]["text"]["is_reference"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_goes_on_where_it_was_and_gives_the_same_files(
    place: Workplace, how: signal.Signals
) -> None:
    whole = place.with_cache("whole")
    corpus = corpus_of(place)
    command = ("contexts", place.config, "--corpus", corpus, "--layers", "0,1")
    writing = place.folder / "writing"
    process = place.start_prepared(
        *command,
        first="import lens_core.contexts.collect as collect\n"
        "collect.KEEP_AFTER = collect._WRITINGS = 0\n"
        "collect.samples_per_pass = lambda *_: 10\n"
        + held("lens_core.contexts.collect.write_reading", writing, after=7),
    )  # fmt: skip
    until(writing.exists, "the fourth state is being written", process)
    process.send_signal(how)
    printed, errors = process.communicate(timeout=PATIENCE)

    assert printed == ""
    assert len(files(place)) == 3
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command again to resume" in errors.splitlines()[-1]
        assert str(place.cache / "contexts") in errors.splitlines()[-1]
        assert "Traceback" not in errors

    resumed = place.run(*command)
    assert resumed.exit_code == 0, resumed.stderr
    # Layer 0 was written after 40 samples, layer 1 after 30.
    assert resumed.stderr.splitlines()[-1] == "qlens: 100% (1,260 of 1,260 tokens)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lens_core.contexts.collect.samples_per_pass", lambda *_: 10)
        assert whole.run(*command).exit_code == 0
    assert files(whole) == files(place)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no text and a sample takes 20: take a longer text"),
        ("short", "holds 5 tokens and a sample takes 20: take a longer text"),
        ("\0\1\2", "is not text (byte 0 is zero): give a text file in UTF-8"),
    ],
    ids=["empty", "short", "binary"],
)
def test_a_corpus_that_gives_no_sample_is_one_line(
    place: Workplace, content: str, said: str
) -> None:
    corpus = place.write("bad.txt", content)
    line = place.run("contexts", place.config, "--corpus", corpus).stderr.splitlines()[-1]

    assert line.startswith(f"qlens: corpus {'text:' if said.startswith('holds') else ''}{corpus} ")
    assert line.endswith(said)
    assert not (place.cache / "contexts").exists()


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--corpus", "no.txt"], 1, "corpus no.txt cannot be read: No such file or directory"),
        (["--corpus", "hub:a b"], 2, "'hub:a b' is not hub:OWNER/NAME"),
        ([], 2, "Missing option '--corpus'"),
        (["--corpus", "bundled", "--tokens", "0"], 2, "0 is not in the range x>=1"),
    ],
    ids=["missing", "name", "none", "tokens"],
)
def test_wrong_usage_is_one_line_before_a_model_is_loaded(
    place: Workplace, options: list[str], status: int, said: str
) -> None:
    assert said in place.refusal(status, "contexts", place.config, *options)
