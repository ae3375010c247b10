"""Messages for errors that other libraries raise on files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from lens_core.foreign import in_plain_words


def _raised(act: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        act()
    assert isinstance(caught.value, Exception)
    return caught.value


def _of_no_file(tmp: Path) -> Any:
    return (tmp / "none").read_bytes()


def _of_a_damaged_file(tmp: Path) -> Any:
    (tmp / "x.safetensors").write_bytes(b"hello" * 9)
    return safe_open(tmp / "x.safetensors", "pt")


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda tmp: {}["w_enc"], "it has no entry w_enc"),
        (lambda tmp: {}[3], "it has no entry 3"),
        (lambda tmp: SimpleNamespace(1), "its content is not what the library"),
        (lambda tmp: {}(2), "its content is not what the library"),
        (lambda tmp: None.cfg, "its content is not what the library"),
        (lambda tmp: None["x"], "its content is not what the library"),
        (lambda tmp: [][3], "its content is not what the library"),
        (lambda tmp: int("x"), "its content is not what the library"),
        (lambda tmp: json.loads("{"), "Expecting property name"),
        (lambda tmp: json.loads("[" * 100_000), "it is nested too deeply"),
        (_of_no_file, "No such file or directory"),
        (_of_a_damaged_file, "the safetensors file is damaged or incomplete"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_without_words_about_code(
    act: Callable[[Path], Any], says: str, tmp_path: Path
) -> None:
    said = in_plain_words(_raised(lambda: act(tmp_path)))

    assert said.startswith(says)
    for word in ("Error", "NoneType", "__init__", "unexpected keyword", "object", "Errno"):
        assert word not in said


def test_a_pickle_is_said_never_to_be_opened() -> None:
    said = in_plain_words(UnpicklingError("Weights only load failed..."))

    assert said == "it is a pickle that holds more than tensors, which is never opened"


def test_tensors_that_do_not_fit_are_named_with_their_shapes() -> None:
    module = torch.nn.Linear(3, 2)
    lacks = _raised(lambda: module.load_state_dict({"weight": torch.zeros(2, 3)}))
    wrong = {"weight": torch.zeros(2, 4), "bias": torch.zeros(2), "x.y": torch.zeros(1)}
    other = _raised(lambda: module.load_state_dict(wrong))

    assert in_plain_words(lacks) == "it lacks bias"
    assert in_plain_words(other) == (
        "it unexpectedly holds x.y; weight has the shape [2, 4] where [2, 3] is expected"
    )


@given(st.text(max_size=400), st.sampled_from([ValueError, OSError, RuntimeError, KeyError]))
def test_any_text_is_one_line_without_a_token(text: str, kind: type[Exception]) -> None:
    said = in_plain_words(kind(f"{text} hf_abcdefghij"))

    assert len(said.splitlines()) <= 1
    assert "hf_abcdefghij" not in said
