"""Reference samples: where tokens come from, which chunks are drawn, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import lens_core.documents as documents
import lens_core.reference as reference_module
from lens_core.config import ReferenceConfig
from lens_core.errors import LensError, SampleError, UsageError
from lens_core.reference import (
    ReferenceSample,
    load_reference,
    reference_center,
)
from lens_core.token_file import read_token_file
from tests.lens_core.byte_text import BYTES, V, assert_one_line, byte_tokenizer, load, texts_of


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    lines = (hashlib.sha256(bytes([i])).hexdigest() for i in range(60))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


# Which chunks are drawn


def test_samples_are_contiguous_chunks_of_the_text(text_file: Path) -> None:
    text = text_file.read_text("utf-8")
    chunks = [text[i : i + 8] for i in range(0, len(text), 8)]
    sample = load(f"text:{text_file}", samples=50)
    assert sample.tokens.shape == (50, 8)
    assert sample.tokens.dtype == torch.int64
    drawn = texts_of(sample)
    assert len(set(drawn)) == 50
    assert set(drawn) <= set(chunks)


def test_the_draw_follows_the_hashes_of_seed_and_chunk_on_every_machine(tmp_path: Path) -> None:
    path = tmp_path / "letters.txt"
    path.write_text("".join(letter * 2 for letter in "abcdefghij"))
    order = sorted(range(10), key=lambda i: hashlib.sha256(f"42:{i}".encode()).digest())
    drawn = texts_of(load(f"text:{path}", samples=10, length=2, seed=42))
    assert drawn == ["abcdefghij"[i] * 2 for i in order]
    # Written down, so that a change of the rule cannot go unnoticed.
    assert "".join(text[0] for text in drawn) == "bagehjfidc"


def test_the_same_settings_give_the_same_fingerprint_and_another_seed_another(
    text_file: Path,
) -> None:
    source = f"text:{text_file}"
    assert load(source, seed=1).sha256 == load(source, seed=1).sha256
    assert load(source, seed=1).sha256 != load(source, seed=2).sha256


def test_a_smaller_reference_is_the_beginning_of_a_larger_one(text_file: Path) -> None:
    small, large = load(f"text:{text_file}", samples=5), load(f"text:{text_file}", samples=40)
    assert torch.equal(small.tokens, large.tokens[:5])


def test_prepend_bos_puts_the_token_in_front_of_shorter_chunks(text_file: Path) -> None:
    with_bos = load(f"text:{text_file}", length=9, prepend_bos=True)
    without = load(f"text:{text_file}", length=8)
    assert with_bos.tokens.shape == (4, 9)
    assert (with_bos.tokens[:, 0] == BYTES.bos_token_id).all()
    assert torch.equal(with_bos.tokens[:, 1:], without.tokens)


def test_prepend_bos_without_such_a_token_is_refused(text_file: Path) -> None:
    with pytest.raises(UsageError, match="no beginning-of-sequence token") as caught:
        load(f"text:{text_file}", byte_tokenizer(None), prepend_bos=True)
    assert_one_line(caught.value)


def test_prepend_bos_leaves_no_room_in_samples_of_one_token(text_file: Path) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        load(f"text:{text_file}", length=1, prepend_bos=True)


def test_too_little_text_says_how_many_chunks_there_are(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("a" * 31)
    assert load(f"text:{path}", samples=3).samples == 3
    with pytest.raises(SampleError, match=r"gives 3 chunks of 8 tokens .* asks for 4") as caught:
        load(f"text:{path}", samples=4)
    assert_one_line(caught.value)


def test_an_empty_text_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(SampleError, match="gives 0 chunks"):
        load(f"text:{tmp_path / 'empty.txt'}")


def test_documents_past_the_pool_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_module, "POOL_TOKENS", 1)
    read: list[int] = []

    def endless():
        while True:
            read.append(len(read))
            yield f"{len(read):08d}" * 8

    config = ReferenceConfig(source="bundled", samples=4, length=8)
    sample = reference_module.sample_chunks(endless(), BYTES, config, V)
    assert len(read) == reference_module.POOL_SAMPLES * 4 * 8 // 64
    assert sample.shape == (4, 8)


def test_a_document_that_fills_the_pool_is_cut_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reference_module, "POOL_TOKENS", 1)
    inside = reference_module.POOL_SAMPLES * 4 * 8
    path = tmp_path / "long.txt"
    path.write_text("i" * inside + "o" * 100 * inside)
    assert texts_of(load(f"text:{path}")) == ["i" * 8] * 4


def test_few_samples_still_come_from_a_large_pool(text_file: Path) -> None:
    text = text_file.read_text("utf-8")
    places = [text.index(chunk) for chunk in texts_of(load(f"text:{text_file}", samples=8))]
    assert max(places) > len(text) / 2


def test_a_tokenizer_of_another_model_is_refused(text_file: Path) -> None:
    config = ReferenceConfig(source=f"text:{text_file}", samples=4, length=8)
    with pytest.raises(SampleError, match=r"have no row in the model's embedding of 10") as caught:
        load_reference(config, BYTES, d_vocab=10, offline=True)
    assert "check that the tokenizer is the model's" in assert_one_line(caught.value)


def test_a_model_without_tokenizer_can_only_take_token_ids(text_file: Path) -> None:
    with pytest.raises(UsageError, match=r"tokens:FILE\.json"):
        load(f"text:{text_file}", None)


# Bundled text


@pytest.fixture(scope="module")
def large_tokenizer() -> PreTrainedTokenizerFast:
    """50,000 tokens fitted to the bundled text itself: no real tokenizer makes it shorter."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=50_000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents.bundled_documents(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_the_bundled_text_holds_the_papers_reference(
    large_tokenizer: PreTrainedTokenizerFast,
) -> None:
    config = ReferenceConfig(source="bundled", samples=1024, length=32)
    sample = load_reference(config, large_tokenizer, d_vocab=len(large_tokenizer), offline=True)
    assert sample.tokens.shape == (1024, 32)
    assert sample.origin == "bundled"
    assert len(sample.tokens.unique(dim=0)) == 1024


