"""`qlens score`: its documents, tables and refusals."""

from __future__ import annotations

import csv
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from lens_core.scores.output_score import raised_by
from tests.qlens_tui.workplace import D_MLP, D_VOCAB, Workplace, make_workplace
from tests.waiting import PATIENCE, held, until

CORPUS = "".join(f"{number} bottles of beer on the wall, take one down;\n" for number in range(40))
KEYS = {
    "layer", "side", "lens", "score", "protocol", "k", "n", "left_out", "mean", "low", "high",
    "ceiling", "share",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = make_workplace(tmp_path_factory.mktemp("scores"))
    place.write("corpus.txt", CORPUS)
    return place


def score(place: Workplace, *more: str) -> tuple[str, ...]:
    corpus = str(place.folder / "corpus.txt")
    return "score", place.config, "--score", "input", "--corpus", corpus, *more


def test_the_document_is_a_list_of_rows(place: Workplace) -> None:
    result = place.run(*score(place, "--features", "5", "--layers", "0,2", "--json"))

    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert all(row.keys() == KEYS for row in rows)
    assert {row["layer"] for row in rows} == {0, 2, None}
    assert {row["protocol"] for row in rows} == {"published", "in-order"}
    assert {row["k"] for row in rows} == {5, 10, 20, 25}
    assert {(row["lens"], row["side"]) for row in rows} == {
        (lens, side) for lens in ("logit", "query", "first-order") for side in ("value", "key")
    }
    for row in rows:
        assert row["n"] + row["left_out"] == (10 if row["layer"] is None else 5)
        assert 0 <= row["low"] <= row["mean"] <= row["high"] <= 1
        assert row["share"] is None or row["share"] == row["mean"] / row["ceiling"]
    # The contexts are there now, and the same scores come again.
    again = place.run(*score(place, "--features", "5", "--layers", "0,2", "--json"))
    assert json.loads(again.stdout) == rows
    assert len(list((place.cache / "contexts").rglob("*.safetensors"))) >= 3


def test_logit_lens_needs_no_operators_and_is_scored_for_all_features(place: Workplace) -> None:
    result = place.run(*score(place, "--lenses", "logit", "--layers", "1", "--format", "csv"))

    assert result.exit_code == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 2 * 2 * 4
    assert {int(row["n"]) + int(row["left_out"]) for row in rows} == {D_MLP}


def test_the_table_says_what_it_is_about(place: Workplace) -> None:
    result = place.run(*score(place, "--lenses", "logit", "--layers", "1"))

    assert result.exit_code == 0, result.stderr
    head, *lines = result.stdout.splitlines()
    assert head.split() == [
        "layer",
        "lens",
        *["input", "published", "k=25", "input", "in-order", "k=25"],
    ]
    assert [line.split()[1] for line in lines[:3]] == ["logit", "logit", "ceiling"]
    told = " ".join(result.stdout.split())
    assert "in 20 contexts of 20 tokens; " in told
    assert "left out: fewer contexts, or no list" in told
    asked = score(place, "--lenses", "logit", "--layers", "1", "--format", "markdown")
    markdown = place.run(*asked)
    assert markdown.stdout.startswith("| layer | lens | input published k=25 |")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "run `qlens build`"),
        (("--lenses", "logit", "-k", "301"), "longer than the vocabulary of 300"),
        (("--lenses", "logit", "--layers", "7"), "layer 7"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    place: Workplace, more: tuple[str, ...], said: str
) -> None:
    assert D_VOCAB == 300
    result = place.run(*score(place, *more))
    assert result.exit_code in (1, 2)
    assert said in result.stderr.splitlines()[-1]


def test_a_lens_that_does_not_exist_is_named(place: Workplace) -> None:
    assert "there is no lens 'qeury'" in place.run(*score(place, "--lenses", "qeury")).stderr


