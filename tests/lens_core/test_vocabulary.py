"""Every id of every kind of vocabulary has a unique face, which finds the id."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lens_core.errors import UsageError
from lens_core.faces import joined
from lens_core.vocabulary import Vocabulary

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def fast(tokenizer: Tokenizer, **special: str) -> transformers.PreTrainedTokenizerFast:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def literal(*texts: str) -> list[AddedToken]:
    return [AddedToken(text, normalized=False) for text in texts]


def byte_level(*added: str) -> transformers.PreTrainedTokenizerFast:
    """Single bytes, the first two bytes of U+6218, and tokens that were added."""
    merges = [("æ", "Ī")]
    pieces = [*ALPHABET, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE({piece: at for at, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(literal(*added))
    return fast(tokenizer)


def sentencepiece(*pieces: str) -> transformers.PreTrainedTokenizerFast:
    """As in Llama 2 and Gemma: spaces as U+2581, and bytes for text without a piece."""
    names = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    model = models.BPE(
        {name: at for at, name in enumerate(names)}, [], unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast(tokenizer, unk_token="<unk>", bos_token="<s>")


def word_piece() -> transformers.PreTrainedTokenizerFast:
    names = ["[UNK]", "ing", "##ing", "war", "##s"]
    tokenizer = Tokenizer(
        models.WordPiece({name: at for at, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return fast(tokenizer, unk_token="[UNK]")


class Plain:
    """A tokenizer in plain Python: pieces that may be bytes (tiktoken), ids with gaps."""

    def __init__(self, pieces: dict[Any, int]) -> None:
        self._pieces = {at: piece for piece, at in pieces.items()}

    def get_vocab(self) -> dict[Any, int]:
        return {piece: at for at, piece in self._pieces.items()}

    def decode(self, ids: list[int], **_options: object) -> str:
        piece = self._pieces[ids[0]]
        return piece.decode("utf-8", "replace") if isinstance(piece, bytes) else piece

    def encode(self, text: str, **_options: object) -> list[int]:
        return [at for at, piece in self._pieces.items() if piece in (text, text.encode())]


HOSTILE = (
    " ", "A", "#7", "<id 7>", "<id 999>", "A#3", "\\xe6", "\\xe6\\x88", "\N{REPLACEMENT CHARACTER}",
    "\x1b[2J", "a\nb", "<0xE6>", "▁x", "Ġ", "\u202e", "[/", " \N{REPLACEMENT CHARACTER}",
)  # fmt: skip


def check(vocabulary: Vocabulary) -> list[str]:
    """Faces are valid text, one an id, and each finds its id."""
    ids = list(range(vocabulary.d_vocab))
    faces = vocabulary.texts(ids)
    assert len(set(faces)) == len(ids)
    assert [vocabulary.id_of(face) for face in faces] == ids
    assert all(vocabulary.id_of(f"#{token}") == token for token in ids)
    assert all(face.encode("utf-8") for face in faces)
    return faces


@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_level(),
        byte_level(*HOSTILE),
        sentencepiece("▁", "▁▁", "a", "▁a", "A", "\n", "▁war", "war", "<0xE6>x", "#7", "\\xe6"),
        word_piece(),
    ],
    ids=["bytes", "hostile", "sentencepiece", "wordpiece"],
)
def test_every_id_has_a_face_that_finds_it(tokenizer: Any) -> None:
    check(Vocabulary(tokenizer, len(tokenizer) + 5))


@given(
    st.lists(
        st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=3),
        unique=True,
        max_size=12,
    )
)
@settings(max_examples=50, deadline=None)
def test_whatever_is_added_every_id_has_a_face_that_finds_it(added: list[str]) -> None:
    tokenizer = byte_level(*added)
    check(Vocabulary(tokenizer, len(tokenizer)))


@given(
    st.dictionaries(
        st.sampled_from(HOSTILE)
        | st.binary(min_size=1, max_size=3)
        | st.text(st.characters(codec="utf-8")),
        st.integers(0, 40),
        max_size=12,
    )
)
def test_pieces_that_are_bytes_and_ids_with_gaps(pieces: dict[Any, int]) -> None:
    check(Vocabulary(Plain(pieces), 42))  # type: ignore[arg-type]


def test_part_of_a_character_is_named_by_its_bytes() -> None:
    faces = check(Vocabulary(byte_level(), 257))

    assert faces[ALPHABET.index("æ")] == r"\xe6"
    assert faces[256] == r"\xe6\x88"
    assert faces[ALPHABET.index("Ġ")] == " "
    assert joined([faces[256], faces[ALPHABET.index("\u013a")]]) == "\u6218"


def test_a_text_that_reads_like_bytes_is_told_from_them() -> None:
    tokenizer = byte_level("\\xe6\\x88")
    vocabulary = Vocabulary(tokenizer, len(tokenizer))

    assert vocabulary.text(257) == r"\\xe6\\x88"
    assert vocabulary.id_of(r"\xe6\x88") == 256
    assert vocabulary.id_of("\udce6\udc88") == 256  # as a shell hands bytes over


def test_an_id_is_named_by_its_number_and_a_token_of_that_text_by_another_face() -> None:
    tokenizer = byte_level("#7", "<id 7>")
    vocabulary = Vocabulary(tokenizer, 300)

    assert vocabulary.id_of("#7") == 7
    assert vocabulary.id_of("#257") == 257
    assert vocabulary.texts([257, 258]) == ["#7#257", "<id 7>#258"]
    assert vocabulary.text(290) == "<id 290>"
    assert vocabulary.id_of("<id 290>") == 290
    assert vocabulary.id_of("#00000000000000000007") == 7


@pytest.mark.parametrize("number", ["300", "9" * 9, "9" * 10, "9" * 20, "9" * 5000, "1" + "0" * 30])
@pytest.mark.parametrize("form", ["#{}", "<id {}>", "#000{}"])
def test_an_id_outside_the_vocabulary_is_told_its_size(number: str, form: str) -> None:
    named = form.format(number)

    with pytest.raises(UsageError) as caught:
        Vocabulary(byte_level(), 300).id_of(named)

    assert str(caught.value) == (
        f"'{named}' is outside the vocabulary, which has 300 tokens (ids 0 to 299)"
    )


@pytest.mark.parametrize("token_id", [-1, 300, 10**30])
def test_a_number_that_is_no_id_is_told_the_size_of_the_vocabulary(token_id: int) -> None:
    with pytest.raises(UsageError, match=f"^token id {token_id} is outside .* 300 tokens"):
        Vocabulary(byte_level(), 300).check(token_id)


def test_of_ids_with_one_text_the_one_that_is_used_is_plain() -> None:
    vocabulary = Vocabulary(sentencepiece("A", "\n", "▁", "▁A"), 262)

    assert vocabulary.texts([258, 259, 260, 261]) == ["A", "\n", " ", " A"]
    assert vocabulary.text(2 + ord("A")) == "A#67"
    assert vocabulary.text(2 + ord("B")) == "B"
    assert vocabulary.text(2 + 0xE6) == r"\xe6"
    assert vocabulary.id_of("A") == 258


def test_an_added_token_may_have_the_text_of_a_piece() -> None:
    vocabulary = Vocabulary(byte_level(" ", "A#257"), 259)

    # The tokenizer takes added tokens first.
    assert vocabulary.text(257) == " "
    assert vocabulary.text(ALPHABET.index("Ġ")) == f" #{ALPHABET.index('Ġ')}"


def test_continuations_of_words_are_told_from_words() -> None:
    assert check(Vocabulary(word_piece(), 5)) == ["[UNK]", "ing", "##ing", "war", "##s"]


def test_the_largest_id_is_not_the_number_of_tokens() -> None:
    vocabulary = Vocabulary(Plain({"a": 0, "b": 9, "": 3}), 12)  # type: ignore[arg-type]

    assert vocabulary.texts([0, 3, 8, 9, 11]) == ["a", "<id 3>", "<id 8>", "b", "<id 11>"]
    assert vocabulary.id_of("b") == 9


def test_a_token_without_a_row_is_refused_by_name() -> None:
    vocabulary = Vocabulary(byte_level("zebra"), 257)

    assert vocabulary.text(257) == "zebra"
    with pytest.raises(UsageError, match=r"'zebra' \(id 257\) is a token without an embedding"):
        vocabulary.id_of("zebra")


def test_what_is_no_token_is_shown_in_its_pieces() -> None:
    vocabulary = Vocabulary(sentencepiece("▁war", "war", "▁", "a"), 262)

    with pytest.raises(UsageError, match=r"'wara' is not one token but .*'a'"):
        vocabulary.id_of("wara")
    with pytest.raises(UsageError, match="'\udce6\udc88' is not a token"):
        vocabulary.id_of("\udce6\udc88")
