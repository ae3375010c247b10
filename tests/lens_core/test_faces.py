"""Bytes that are not characters are written so that they can be read back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_core.faces import escape_bytes, joined, parted, unescape_bytes

TEXT = st.text(
    st.characters(codec="utf-8") | st.sampled_from("\\xe69an") | st.sampled_from("\udce6\udc88")
)
FACE = st.text(st.characters(codec="utf-8") | st.sampled_from("\\\\\\xe69an"))


@given(TEXT)
def test_a_face_is_valid_text_and_can_be_read_back(text: str) -> None:
    face = escape_bytes(text)

    assert face.encode("utf-8").decode("utf-8") == face
    assert unescape_bytes(face) == text


@given(FACE)
def test_every_valid_text_is_the_face_of_one_text(face: str) -> None:
    assert escape_bytes(unescape_bytes(face)) == face


@pytest.mark.parametrize(
    ("text", "face"),
    [
        ("\udce6\udc88", r"\xe6\x88"),
        ("abc\udcff", r"abc\xff"),
        (r"\xe6", r"\\xe6"),
        (r"\x1b", r"\x1b"),
        ("\\\udce6", r"\\\xe6"),
        (r"C:\xylo", r"C:\xylo"),
        ("\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_only_bytes_and_what_reads_like_one_are_written_otherwise(text: str, face: str) -> None:
    assert escape_bytes(text) == face


@given(st.text(st.characters(codec="utf-8")), st.data())
def test_the_pieces_of_a_text_put_together_are_the_text(text: str, data: st.DataObject) -> None:
    content = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    ends = [0, *cuts, len(content)]
    pieces = [content[a:b] for a, b in pairwise(ends)]

    faces = [escape_bytes(piece.decode("utf-8", "surrogateescape")) for piece in pieces]

    assert unescape_bytes(joined(faces)) == text


def test_bytes_that_stay_alone_stay_bytes() -> None:
    assert joined([r"\x88", "a", r"\xe6", r"\x88\x98", r"\xe6"]) == "\\x88a\u6218\\xe6"


@given(st.lists(st.binary(max_size=6), max_size=6))
def test_a_text_in_parts_is_the_text_joined_and_no_character_is_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    given_faces = [escape_bytes(each.decode("utf-8", "surrogateescape")) for each in pieces]
    parts = list(parted(given_faces))

    assert [at for part, _ in parts for at in part] == list(range(len(pieces)))
    text = "".join(unescape_bytes(face) for _, face in parts)
    assert text == whole.decode("utf-8", "surrogateescape")


def test_only_tokens_that_share_a_character_are_put_together() -> None:
    found = list(parted(["a", "b\\xe6", "\\x88\\x98c", "d"]))
    assert found == [(range(1), "a"), (range(1, 3), "b战c"), (range(3, 4), "d")]