def test_an_empty_corpus_is_one_line(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    result = place.run(
        "score",
        place.config,
        "--lenses",
        "logit",
        "--corpus",
        str(tmp_path / "empty.txt"),
        "--score",
        "input",
    )
    assert result.exit_code == 1
    assert "holds no text" in result.stderr.splitlines()[-1]


def test_output_scores_are_of_steered_features_and_are_resumed(place: Workplace) -> None:
    asked = "score", place.config, "--score", "output", "--features", "2", "--layers", "1"
    result = place.run(*asked, "--lenses", "logit,zero-out", "--json")

    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {row["protocol"] for row in rows} == {"paired"}
    assert all(row["n"] + row["left_out"] == 2 for row in rows)
    table = place.run(*asked, "--lenses", "logit")
    assert "behind 100 prefixes" in " ".join(table.stdout.split())


@pytest.mark.parametrize("protocol", ["paired", "published"])
def test_a_run_that_was_killed_steers_only_what_is_left_and_gives_the_same_rows(
    place: Workplace, protocol: str
) -> None:
    killed, whole = (place.with_cache(f"{protocol} {name}") for name in ("killed", "whole"))
    options = ("--features", "4", "--layers", "1", "--lenses", "logit", "--json")
    asked = ("--score", "output", "--protocol", protocol, *options)
    module = "output_score" if protocol == "paired" else "published"
    last_step = f"lens_core.scores.{module}.raised_by"
    third = killed.folder / "third"
    process = killed.start_prepared(
        "score", killed.config, *asked,
        first="import lens_core.scores.published as published\npublished.WRITTEN = 2\n"
        + held(last_step, third, after=2),
    )  # fmt: skip
    until(third.exists, "two features are kept and a third is not", process)
    process.send_signal(signal.SIGKILL)
    assert process.communicate(timeout=PATIENCE)[0] == ""

    steered = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lens_core.scores.published.WRITTEN", 2)
        real = raised_by

        def counted(*of: Any) -> Any:
            steered.append(of)
            return real(*of)

        patch.setattr(last_step, counted)
        resumed = killed.run("score", killed.config, *asked)
        assert resumed.exit_code == 0, resumed.stderr
        assert len(steered) == 2
        rows = json.loads(resumed.stdout)
        assert rows == json.loads(whole.run("score", whole.config, *asked).stdout)
        assert len(steered) == 2 + 4
    assert all(row["n"] + row["left_out"] == 4 and row["n"] for row in rows)


def test_the_published_output_score_says_what_it_costs_and_stands_beside_the_input_score(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lens_core.scores.published.WRITTEN", 2)
    asked = (*score(place)[:2], *score(place)[4:], "--features", "2", "--layers", "1")
    asked = (*asked, "--lenses", "logit", "--protocol", "published")
    result = place.run(*asked, "--json")

    assert result.exit_code == 0, result.stderr
    told = "protocol published: each feature takes up to 20 passes over 100 prefixes and 4 tokens"
    assert told in " ".join(result.stderr.split())
    rows = json.loads(result.stdout)
    assert {(row["score"], row["protocol"]) for row in rows} == {
        ("input", "published"), ("output", "published"),
    }  # fmt: skip
    table = " ".join(place.run(*asked).stdout.split())
    assert "steered to KL 0.25 to 0.35 and 0.5 to 0.6, 2 tokens written behind each" in table


def test_a_protocol_of_the_other_score_is_refused(place: Workplace) -> None:
    refused = place.refusal(2, *score(place, "--protocol", "paired"))
    assert "--protocol paired is not one of the input score" in refused
    asked = ("score", place.config, "--score", "output", "--protocol", "in-order")
    assert "--protocol in-order is not one of the output score" in place.refusal(2, *asked)


def test_fidelity_is_rows_of_the_same_form_without_operators_by_walks(place: Workplace) -> None:
    asked = ("score", place.config, "--score", "fidelity", "--layers", "1", "--features", "2")
    assert "run `qlens build`" in place.run(*asked, "--json").stderr.splitlines()[-1]
    result = place.run(*asked, "--protocol", "variance", "--json")

    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert all(row.keys() == KEYS for row in rows)
    assert {(row["lens"], row["side"]) for row in rows} == {
        (lens, side) for lens in ("query", "first-order") for side in ("value", "key")
    }
    for row in rows:
        assert (row["score"], row["protocol"]) == ("fidelity", "variance")
        assert row["k"] is row["ceiling"] is row["share"] is None
        assert row["n"] == 2
    table = place.run(*asked, "--protocol", "thirds")
    assert table.exit_code == 0, table.stderr
    head, *lines = table.stdout.splitlines()
    assert head.split() == ["layer", "lens", "fidelity", "thirds", "k=25"]
    assert "ceiling" not in table.stdout
    assert "thirds: 2 features; 0 without a direction left out" in " ".join(lines)


def test_fidelity_does_not_choose_lenses_or_other_protocols(place: Workplace) -> None:
    asked = ("score", place.config, "--score", "fidelity")
    assert "leave --lenses out" in place.refusal(2, *asked, "--lenses", "query")
    refused = place.refusal(2, *asked, "--protocol", "paired")
    assert "--protocol paired is not one of the fidelity score" in refused
    refused = place.refusal(2, "score", place.config, "--protocol", "thirds")
    assert "--protocol thirds is not one of the input or output score" in refused
