"""Several tokens in one line, as they are typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_core.errors import UsageError
from lens_core.token_query import MOST_TOKENS, TokenQuery
from qlens_tui.token_words import query_of, words_of

TOKENS = ["war", " war", "battle", "star", ",", "-", " -", "a, b", "-x", '"', "x-y", "  ", "a b"]


def find(text):
    """The id of one of `TOKENS`, by its text or as `#3`."""
    if text in TOKENS:
        return TOKENS.index(text)
    if text.startswith("#") and text[1:].isdecimal():
        return int(text[1:])
    raise UsageError(f"'{text}' is not a token")


def asked(typed):
    query = query_of(typed, find)
    return [TOKENS[at] for at in query.wanted], [TOKENS[at] for at in query.unwanted]


@pytest.mark.parametrize(
    ("typed", "wanted", "unwanted"),
    [
        ("war", ["war"], []),
        ("war, battle", ["war", "battle"], []),
        ("war,battle", ["war", "battle"], []),
        (" war , battle ", [" war", "battle"], []),
        ("war -star", ["war"], ["star"]),
        ("war - star", ["war"], ["star"]),
        ("war, -star, battle", ["war", "battle"], ["star"]),
        ("-star, war", ["war"], ["star"]),
        ("war -star -battle", ["war"], ["star", "battle"]),
        ('star, " war"', ["star", " war"], []),
        ('"war"', ["war"], []),
        ('war -" war"', ["war"], [" war"]),
        ('war, ","', ["war", ","], []),
        ('war, "-"', ["war", "-"], []),
        ('war, " -"', ["war", " -"], []),
        ('"-x" -"a, b"', ["-x"], ["a, b"]),
        ("war, #4", ["war", ","], []),
        ("war -#9", ["war"], ['"']),
        ("war, x-y", ["war", "x-y"], []),
        ("war, a b", ["war", "a b"], []),
        *((each, [each], []) for each in TOKENS),
    ],
)
def test_commas_and_a_minus_after_a_space_separate_tokens(typed, wanted, unwanted):
    assert asked(typed) == (wanted, unwanted)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("peace", "'peace' is not a token"),
        ("war ", "'war ' is not a token"),
        ("war, peace", "'peace' is not a token"),
        ("war,", "a token is missing in 'war,'"),
        ("war,,star", "a token is missing"),
        ("war -", "a token is missing"),
        ('war, ""', "a token is missing"),
        ('war, "star', "is not closed"),
        ('"war"star', "put a comma between"),
        ("-star -war", "names no token to look for"),
        ("war, war", "'war' is in 'war, war' twice"),
        ("war -war", "'war' is in 'war -war' twice"),
        (", ".join(f"#{at}" for at in range(9)), f"at most {MOST_TOKENS}"),
    ],
)
def test_what_is_no_list_of_tokens_is_one_line(typed, says):
    with pytest.raises(UsageError) as refused:
        query_of(typed, find)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@given(typed=st.text(st.sampled_from('ab ,-"#1\n\t\u2028␣')))
def test_every_text_is_a_query_or_a_refusal(typed):
    try:
        words = words_of(typed)
        query_of(typed, find)
    except UsageError:
        return
    assert all(typed[word.start + word.is_quoted :].startswith(word.text) for word in words)


@given(
    tokens=st.lists(st.integers(0, len(TOKENS) - 1), min_size=2, max_size=6, unique=True),
    n_wanted=st.integers(1, 6),
)
def test_every_token_can_be_typed_in_a_list(tokens, n_wanted):
    items = []
    for at, token in enumerate(tokens):
        text = TOKENS[token]
        quoted = f"#{token}" if '"' in text else f'"{text}"'
        items.append(f"{'-' * (at >= n_wanted)}{quoted}")
    query = query_of(", ".join(items), find)
    assert query == TokenQuery(tuple(tokens[:n_wanted]), tuple(tokens[n_wanted:]))