def test_the_bundled_text_is_the_one_whose_licences_are_written_down() -> None:
    [text] = documents.bundled_documents()
    notes = Path(reference_module.__file__).parent / "data" / "LICENSES.md"
    assert hashlib.sha256(text.encode()).hexdigest() in notes.read_text("utf-8")


def test_the_bundled_text_is_clean_prose() -> None:
    [text] = documents.bundled_documents()
    assert len(text) > 600_000
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "  " not in text
    paragraphs = text.strip().split("\n\n")
    assert all(len(paragraph) >= 120 and "\n" not in paragraph for paragraph in paragraphs)
    assert len(set(paragraphs)) == len(paragraphs)


# Text files


def test_invalid_utf8_is_named_with_its_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9\n")
    with pytest.raises(SampleError, match=r"latin\.txt is not UTF-8 \(byte 3\)") as caught:
        load(f"text:{path}")
    assert_one_line(caught.value)


def test_invalid_utf8_far_into_a_file_is_named_with_its_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_PIECE", 16)
    path = tmp_path / "long.txt"
    path.write_bytes(b"abcdefg\n" * 100 + b"\xff\n")
    with pytest.raises(SampleError, match=r"\(byte 800\)"):
        list(documents.text_documents(path))


def test_the_pieces_of_a_text_file_are_the_file(
    text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_PIECE", 64)
    pieces = list(documents.text_documents(text_file))
    assert len(pieces) > 10
    assert "".join(pieces) == text_file.read_text("utf-8")


def test_byte_order_mark_and_windows_line_ends_are_not_tokens(tmp_path: Path) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes("\ufeffone\r\ntwo\r\n".encode())
    assert list(documents.text_documents(path)) == ["one\ntwo\n"]


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_a_missing_file_is_one_line(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"absent.* cannot be read: No such file") as caught:
        load(f"{kind}:{tmp_path / 'absent'}")
    assert_one_line(caught.value)


@pytest.mark.parametrize("kind", ["text", "tokens"])
def test_a_folder_instead_of_a_file_is_one_line(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="cannot be read: Is a directory") as caught:
        load(f"{kind}:{tmp_path}")
    assert_one_line(caught.value)


# Token files


def write_tokens(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_token_file_is_the_sample_whatever_the_settings_say(tmp_path: Path) -> None:
    rows = [[1, 2, 3], [4, 5, 0]]
    path = write_tokens(tmp_path / "t.json", rows)
    sample = load(f"tokens:{path}", None, samples=7, length=99, seed=3, prepend_bos=True)
    assert sample.tokens.tolist() == rows
    assert sample.tokens.dtype == torch.int64
    assert sample.origin == f"tokens:{path}"


@given(
    rows=st.integers(1, 5).flatmap(
        lambda n: st.lists(
            st.lists(st.integers(0, V - 1), min_size=n, max_size=n), min_size=1, max_size=5
        )
    )
)
@settings(max_examples=30)
def test_token_files_come_back_as_written(
    rows: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write_tokens(tmp_path_factory.mktemp("tokens") / "t.json", rows)
    assert read_token_file(path, V).tolist() == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], r"must hold a \[samples\]\[length\] list of token ids, not \[\]"),
        ({"tokens": [[1]]}, r"must hold a \[samples\]\[length\] list"),
        (3, "not 3"),
        ([1, 2], "sample 0: must be a list of token ids, not 1"),
        ([[]], r"sample 0: must be a list of token ids, not \[\]"),
        ([[1], []], "sample 1: must be a list of token ids"),
        ([[1], "ab"], "sample 1: must be a list of token ids, not 'ab'"),
        ([[1, 2], [3]], "sample 1: has 1 tokens, sample 0 has 2"),
        ([[1], [2, 3]], "sample 1: has 2 tokens, sample 0 has 1"),
        ([[1, 2.0]], "sample 0, position 1: 2.0 is not an integer"),
        ([[1, "2"]], "sample 0, position 1: '2' is not an integer"),
        ([[1, None]], "sample 0, position 1: None is not an integer"),
        ([[1, [2]]], r"sample 0, position 1: \[2\] is not an integer"),
        ([[1], [True]], "sample 1, position 0: True is not an integer"),
        ([[1, -1]], "sample 0, position 1: -1 is not a token id of the model"),
        ([[V - 1], [V]], f"sample 1, position 0: {V} is not a token id .*0 to {V - 1}"),
        ([[10**30]], "sample 0, position 0: 1000.* is not a token id"),
        ("[[1, 2", "is not JSON: .*line 1 column"),
        ("", "is not JSON"),
        ("[[1, NaN]]", "position 1: nan is not an integer"),
        ("[" * 100_000, "nested too deeply"),
        (f"[[{'9' * 5000}]]", "is not JSON: Exceeds the limit"),
        (["x" * 100_000], "sample 0: must be a list of token ids, not 'x"),
        (["a\nb\u2028"], "sample 0: must be a list"),
    ],
)
def test_a_bad_token_file_is_one_line_with_the_place(
    content: object, said: str, tmp_path: Path
) -> None:
    path = write_tokens(tmp_path / "t.json", content)
    with pytest.raises(SampleError, match=said) as caught:
        read_token_file(path, V)
    assert "t.json" in assert_one_line(caught.value)


