"""Token ids as text and text as a token id.

A token's string is what it contributes to running text, its leading space
included; ids that no text reaches (padding rows of the embedding) are named
`<id 50270>`. The strings are raw: whatever prints them goes through the front
end's sanitiser first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lens_core.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCEPIECE_SPACE = "▁"


class Vocabulary:
    """The tokens of `tokenizer`, of which a model has `d_vocab` rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> None:
        self._tokenizer = tokenizer
        self.d_vocab = d_vocab
        self._known = len(tokenizer)

    def text(self, token_id: int) -> str:
        """The string of one token."""
        if token_id >= self._known:
            return f"<id {token_id}>"
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        text = str(
            self._tokenizer.decode(
                [token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )
        # SentencePiece decoders drop the space that a first piece carries.
        if isinstance(piece, str) and piece.startswith(_SENTENCEPIECE_SPACE) and text[:1] != " ":
            return " " + text
        return text

    def texts(self, token_ids: list[int]) -> list[str]:
        """The string of each token."""
        return [self.text(token_id) for token_id in token_ids]

    def id_of(self, text: str) -> int:
        """The one token that `text` is.

        Raises:
            UsageError: `text` is no token, or several; the message shows them.
        """
        ids = self._encode(text)
        # An unknown word is one token too, and some tokenizers put a space in front.
        if len(ids) == 1 and self.text(ids[0]) == text:
            return ids[0]
        if not ids:
            raise UsageError("an empty string is not a token: give one token, or --id NUMBER")
        hint = ""
        for other in (" " + text, text.strip()):
            found = self._encode(other) if other and other != text else []
            if len(found) == 1 and self.text(found[0]) == other:
                hint = f"; {other!r} is one token"
                break
        pieces = " + ".join(repr(self.text(i)) for i in ids[:6]) + (" ..." if len(ids) > 6 else "")
        raise UsageError(
            f"{text!r} is not one token but {pieces}{hint}: give one token, or --id NUMBER"
        )

    def check(self, token_id: int) -> int:
        """`token_id` itself.

        Raises:
            UsageError: the model has no such row.
        """
        if not 0 <= token_id < self.d_vocab:
            raise UsageError(
                f"token id {token_id} is out of range: the vocabulary has ids 0 to "
                f"{self.d_vocab - 1}"
            )
        return token_id

    def _encode(self, text: str) -> list[int]:
        encoded = self._tokenizer.encode(text, add_special_tokens=False)
        return [int(i) for i in encoded]
