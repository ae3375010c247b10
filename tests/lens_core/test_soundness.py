"""Unusable weights are reported before they lead to an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_core.config import ModelConfig
from lens_core.errors import ModelError
from lens_core.loading import load_model
from lens_core.soundness import LARGEST, unsound
from tests.models import ARCHITECTURES, tiny_hf

NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(NUMBERS, max_size=6), st.lists(NUMBERS, max_size=6))
def test_the_first_tensor_with_a_number_of_no_use_is_named(a: list[float], b: list[float]) -> None:
    said = unsound([("a", torch.tensor(a)), ("b", torch.tensor(b)), ("c", torch.tensor([1]))])

    bad = [
        name
        for name, values in (("a", a), ("b", b))
        if any(not abs(value) <= LARGEST for value in values)
    ]
    if not bad:
        assert said is None
    else:
        assert said is not None
        assert f" in {bad[0]}" in said
        assert ("NaN" in said) == any(value != value for value in (a if bad[0] == "a" else b))


@pytest.fixture
def saved(tmp_path: Path, word_tokenizer: Any) -> Any:
    def save(architecture: str, values: dict[str, float]) -> Path:
        """The tiny model with two rows of each named weight at a value, of either sign."""
        model = tiny_hf(architecture).float()
        for name, value in values.items():
            rows = dict(model.named_parameters())[name].data[:2]
            rows[:, ::2], rows[:, 1::2] = value, -value
        folder = tmp_path / architecture
        model.save_pretrained(folder)
        word_tokenizer.save_pretrained(folder)
        return folder

    return save


def _refusal(folder: Path, dtype: str = "float32") -> str:
    with pytest.raises(ModelError) as caught:
        load_model(
            ModelConfig(name=str(folder)), device="cpu", dtype=dtype, cache_dir=folder / "cache"
        )
    message = str(caught.value)
    assert "\n" not in message
    assert "architecture" not in message
    return message


MLP_OUT = {
    "gpt2": "transformer.h.1.mlp.c_proj.weight",
    **dict.fromkeys(("llama", "gemma3", "qwen3"), "model.layers.1.mlp.down_proj.weight"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_weight_whose_square_overflows_is_named(
    architecture: str, dtype: str, saved: Any
) -> None:
    message = _refusal(saved(architecture, {MLP_OUT[architecture]: 1e30}), dtype)

    assert f"values up to 1e+30 in {MLP_OUT[architecture]}" in message
    assert "overflow in float32" in message


MLP_IN = {
    "gpt2": "transformer.h.1.mlp.c_fc.weight",
    **dict.fromkeys(("llama", "gemma3", "qwen3"), "model.layers.1.mlp.up_proj.weight"),
}
NEXT_NORM = {"gpt2": "transformer.h.2.ln_1", "llama": "model.layers.2.input_layernorm",
             "gemma3": "model.layers.1.post_feedforward_layernorm",
             "qwen3": "model.layers.2.input_layernorm"}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_numbers_that_overflow_together_name_the_norm_and_the_largest_weight(
    architecture: str, dtype: str, saved: Any
) -> None:
    both = {MLP_IN[architecture]: 1e14, MLP_OUT[architecture]: 2e15}
    message = _refusal(saved(architecture, both), dtype)

    assert f"overflow in front of {NEXT_NORM[architecture]};" in message
    assert f"its largest weight is 2e+15, in {MLP_OUT[architecture]}:" in message


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_large_weights_that_do_not_overflow_are_no_concern(
    architecture: str, saved: Any, tmp_path: Path
) -> None:
    folder = saved(architecture, {MLP_OUT[architecture]: 1e5})
    opened = load_model(
        ModelConfig(name=str(folder)), device="cpu", dtype="float32", cache_dir=tmp_path / "cache"
    )
    assert opened.n_layers
