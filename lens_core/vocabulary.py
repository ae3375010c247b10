r"""Token ids as text, and text as a token id: every id has its own face.

A face is what the token contributes to running text, including its leading space, if no other
id contributes the same. Otherwise the face makes the difference visible:

    ` war`        the text itself, raw
    `\xe6\x88`    bytes that are not a complete character (`lens_core.faces`)
    `A#68`        an id with the same text as another id, which is plain `A` (a SentencePiece
                  byte token and the letter, an added token and a piece)
    `<id 50270>`  an id without text: a padding row of the embedding, a gap between added tokens

`#24211` always names the id 24211; a token whose text looks like a name of an id (`#7`,
`<id 7>`) has its own id appended (`#7#1234`). Of several ids with the same text, the one that
the tokenizer uses for the text is plain; if it uses none of them, the lowest that is not a byte
token.

Faces are valid Unicode and otherwise untrusted: a front end must make them printable first.
Cost: the faces of all ids are computed together on first use, 0.3 s for 49,152 ids, because
finding duplicates needs all of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lens_core.errors import UsageError
from lens_core.faces import escape_bytes, id_named, outside, unescape_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCEPIECE_SPACE = "▁"
_UNDECODED = "\N{REPLACEMENT CHARACTER}"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_PIECES_SHOWN = 6


class Vocabulary:
    """The tokens of `tokenizer`, for a model with `d_vocab` embedding rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> None:
        self._tokenizer = tokenizer
        self.d_vocab = d_vocab

    def text(self, token_id: int) -> str:
        """The face of one token."""
        return self._faces.get(token_id) or f"<id {token_id}>"

    def texts(self, token_ids: list[int]) -> list[str]:
        """The face of each token."""
        return [self.text(token_id) for token_id in token_ids]

    @cached_property
    def same_text(self) -> list[int]:
        """For each row of the embedding the lowest id with the same raw text, if it has text."""
        found = list(range(self.d_vocab))
        for token_ids in self._alike.values():
            for token_id in token_ids:
                if token_id < self.d_vocab:
                    found[token_id] = min(token_ids)
        return found

    @cached_property
    def sha256(self) -> str:
        """Sha256 of all faces and of the number of rows (hex)."""
        content = json.dumps([self.d_vocab, sorted(self._faces.items())])
        return hashlib.sha256(content.encode()).hexdigest()

    def id_of(self, text: str) -> int:
        """The id of the token `text`: a face, raw text, or an id as `#24211`.

        Raises:
            UsageError: `text` is not one token (the message shows its pieces), or an id that the
            model has no row for.
        """
        found = self._find(text)
        if found is not None:
            return self._checked(found, f"'{text}'")
        if not text:
            raise UsageError("an empty string is not a token: give one token, or --id NUMBER")
        ids = self._encode(text)
        hint = ""
        for other in (" " + text, text.strip()):
            if other != text and self._find(other) is not None:
                hint = f"; '{other}' is one token"
                break
        pieces = " + ".join(f"'{self._shown(token)}'" for token in ids[:_PIECES_SHOWN])
        is_not = f"one token but {pieces}{' ...' if len(ids) > _PIECES_SHOWN else ''}"
        raise UsageError(
            f"'{text}' is not {is_not if ids else 'a token'}{hint}: give one token, or --id NUMBER"
        )

    def check(self, token_id: int) -> int:
        """Return `token_id` if it is valid.

        Raises:
            UsageError: the model has no such row.
        """
        return self._checked(token_id, f"token id {token_id}")

    def _checked(self, token_id: int, named: str) -> int:
        if 0 <= token_id < self.d_vocab:
            return token_id
        if token_id in self._faces:
            raise UsageError(
                f"'{self._shown(token_id)}' (id {token_id}) is a token without an embedding: "
                f"the model has rows 0 to {self.d_vocab - 1}"
            )
        raise UsageError(outside(named, self.d_vocab))

    def _find(self, text: str) -> int | None:
        found = self._ids.get(text)
        if found is None:
            found = self._ids.get(escape_bytes(text))
        return id_named(text) if found is None else found

    def _shown(self, token_id: int) -> str:
        """A face for a message, without escapes, because a front end escapes messages."""
        return unescape_bytes(self.text(token_id))

    def _encode(self, text: str) -> list[int]:
        try:
            encoded = self._tokenizer.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeError):  # bytes that are not text
            return []
        return [int(i) for i in encoded]

    @cached_property
    def _ids(self) -> Mapping[str, int]:
        return {face: token_id for token_id, face in self._faces.items()}

    @cached_property
    def _pieces(self) -> Mapping[int, str | bytes]:
        """The tokenizer's own name of each id."""
        pieces: dict[int, str | bytes] = {}
        for piece, token_id in self._tokenizer.get_vocab().items():
            pieces.setdefault(int(token_id), piece)
        return pieces

    @cached_property
    def _alike(self) -> Mapping[str, list[int]]:
        """All ids with text, by their text with bytes escaped."""
        alike: dict[str, list[int]] = defaultdict(list)
        decoded = self._decoded(self._pieces)
        for (token_id, piece), text_of in zip(self._pieces.items(), decoded, strict=True):
            if text := _text(piece, text_of):
                alike[escape_bytes(text)].append(token_id)
        return alike

    @cached_property
    def _faces(self) -> Mapping[int, str]:
        """The faces of all ids with text."""
        faces: dict[int, str] = {}
        taken = set(self._alike)
        for face, token_ids in self._alike.items():
            plain = None
            if id_named(face) is None:
                plain = self._plain(face, token_ids, self._pieces)
            for token_id in token_ids:
                own = face
                while token_id != plain and own in taken:
                    own = f"{own}#{token_id}"
                taken.add(own)
                faces[token_id] = own
        return faces

    def _decoded(self, token_ids: Iterable[int]) -> list[str]:
        """What the tokenizer decodes each single id to."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is not None:
            alone = [[token_id] for token_id in token_ids]
            return list(backend.decode_batch(alone, skip_special_tokens=False))
        exactly: dict[str, Any] = {
            "skip_special_tokens": False,
            "clean_up_tokenization_spaces": False,
        }
        return [str(self._tokenizer.decode([token_id], **exactly)) for token_id in token_ids]

    def _plain(self, face: str, token_ids: list[int], pieces: Mapping[int, str | bytes]) -> int:
        """Which of the ids with the same text has the plain face."""
        if len(token_ids) == 1:
            return token_ids[0]
        encoded = self._encode(unescape_bytes(face))
        if len(encoded) == 1 and encoded[0] in token_ids:
            return encoded[0]

        def order(token_id: int) -> tuple[bool, int]:
            piece = pieces[token_id]
            return isinstance(piece, str) and bool(_BYTE_PIECE.fullmatch(piece)), token_id

        return min(token_ids, key=order)


def _text(piece: str | bytes, decoded: str) -> str:
    """What a piece contributes to running text; surrogates represent bytes that are not text.

    The tokenizer's decoder says this, except for two things that it loses for a single piece.
    """
    if isinstance(piece, bytes):
        return piece.decode("utf-8", "surrogateescape")
    if _UNDECODED in decoded:
        content = _bytes_of(piece)
        # Only if the bytes explain the decoder's output, which may mean something else.
        if content is not None and _lossy(content.decode("utf-8", "replace")) == _lossy(decoded):
            return content.decode("utf-8", "surrogateescape")
    # SentencePiece decoders drop the leading space of the first piece.
    spaces = len(piece) - len(piece.lstrip(_SENTENCEPIECE_SPACE))
    if spaces and not decoded.startswith(_SENTENCEPIECE_SPACE):
        return " " * spaces + decoded.lstrip(" ")
    return decoded


def _lossy(text: str) -> str:
    """Decoders differ in how many replacement marks a run of invalid bytes gets."""
    return re.sub(f"{_UNDECODED}+", _UNDECODED, text)


def _bytes_of(piece: str) -> bytes | None:
    """The bytes that a piece represents, in the notation of SentencePiece or GPT-2."""
    if found := _BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(found[1])
    if all(character in _BYTE_OF for character in piece):
        return bytes(_BYTE_OF[character] for character in piece)
    return None


def _byte_alphabet() -> dict[str, int]:
    """The characters that represent bytes in byte-level vocabularies (GPT-2's `bytes_to_unicode`).

    A byte that is a visible Latin-1 character is that character; the others are numbered from
    U+0100.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(0x100 + at): byte for at, byte in enumerate(others)
    }


_BYTE_OF = _byte_alphabet()
