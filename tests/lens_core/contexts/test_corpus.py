"""What is read of a corpus, and how it is cut."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from lens_core import documents
from lens_core.contexts.corpus import read_corpus
from lens_core.contexts.source import CorpusSource
from lens_core.errors import LensError, QlensWarning, SampleError, UsageError
from lens_core.reference import ReferenceSample

Written = Callable[..., Path]


@pytest.fixture
def read(word_tokenizer: PreTrainedTokenizerBase, reference: ReferenceSample) -> Any:
    def read(path: object, tokens: int = 10**6, **changes: Any) -> ReferenceSample:
        options = {"d_vocab": 101, "prepend_bos": False, "tokens": tokens} | changes
        of = options.pop("reference", reference)
        return read_corpus(CorpusSource.parse(str(path)), word_tokenizer, of, **options)

    return read


def ids_of(path: Path) -> list[int]:
    return [int(word[1:]) for word in path.read_text().split()]


def test_samples_are_the_chunks_of_the_text_in_order(read: Any, written: Written) -> None:
    path = written(205)
    corpus = read(path)

    assert corpus.tokens.flatten().tolist() == ids_of(path)[:200]
    assert corpus.tokens.shape == (10, 20)
    assert (corpus.skip_first, corpus.skip_last, corpus.n_tokens) == (1, 2, 170)
    assert corpus.origin == f"text:{path}"


@pytest.mark.parametrize(("tokens", "samples"), [(1, 1), (17, 1), (18, 2), (34, 2), (999, 10)])
def test_tokens_that_count_are_rounded_up_to_samples(
    read: Any, written: Written, tokens: int, samples: int
) -> None:
    assert read(written(205), tokens).samples == samples


def test_a_beginning_stands_before_every_chunk(read: Any, written: Written) -> None:
    path = written(60)
    corpus = read(path, prepend_bos=True)

    assert corpus.tokens[:, 0].tolist() == [0, 0, 0]
    assert corpus.tokens[:, 1:].flatten().tolist() == ids_of(path)[:57]


def test_samples_of_the_reference_are_left_out_and_others_taken_instead(
    read: Any, written: Written
) -> None:
    ids = torch.tensor(ids_of(path := written(200))).view(10, 20)
    known = ReferenceSample(ids[[0, 2]], "made here")

    assert torch.equal(read(path, 60, reference=known).tokens, ids[[1, 3, 4]])
    with pytest.raises(SampleError, match="no sample that the reference lacks: take another"):
        read(written(20), reference=ReferenceSample(ids[:1], "made here"))


def test_chunks_across_a_token_that_the_model_lacks_are_left_out(
    read: Any, written: Written
) -> None:
    ids = ids_of(path := written(203))
    assert {98, 99, 100}.intersection(ids)
    with pytest.warns(QlensWarning, match=r"have no row .* were left out, with \d+ of \d+ samples"):
        corpus = read(path, d_vocab=98)
    text = ",".join(map(str, ids))
    for row in corpus.tokens.tolist():
        assert ",".join(map(str, row)) in text


def test_a_long_text_is_read_only_as_far_as_needed(
    read: Any, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_PIECE", 64)
    seen: list[tuple[int, int]] = []
    read(written(5000), 17, progress=lambda *told: seen.append(told))

    enough = (1 + 5) * 20  # the reference's five samples may be among them
    assert seen[-1] == (enough, enough)
    assert len(seen) < 20


@pytest.mark.parametrize("line", ["x" * 5000, "語" * 5000, "x\r\n" * 3000])
def test_a_line_without_end_is_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(documents, "_PIECE", 64)
    monkeypatch.setattr(documents, "_AT_MOST", 100)
    path = tmp_path / "long.txt"
    path.write_bytes(line.encode())
    pieces = list(documents.text_documents(path))

    assert "".join(pieces) == line.replace("\r\n", "\n")
    assert max(map(len, pieces)) <= 200


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no text and a sample takes 20: take a longer text"),
        (b"w3 w4 w5", "holds 3 tokens and a sample takes 20: take a longer text"),
        (b"w3 \x00\x01", "is not text (byte 3 is zero): give a text file in UTF-8"),
        (b"w3 \xff\xfe", "is not UTF-8 (byte 3): save it as UTF-8"),
        ("w3 語".encode()[:-1], "is not UTF-8 (byte 3): save it as UTF-8"),
    ],
)
def test_text_that_gives_no_sample_is_one_line(
    read: Any, tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(SampleError, match=re.escape(said)) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(read: Any, tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no", "No such file")):
        with pytest.raises(SampleError, match=f"corpus {path} cannot be read: {reason}"):
            read(path)
        with pytest.raises(SampleError, match=reason):
            CorpusSource.parse(str(path)).check()


def test_a_hub_name_that_is_none_or_out_of_reach_is_one_line(read: Any, hub_cache: Path) -> None:
    with pytest.raises(UsageError, match="'hub:no such' is not hub:OWNER/NAME"):
        CorpusSource.parse("hub:no such")
    with pytest.raises(
        SampleError, match=r"this run is offline.*or use --corpus bundled"
    ) as caught:
        read("hub:someone/text", offline=True)
    assert "\n" not in str(caught.value)


def test_a_model_without_tokenizer_is_refused(reference: ReferenceSample) -> None:
    source = CorpusSource.parse("bundled")
    with pytest.raises(LensError, match="needs a tokenizer"):
        read_corpus(source, None, reference, d_vocab=9, prepend_bos=False, tokens=1)


def test_the_bundled_corpus_is_not_the_bundled_reference() -> None:
    corpus, reference = documents.held_out_documents(), documents.bundled_documents()
    passage = next(iter(corpus)).strip()

    assert len(passage) > 200
    assert passage not in next(iter(reference))
    assert str(CorpusSource.parse("bundled")) == "bundled held-out text"
    assert sum(map(len, documents.held_out_documents())) > 600_000
