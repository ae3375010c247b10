"""`qlens show --lens`: lists of lenses on request beside the others."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.qlens_tui.workplace import (
    N_LAYERS,
    Workplace,
)


def test_a_baseline_stands_beside_the_lenses_in_tables_and_documents(place: Workplace) -> None:
    plain = place.document("show", place.config, "1:3", "--no-paths")
    shown = place.document(
        "show", place.config, "1:3", "--no-paths", "--lens", "query:exact", "--lens", "tuned",
        "--lens", "query",
    )  # fmt: skip
    exact = shown["value"].pop("query_lens_exact")
    assert exact.keys() == shown["value"]["query_lens"].keys()
    assert len(exact["ids"]) == 5
    reason = shown["value"].pop("tuned_lens")["reason"]
    assert reason == "Tuned Lens needs its parameters: set [lens].tuned to a file or a folder"
    for side in ("value", "key"):
        for lens in ("logit_lens", "query_lens", "first_order"):
            assert shown[side][lens]["tokens"] == plain[side][lens]["tokens"]
        assert shown[side]["n_tokens"] == plain[side]["n_tokens"]
    table = place.run("show", place.config, "1:3", "--no-paths", "--lens", "query:exact").stdout
    assert table.count("Query Lens, exact") == 2
    assert "none" not in table


def test_a_tuned_lens_is_read_from_the_configuration_s_folder(place: Workplace) -> None:
    draw = torch.Generator().manual_seed(0)
    made = {f"{layer}.weight": torch.randn(16, 16, generator=draw) / 4 for layer in range(N_LAYERS)}
    save_file(made, place.folder / "tuned.safetensors")
    text = Path(place.config).read_text().replace("k = 5", 'k = 5\ntuned = "tuned.safetensors"')
    config = place.write("with_tuned.toml", text)
    shown = place.document("show", config, "0:3", "--no-paths", "--lens", "tuned")
    assert len(shown["value"]["tuned_lens"]["ids"]) == 5
    assert shown["value"]["tuned_lens"]["ids"] != shown["value"]["logit_lens"]["ids"]
    save_file({"0.weight": torch.zeros(3, 3)}, place.folder / "tuned.safetensors")
    line = place.refusal(1, "show", config, "0:3", "--lens", "tuned")
    assert f"{place.folder / 'tuned.safetensors'} does not fit" in line
    assert "found 0.weight of 3x3, expected 16x16: check [lens].tuned" in line


def test_an_unknown_baseline_is_refused_before_the_model_is_loaded(place: Workplace) -> None:
    line = place.refusal(2, "show", place.config, "0:3", "--lens", "zero\x1b[31m")
    assert "there is no lens" in line
    assert "\x1b" not in line


def test_a_baseline_that_runs_the_model_says_over_how_many_tokens(place: Workplace) -> None:
    args = "show", place.config, "1:3", "--no-paths", "--lens", "zero-out"
    shown = place.document(*args, "--lens", "token-change:5")
    for name in ("zero_out", "token_change_5"):
        assert shown["value"][name]["n_tokens"] == 80
        assert len(shown["value"][name]["ids"]) == 5
        assert shown["key"][name]["reason"].endswith("has no key side")
    fewer = place.document(*args, "--tokens", "21")
    assert fewer["value"]["zero_out"]["n_tokens"] == 40
    assert "Zero-Out over 80 tokens" in place.run(*args).stdout