def test_a_token_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(b"\xff\xff\xff\xff")
    with pytest.raises(SampleError, match="is not JSON") as caught:
        read_token_file(tmp_path / "t.json", V)
    assert_one_line(caught.value)


# The sample itself


def sample_of(samples: int, length: int, **skips: int) -> ReferenceSample:
    tokens = torch.arange(samples * length).view(samples, length)
    return ReferenceSample(tokens, "made here", **skips)


def test_skips_leave_positions_out_at_both_ends() -> None:
    sample = sample_of(3, 8, skip_first=2, skip_last=1)
    assert sample.tokens[0, sample.included].tolist() == [2, 3, 4, 5, 6]
    assert sample.n_tokens == 15
    assert (sample.samples, sample.length) == (3, 8)


def test_settings_reach_the_sample(text_file: Path) -> None:
    sample = load(f"text:{text_file}", skip_first=3, skip_last=1)
    assert (sample.skip_first, sample.skip_last, sample.n_tokens) == (3, 1, 16)


@pytest.mark.parametrize(("first", "last"), [(8, 0), (0, 8), (4, 4), (-1, 0), (0, -1)])
def test_skips_that_leave_nothing_or_are_negative_are_refused(first: int, last: int) -> None:
    with pytest.raises(UsageError, match="skip_first") as caught:
        sample_of(2, 8, skip_first=first, skip_last=last)
    assert_one_line(caught.value)


