"""Tags and labels proposed from tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlens_tui.proposals import Proposal, labels_from, tags_from, words_in
from qlens_tui.triage.marks import label_text, tag_name

FACES = st.lists(
    st.text(st.characters(exclude_categories=[]), max_size=8)
    | st.sampled_from([" war", "War", "WAR", " star-crossed", "\\xe6", "#12", "a\nb", " the"])
)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([" change", "Changed", " Change", "change", " CHANGES"], ["change"]),
        ([" Bones", " bony", " boot", " book", " bone", " wars", "war", "ward"],
         ["Bones", "bony", "boot", "book", "wars", "ward"]),
        (["oulos", " kiln", "wild", "Kilns"], ["kiln", "oulos", "wild"]),
        (["war", " war"], ["war"]),
        ([" o'clock", " well-known", "-ing", " a", " of", " x1", "...", "", " "],
         ["o'clock", "well-known"]),
        (["战", "\\xe6", " é", "हिन्दी", "\x1b[31m", "\u202eab", "a b c"], ["战", "हिन्दी"]),
        ([" " + "x" * 31, " " + "x" * 30], ["x" * 30]),
        ([" cafe\u0301s", " cafés"], ["cafés"]),
    ],
)  # fmt: skip
def test_words_are_what_reads_as_one_and_each_is_there_once(
    tokens: list[str], words: list[str]
) -> None:
    assert words_in(tokens) == words


def test_tags_come_from_both_lists_in_turn_and_labels_begin_with_their_first_words() -> None:
    key, value = ["skin", "Ear", "breast", "arm"], ["bony", "skins", "hip", "rib", "joint"]
    both = "fires on, promotes"
    tags = [
        Proposal("skin", both), Proposal("bony", "promotes"), Proposal("Ear", "fires on"),
        Proposal("breast", "fires on"), Proposal("hip", "promotes"),
    ]  # fmt: skip
    assert tags_from(key, value) == tags
    assert labels_from(key, value) == [
        Proposal("skin, Ear, breast", "fires on"), Proposal("bony, skins, hip", "promotes"),
        *tags[:3],
    ]  # fmt: skip
    assert labels_from(["war"], ["War"]) == [Proposal("war", both)]
    assert labels_from([], ["war", "star"])[0] == Proposal("war, star", "promotes")
    assert tags_from([], []) == labels_from([], []) == []


@given(FACES, FACES)
def test_whatever_the_vocabulary_holds_proposals_are_few_different_and_can_be_kept(
    key: list[str], value: list[str]
) -> None:
    lists = words_in(key), words_in(value)
    for tag in tags_from(*lists):
        assert tag_name(tag.text) == tag.text
        assert not tag.text.startswith("-")
    for label in labels_from(*lists):
        assert label_text(label.text) == label.text
    for found in (tags_from(*lists), labels_from(*lists)):
        assert len(found) == len({each.text.casefold() for each in found}) <= 5
