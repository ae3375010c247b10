"""Tokens without a row in the model's embedding are left out, counted and reported."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lens_core.config import ReferenceConfig
from lens_core.errors import QlensWarning, SampleError, UsageError
from lens_core.reference import ReferenceSample, load_reference, sample_chunks

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ROWS = 25
"""The alphabet without z."""


def letters(bos: str | None = None) -> PreTrainedTokenizerFast:
    """One token per letter, the last of which the model lacks."""
    words = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, "a"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=bos)


def drawn(text: str, folder: Path, bos: str | None = None, **settings: object) -> ReferenceSample:
    path = folder / "text.txt"
    path.write_text(text)
    config = ReferenceConfig(**{"source": f"text:{path}", "samples": 4, "length": 5} | settings)
    return load_reference(config, letters(bos), d_vocab=ROWS, offline=True)


def texts_of(sample: ReferenceSample) -> list[str]:
    return ["".join(LETTERS[int(i)] for i in row) for row in sample.tokens]


def test_a_text_without_such_tokens_gives_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", QlensWarning)
        assert set(texts_of(drawn("abcde" * 9, tmp_path))) == {"abcde"}


def test_samples_come_from_between_the_gaps_and_the_warning_counts_them(tmp_path: Path) -> None:
    text = ("abcde" * 4 + "zz" + "fghij" * 4) * 3
    with pytest.warns(QlensWarning) as caught:
        sample = drawn(text, tmp_path, samples=8)
    said = str(caught[0].message)
    assert "6 of 126 tokens (ids 25) have no row in the model's embedding of 25" in said
    assert "left out" in said
    assert "run across" not in said
    assert set(texts_of(sample)) <= {"abcde", "fghij"}


def test_a_sample_runs_across_a_gap_only_where_there_is_no_other(tmp_path: Path) -> None:
    text = "abcde" * 2 + "fgzhij" + "klmno"
    with pytest.warns(QlensWarning, match="left out$"):
        assert "fghij" not in texts_of(drawn(text, tmp_path, samples=3))
    with pytest.warns(QlensWarning, match="1 of 4 samples run across such a gap"):
        assert "fghij" in texts_of(drawn(text, tmp_path, samples=4))


def test_a_text_of_gaps_alone_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"gives 0 chunks .* 40 of 40 tokens .* have no row"):
        drawn("z" * 40, tmp_path)


def test_a_token_file_may_not_name_such_a_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text("[[1, 25]]")
    config = ReferenceConfig(source=f"tokens:{path}")
    with pytest.raises(SampleError, match=r"position 1: 25 is not a token id of the model"):
        load_reference(config, letters(), d_vocab=ROWS, offline=True)


def test_a_beginning_of_sequence_token_without_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="beginning-of-sequence token 25 has no row"):
        drawn("abcde" * 9, tmp_path, bos="z", prepend_bos=True)
    drawn("abcde" * 9, tmp_path, bos="y", prepend_bos=True)


@given(st.lists(st.sampled_from(["abcde", "fg", "z", "zz", "hijkl"]), min_size=20, max_size=40))
def test_no_sample_holds_a_missing_token_or_hides_a_gap_it_could_avoid(parts: list[str]) -> None:
    text = "".join(parts)
    config = ReferenceConfig(source="text:x", samples=2, length=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tokens = sample_chunks([text], letters(), config, ROWS)
        except SampleError:
            assert len(text.replace("z", "")) < 2 * 5
            return
    samples = ["".join(LETTERS[int(i)] for i in row) for row in tokens]
    kept = text.replace("z", "")
    clean = [
        kept[at : at + 5] for at in range(0, len(kept) - 4, 5) if not _gap_inside(text, at, at + 5)
    ]
    assert not any("z" in sample for sample in samples)
    told = any("run across" in str(warning.message) for warning in caught)
    assert told == (len(clean) < 2)
    assert ("z" in text) == bool(caught)


def _gap_inside(text: str, start: int, stop: int) -> bool:
    """Whether a z lies between two of the kept letters `start` to `stop`."""
    places = [at for at, letter in enumerate(text) if letter != "z"]
    return places[stop - 1] - places[start] != stop - 1 - start