def test_a_token_file_shorter_than_the_skips_is_refused(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "t.json", [[1, 2], [3, 4]])
    with pytest.raises(UsageError, match="leave no position of samples of 2 tokens"):
        load(f"tokens:{path}", None, length=32, skip_first=2)


@pytest.mark.parametrize(("samples", "sizes"), [(1, (1, 0)), (2, (1, 1)), (5, (2, 3)), (6, (3, 3))])
def test_halves_are_disjoint_and_complete(samples: int, sizes: tuple[int, int]) -> None:
    sample = sample_of(samples, 2)
    first, second = (sample.tokens[half] for half in sample.split_halves())
    assert (len(first), len(second)) == sizes
    assert torch.equal(torch.cat([first, second]), sample.tokens)


def test_the_fingerprint_names_shape_tokens_and_skips_but_not_the_origin() -> None:
    tokens = torch.arange(24).view(4, 6)
    base = ReferenceSample(tokens, "one place")
    changed = tokens.clone()
    changed[3, 5] += 1
    others = [
        ReferenceSample(changed, "one place"),
        ReferenceSample(tokens.view(3, 8), "one place"),
        ReferenceSample(tokens, "one place", skip_first=1),
        ReferenceSample(tokens, "one place", skip_last=1),
    ]
    assert base.sha256 == ReferenceSample(tokens.clone(), "another place").sha256
    assert len({base.sha256, *(other.sha256 for other in others)}) == 5
    # Anyone can recompute it.
    payload = b"4 6 0 0\n" + b"".join(i.to_bytes(8, "little") for i in range(24))
    assert base.sha256 == hashlib.sha256(payload).hexdigest()


def test_errors_are_those_that_front_ends_turn_into_a_line() -> None:
    assert issubclass(SampleError, LensError)
    assert issubclass(UsageError, LensError)


# The centre of the input end


def test_the_center_is_the_mean_embedding_of_the_tokens_that_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reference_module, "_CENTER_ROWS", 3)
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(11, 5, generator=generator)
    tokens = torch.randint(0, 11, (6, 7), generator=generator)
    sample = ReferenceSample(tokens, "made here", skip_first=1, skip_last=2)
    expected = embedding.double()[tokens[:, 1:5]].mean(dim=(0, 1))
    center = reference_center(embedding, sample)
    assert center.dtype == embedding.dtype
    torch.testing.assert_close(center.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 100])
def test_the_center_does_not_drown_small_embeddings_in_rounding(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_module, "_CENTER_ROWS", rows)
    embedding = torch.tensor([[1e8], [1.0], [-1e8]])
    sample = ReferenceSample(torch.tensor([[0, 1, 1, 2]]), "made here")
    assert reference_center(embedding, sample).item() == 0.5
