"""Filters and orders of the feature table, against plain Python and a hostile user."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lens_core.errors import UsageError
from lens_core.faces import escape_bytes
from qlens_tui.table.column_names import EXPLANATION, header, names_of
from qlens_tui.table.filter_sql import read_filter
from qlens_tui.table.filter_words import (
    FUNCTIONS,
    KEYWORDS,
    Expression,
    Word,
    Words,
    with_state,
)
from qlens_tui.table.rows import (
    KNOWN,
    MARKS,
    SEARCHED,
    Rows,
    all_rows,
    filtered,
    only_these,
    sorted_by,
    with_marks,
)
from qlens_tui.table.sort_key import SortKey, useful_end_first
from qlens_tui.text import visible

TEXTS = [
    " dry",
    "Dry",
    "wet",
    " ",
    "",
    "kiln\n",
    "寿司",
    "x\ud800",
    "[bold]",
    "STRASSE",
    "=",
    " no",
]
NUMBERS = st.none() | st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, -1.0, math.nan])
IDS = st.none() | st.lists(st.integers(0, len(TEXTS) + 1), max_size=4)


@st.composite
def features(draw: st.DrawFn) -> dict[str, Any]:
    """The values of an atlas and of marks for one feature, some of them missing."""
    return {
        "silent": draw(st.booleans()),
        "density": draw(NUMBERS),
        "value_gain": draw(NUMBERS),
        **{name: draw(IDS) for name in SEARCHED},
        "star": draw(st.booleans()),
        "reject": draw(st.booleans()),
        "tags": sorted(draw(st.sets(st.sampled_from(["keep", "Dry goods", "草"])))),
        "label": draw(st.sampled_from(["", "dry Wood", "草"])),
        "explanation": draw(st.sampled_from(["", "Dry wells", "WET, É Straße", "寿"])),
        "note": draw(st.sampled_from(["", "smells of WET wool", "two\nlines", "it's"])),
    }


@st.composite
def frames(draw: st.DrawFn, least: int = 0) -> pl.DataFrame:
    names = draw(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=least))
    said = [{"layer": at, "feature": number} | draw(features()) for at, number in sorted(names)]
    types = {"layer": pl.Int32, "feature": pl.Int32}
    types |= {name: dtype for name, dtype in KNOWN.items() if name in _NAMES}
    return pl.DataFrame(said, types)


_NAMES = ("silent", "density", "value_gain", *SEARCHED, EXPLANATION, *MARKS)


def names(rows: Rows) -> list[tuple[int, int]]:
    return [(each["layer"], each["feature"]) for each in rows.page(0, 100, ["layer", "feature"])]


@dataclass(frozen=True)
class Asked:
    """A condition in SQL, and the same in Python: True, False or None for not known."""

    sql: str
    holds: Callable[[dict[str, Any]], bool | None]


def compared(column: str, sign: str, bound: float) -> Asked:
    def holds(row: dict[str, Any]) -> bool | None:
        value = row[column]
        if value is None or math.isnan(value):
            return None
        signs = {"<": value < bound, ">=": value >= bound, "=": value == bound}
        return {**signs, "<>": value != bound, ">": value > bound}[sign]

    return Asked(f"{column} {sign} {bound}", holds)


def negated(one: Asked) -> Asked:
    def holds(row: dict[str, Any]) -> bool | None:
        known = one.holds(row)
        return None if known is None else not known

    return Asked(f"not ({one.sql})", holds)


def joined(one: Asked, word: str, other: Asked) -> Asked:
    decisive = word == "or"

    def holds(row: dict[str, Any]) -> bool | None:
        both = one.holds(row), other.holds(row)
        if decisive in both:
            return decisive
        return None if None in both else not decisive

    return Asked(f"({one.sql}) {word} ({other.sql})", holds)


CONDITIONS = st.recursive(
    st.builds(
        compared,
        st.sampled_from(["density", "value_gain", "feature", "layer"]),
        st.sampled_from(["<", ">=", "=", "<>", ">"]),
        st.sampled_from([0, 0.25, 0.5, 3]),
    )
    | st.sampled_from(["star", "silent"]).map(lambda name: Asked(name, lambda row: row[name])),
    lambda each: (
        st.builds(negated, each) | st.builds(joined, each, st.sampled_from(["and", "or"]), each)
    ),
    max_leaves=4,
)  # fmt: skip


@given(frames(), CONDITIONS)
@settings(deadline=None)
def test_an_expression_keeps_the_rows_for_which_it_is_true_and_not_unknown(
    frame: pl.DataFrame, asked: Asked
) -> None:
    kept = filtered(all_rows(frame), asked.sql)

    wanted = [(row["layer"], row["feature"]) for row in frame.rows(named=True) if asked.holds(row)]
    assert names(kept) == wanted


QL = ("value_query_ids", "key_query_ids")
PLACES = {
    "": QL,
    "ql:": QL,
    "ll:": ("value_logit_ids", "key_logit_ids"),
    "key:": ("key_query_ids",),
    "VALUE:": ("value_query_ids",),
    "ll:key:": ("key_logit_ids",),
    "value:ll:": ("value_logit_ids",),
    "tag:": ("tags",),
    "label:": ("label",),
    "Note:": ("note",),
    "explanation:": ("explanation",),
}
"""Where each prefix looks."""
TYPED = st.lists(
    st.tuples(
        st.sampled_from([*PLACES]),
        st.sampled_from(["dry", "WET", "寿", '"é STRASSE"', '"="', '" no"', "e", "#1"]),
    ),
    min_size=1,
    max_size=3,
)


def has(row: dict[str, Any], word: str, column: str) -> bool:
    """Whether a word is in a column, in plain Python."""
    word = word.strip('"').casefold()
    if column in ("label", "note", "explanation"):
        return word in row[column].casefold()
    if column == "tags":
        return any(word in tag.casefold() for tag in row["tags"])
    return any(
        word == f"#{number}" or word in TEXTS[number].casefold()
        for number in row[column] or ()
        if number < len(TEXTS)
    )


@given(frames(), TYPED)
@settings(deadline=None)
def test_words_are_all_found_where_their_prefixes_look(
    frame: pl.DataFrame, typed: list[tuple[str, str]]
) -> None:
    wanted = [
        (row["layer"], row["feature"])
        for row in frame.rows(named=True)
        if all(any(has(row, word, name) for name in PLACES[place]) for place, word in typed)
    ]

    found = filtered(all_rows(frame), " ".join(place + word for place, word in typed), TEXTS)

    assert names(found) == wanted


@given(frames(), TYPED)
@settings(deadline=None)
def test_what_matched_is_told_by_word_and_column(
    frame: pl.DataFrame, typed: list[tuple[str, str]]
) -> None:
    found = filtered(all_rows(frame), " ".join(place + word for place, word in typed), TEXTS)

    asked = [(name, word) for place, word in typed for name in PLACES[place]]
    assert list(found.matches.columns) == list(dict.fromkeys(name for name, _ in asked))
    for name in found.matches.columns:
        words = [word for column, word in asked if column == name]
        if name in (EXPLANATION, *MARKS):
            assert list(found.matches.words[name]) == [word.strip('"').casefold() for word in words]
            continue
        for ids, word in zip(found.matches.tokens[name], words, strict=True):
            tokens = range(len(TEXTS))
            assert ids == {at for at in tokens if has({name: [at]}, word, name)}
    assert sorted_by(found, [SortKey("density", False)]).matches is found.matches


KEYS = st.lists(
    st.builds(
        SortKey,
        st.sampled_from(["density", "value_gain", "silent", "star", "feature"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@given(frames(), KEYS)
@settings(deadline=None)
def test_rows_are_sorted_by_each_key_with_unknown_last_and_ties_by_layer_and_feature(
    frame: pl.DataFrame, keys: list[SortKey]
) -> None:
    def place(row: dict[str, Any], key: SortKey) -> tuple[bool, float]:
        value = row[key.column]
        unknown = value is None or (isinstance(value, float) and math.isnan(value))
        return unknown, 0 if unknown else -value if key.descending else value

    wanted = sorted(
        frame.rows(named=True),
        key=lambda row: (*(place(row, key) for key in keys), row["layer"], row["feature"]),
    )

    ordered = sorted_by(all_rows(frame), keys)
    assert names(ordered) == [(row["layer"], row["feature"]) for row in wanted]
    assert names(sorted_by(sorted_by(ordered, [SortKey("silent", False)]), keys)) == names(ordered)
    half = filtered(ordered, "feature < 5")
    assert names(sorted_by(half, keys)) == [each for each in names(ordered) if each[1] < 5]


@pytest.mark.parametrize("column", KNOWN)
def test_every_order_has_a_useful_end(column: str) -> None:
    key = useful_end_first(column)
    text = KNOWN[column] in (pl.String, pl.List(pl.String)) or column.endswith("_ids")
    assert key.reversed.reversed == key
    assert not (text and key.descending)
    assert key.descending == (
        not text and column not in ("layer", "feature") and "overlap" not in column
    )


@given(frames(), CONDITIONS, st.booleans())
@settings(deadline=None, max_examples=40)
def test_it_does_not_matter_whether_rows_are_filtered_or_sorted_first(
    frame: pl.DataFrame, asked: Asked, descending: bool
) -> None:
    rows = all_rows(frame)

    one = sorted_by(filtered(rows, asked.sql), [SortKey("density", descending)])
    other = filtered(sorted_by(rows, [SortKey("density", descending)]), asked.sql)
    assert names(one) == names(other)


@given(frames())
@settings(deadline=None, max_examples=40)
def test_a_column_of_tokens_is_sorted_by_the_best_ones_text(frame: pl.DataFrame) -> None:
    ordered = sorted_by(all_rows(frame), [SortKey("value_query_ids", False)], TEXTS).taken()

    firsts = [(ids or [len(TEXTS)])[0] for ids in ordered["value_query_ids"].to_list()]
    known = [TEXTS[number] for number in firsts if number < len(TEXTS)]
    keys = [text.strip().casefold() or text for text in known]
    assert keys == sorted(keys)
    assert all(number >= len(TEXTS) for number in firsts[len(known) :])


def test_tags_are_sorted_as_text_with_the_untagged_last() -> None:
    frame = pl.DataFrame(
        {"layer": [0] * 4, "feature": [0, 1, 2, 3], "tags": [["b"], [], ["a", "z"], ["A"]]}
    )

    def tagged(descending: bool) -> Rows:
        return sorted_by(all_rows(frame), [SortKey("tags", descending)])

    assert [feature for _, feature in names(tagged(False))] == [3, 2, 0, 1]
    assert [f for _, f in names(tagged(True))] == [0, 2, 3, 1]


def test_rows_of_a_frame_in_any_order_are_those_of_its_features_in_order() -> None:
    frame = pl.DataFrame({"layer": [1, 0, 0], "feature": [0, 7, 2]})

    assert names(all_rows(frame)) == [(0, 2), (0, 7), (1, 0)]


@given(
    frames(),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=20, unique=True),
    CONDITIONS,
)
@settings(deadline=None, max_examples=40)
def test_some_features_are_shown_in_their_order_and_filtered_like_all(
    frame: pl.DataFrame, some: list[tuple[int, int]], asked: Asked
) -> None:
    rows = all_rows(frame)

    found = only_these(rows, some)

    assert names(found) == [name for name in some if name in names(rows)]
    kept = names(filtered(rows, asked.sql))
    assert names(filtered(found, asked.sql)) == [name for name in names(found) if name in kept]


@given(frames(least=1), CONDITIONS, st.randoms())
@settings(deadline=None)
def test_the_cursor_stays_on_its_feature_or_goes_to_the_next_that_is_left(
    frame: pl.DataFrame, asked: Asked, random: Any
) -> None:
    before = sorted_by(all_rows(frame), [SortKey("density", False)])
    position = random.randrange(len(before))
    after = filtered(before, asked.sql)
    assume(len(after))

    found = names(after)[after.follow(before, position)]

    left = [name for name in names(before)[position:] if name in names(after)]
    assert found == (left[0] if left else names(after)[-1])


def test_from_one_filter_to_another_the_cursor_goes_to_the_next_feature_of_all() -> None:
    frame = pl.DataFrame({"layer": [8] * 9, "feature": range(9)})
    odd = filtered(all_rows(frame), "feature % 2 = 1")
    even = filtered(all_rows(frame), "feature % 2 = 0")

    assert names(even)[even.follow(odd, 1)] == (8, 4)
    assert names(odd)[odd.follow(even, 4)] == (8, 7)


def test_the_nearest_row_is_the_features_own_or_that_of_the_next_one() -> None:
    rows = all_rows(pl.DataFrame({"layer": [0] * 9 + [1] * 3, "feature": [*range(9), *range(3)]}))
    some = rows[0:0]
    assert some.nearest(0, 3) is None
    kept = only_these(rows, [(0, 2), (0, 5), (1, 1)])
    for asked, found in [((0, 0), 0), ((0, 2), 0), ((0, 3), 1), ((0, 8), 2), ((1, 2), 2)]:
        assert kept.nearest(*asked) == found
    other_order = only_these(rows, [(0, 5), (0, 2)])
    assert other_order.nearest(0, 2) == 1
    assert other_order.nearest(0, 3) is None


def test_the_cursor_stays_on_its_feature_when_other_layers_come() -> None:
    one = pl.DataFrame({"layer": [8, 8, 8], "feature": [0, 1, 2]})
    more = pl.DataFrame({"layer": [3, 8, 8, 8], "feature": [9, 0, 1, 2]})
    without = pl.DataFrame({"layer": [3, 3, 3, 3], "feature": [0, 1, 2, 3]})

    assert all_rows(more).follow(all_rows(one), 1) == 2
    assert all_rows(without).follow(all_rows(one), 2) == 0
    assert all_rows(one.head(0)).follow(all_rows(one), 2) == 0


def test_marks_take_the_place_of_the_marks_that_were_there() -> None:
    frame = pl.DataFrame({"layer": [8, 8, 9], "feature": [0, 1, 0]})
    types = {"layer": pl.Int32, "feature": pl.Int32, **MARKS}
    starred = pl.DataFrame([(8, 1, True, False, "dry", ["keep"], "so\nso")], types, orient="row")
    rejected = pl.DataFrame([(9, 0, False, True, "", [], "")], types, orient="row")

    once = with_marks(frame, starred)
    twice = with_marks(once, rejected)

    assert once["star"].to_list() == [False, True, False]
    assert once["tags"].to_list() == [[], ["keep"], []]
    assert once["label"].to_list() == ["", "dry", ""]
    assert names(filtered(all_rows(once), "tags like '%keep%' and note <> ''")) == [(8, 1)]
    assert names(filtered(all_rows(once), "marked")) == [(8, 1)]
    assert names(filtered(all_rows(once), "not marked")) == [(8, 0), (9, 0)]
    assert names(filtered(all_rows(twice), "star")) == []
    assert names(filtered(all_rows(twice), "reject")) == [(9, 0)]
    assert twice.select(MARKS.keys()).null_count().sum_horizontal()[0] == 0


def test_a_layer_without_an_atlas_can_be_shown_searched_and_sorted() -> None:
    rows = all_rows(pl.DataFrame({"layer": [8] * 5, "feature": range(5)}))

    assert len(filtered(rows, "feature >= 3")) == 2
    assert names(sorted_by(rows, [SortKey("feature", True)]))[0] == (8, 4)
    assert rows.page(1, 2, ["feature", "density"]) == [{"feature": 1}, {"feature": 2}]
    with pytest.raises(UsageError, match=r"dens is not known .*qlens build"):
        filtered(rows, "density > 0.1")
    with pytest.raises(UsageError, match="words are searched in the atlas"):
        filtered(rows, "dry", TEXTS)
    assert len(filtered(rows, "tag:dry")) == 0
    with pytest.raises(UsageError, match="gain v is not known"):
        sorted_by(rows, [SortKey("value_gain", True)])


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("is:starred", [1]),
        ("IS:Tagged", [2]),
        ("is:rejected", [3]),
        ("is:unmarked", [0]),
        ("is:starred is:tagged", []),
        ('"is:starred"', []),
    ],
)
def test_a_state_of_marks_is_a_word(typed: str, found: list[int]) -> None:
    marks = pl.DataFrame(
        {
            "layer": [0] * 3, "feature": [1, 2, 3], "star": [True, False, False],
            "reject": [False, False, True], "label": [""] * 3, "tags": [[], ["a"], []],
            "note": [""] * 3,
        },
        schema_overrides={"tags": pl.List(pl.String)},
    )  # fmt: skip
    bare = pl.DataFrame({"layer": [0] * 4, "feature": [0, 1, 2, 3]})
    lists = {name: [[0]] * 4 for name in SEARCHED}
    bare = bare.with_columns(pl.Series(name, found) for name, found in lists.items())
    rows = all_rows(with_marks(bare, marks))
    assert filtered(rows, typed, ["w"]).features()["feature"].to_list() == found


def test_a_state_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="is:stared: write is:starred, is:rejected"):
        read_filter("is:stared", KNOWN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "is:tagged"),
        ("war", "war is:tagged"),
        ('" war" tag:a', '" war" tag:a is:tagged'),
        ("gain k > 0.3", "(gain k > 0.3) and tags <> ''"),
        ("star or reject", "(star or reject) and tags <> ''"),
    ],
)
def test_a_state_is_added_to_any_filter_and_taken_away_again(before: str, after: str) -> None:
    assert with_state(before, "tagged", KNOWN) == after
    assert with_state(after, "tagged", KNOWN) == before
    read_filter(after, KNOWN)


def test_words_wait_for_the_vocabulary() -> None:
    frame = pl.DataFrame({"layer": [0], "feature": [0], "value_query_ids": [[1]]})

    with pytest.raises(UsageError, match="vocabulary is still loading"):
        filtered(all_rows(frame), "dry")


def test_a_token_can_be_looked_for_as_lists_show_it_or_by_its_number() -> None:
    texts = ["war", " war", "_war", r"\xe6", r"\\xe6", "#1x", " warm"]
    frame = pl.DataFrame(
        {
            "layer": [0] * 7,
            "feature": range(7),
            "value_query_ids": [[token] for token in range(7)],
            "note": ["about #1", *[""] * 6],
        }
    )
    rows = all_rows(frame)

    def found(typed: str, *, ascii_only: bool = False) -> list[int]:
        return [f for _, f in names(filtered(rows, typed, texts, ascii_only=ascii_only))]

    assert found("␣war") == [1, 6]
    assert found("_war") == [2]
    assert found("_war", ascii_only=True) == [1, 6]
    assert found(r"\xe6") == [3, 4]
    assert found(r"\\xe6") == [4]
    assert found("#1") == [1, 5]
    assert found("note:#1") == [0]
    assert found("#6") == [6]


@pytest.mark.parametrize("typed", ["#7", "#99999999999999999999"])
def test_an_id_outside_the_vocabulary_is_no_filter_but_a_note_may_have_it(typed: str) -> None:
    frame = pl.DataFrame({"layer": [0], "feature": [0], "value_query_ids": [[1]]})
    texts = ["a"] * 7

    with pytest.raises(UsageError, match=f"'{typed}' is outside the vocabulary, .* 7 tokens"):
        filtered(all_rows(frame), typed, texts)
    noted = frame.with_columns(note=pl.lit(f"see {typed}"))
    assert len(filtered(all_rows(noted), f"note:{typed}", texts)) == 1


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("dry", ["dry"]),
        ("  dry   kiln ", ["dry", "kiln"]),
        ('"layer"', ["layer"]),
        ('"star wars" dry', ["star wars", "dry"]),
        ('"a = b"', ["a = b"]),
        ("", []),
        ('""', []),
        ("read_csv", ["read_csv"]),
        ("densities", ["densities"]),
        ("don't", ["don't"]),
        ("寿司", ["寿司"]),
        ('5"', ['5"']),
        ("␣war dry", [" war", "dry"]),
        ('"␣war"', [" war"]),
        ('" war"', [" war"]),
        (r"a⏎b ⇥ \x1b[31m \u202e \\n", ["a\nb", "\t", "\x1b[31m", "\u202e", r"\n"]),
        (r"C:\dir \x", [r"C:\dir", r"\x"]),
    ],
)
def test_what_does_not_look_like_sql_is_words(typed: str, words: list[str]) -> None:
    assert read_filter(typed, KNOWN) == Words(tuple(Word(word, QL) for word in words))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("tag:war", [("war", "tags")]),
        ('note:"star wars" TAG:x', [("star wars", "note"), ("x", "tags")]),
        ('Label:"on war"', [("on war", "label")]),
        ("key:war", [("war", "key_query_ids")]),
        ("ql:key:war", [("war", "key_query_ids")]),
        ("LL:Value:␣War", [(" War", "value_logit_ids")]),
        ("note:key:war", [("key:war", "note")]),
        ("key:value:war", [("value:war", "key_query_ids")]),
        ("note:>", None),
        ('tag:">"', [(">", "tags")]),
        ("tag:http://x", [("http://x", "tags")]),
        ('tag:""', None),
    ],
)
def test_a_prefix_says_where_a_word_is_searched(
    typed: str, words: list[tuple[str, str]] | None
) -> None:
    if words is None:
        with pytest.raises(UsageError):
            read_filter(typed, KNOWN)
        return
    assert read_filter(typed, KNOWN) == Words(tuple(Word(text, (at,)) for text, at in words))


@given(st.sampled_from([*KNOWN]), st.booleans(), st.sampled_from(["{}", '"{}"']), st.data())
def test_a_column_has_the_name_of_its_head_and_that_of_its_files(
    column: str, old: bool, form: str, data: st.DataObject
) -> None:
    name = column if old else header(column)
    spaces = data.draw(st.sampled_from([" ", "_"] if form != "{}" else [" ", "_", "  "]))
    cased = data.draw(st.sampled_from([str.lower, str.upper, str]))
    typed = form.format(cased(name.replace(" ", spaces)))

    for sql in (f"{typed} is not null", f"(({typed}) is not null)", f"not {typed} is null"):
        found = read_filter(sql if form == "{}" else f"({sql})", KNOWN)
        assert isinstance(found, Expression)
        assert found.columns == {column}


def test_no_two_columns_have_the_same_name() -> None:
    assert set(names_of(KNOWN).values()) == set(KNOWN)
    assert len({header(column).lower() for column in KNOWN}) == len(KNOWN)


@pytest.mark.parametrize(
    ("typed", "sql", "columns"),
    [
        ("star", '"star"', {"star"}),
        ("STAR and not Reject", '"star" and not "reject"', {"star", "reject"}),
        ("not silent", 'not "silent"', {"silent"}),
        ("(star)", '( "star" )', {"star"}),
        ('"density" > .5', '"density" > .5', {"density"}),
        (
            "gain k > .5 and gain_v<1",
            '"key_gain" > .5 and "value_gain" < 1',
            {"key_gain", "value_gain"},
        ),
        ('"Stab V" > .5', '"value_stability" > .5', {"value_stability"}),
        ("dens between 0 and 1", '"density" between 0 and 1', {"density"}),
        ("id in (1, 2)", '"feature" in ( 1 , 2 )', {"feature"}),
        ("density==1e-3", '"density" = 1e-3', {"density"}),
        ("note like '%it''s%'", "\"note\" like '%it''s%'", {"note"}),
        ("abs(value_gain) > 1", 'abs ( "value_gain" ) > 1', {"value_gain"}),
        ("layer in (1, 2)", '"layer" in ( 1 , 2 )', {"layer"}),
    ],
)
def test_what_looks_like_sql_is_taken_apart_and_put_together(
    typed: str, sql: str, columns: set[str]
) -> None:
    assert read_filter(typed, KNOWN) == Expression(sql, frozenset(columns))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("densty > 0.1", "no column densty: the nearest is density"),
        ("gain > 0.1", "no column gain: the nearest is gain k"),
        ("gain x > 0.1", "no column gain: the nearest is gain k"),
        ("tags:war", "cannot look in tags: the nearest is tag:"),
        ("ke:war", "cannot look in ke: the nearest is key:"),
        ("war tag:", "no word after tag: such as tag:war"),
        ("ll:key: war", "no word after ll:key: such as ll:key:war"),
        (f"gain k{' gain k' * 300} > 1", "too long"),
        ("star wars", "no column wars: the nearest is star"),
        ("absolute(density) > 1", "no function absolute in a filter: the nearest is"),
        ("density + 1", "not a condition"),
        ("density >", "it is not a complete condition, such as density > 0.01"),
        ("key_gain > > 1", "cannot be used"),
        ("(star", "it is not a complete condition"),
        ("density > 'a'", "cannot compare string with numeric type"),
        ("value_query_ids = density", "cannot be used"),
        ("density > least()", "least() needs a column"),
        ("note", "not a condition"),
        ("density > 1; star", "cannot read the filter from '; star' on"),
        ("note like 'open", "cannot read the filter from"),
        ("->", "cannot be"),
        ("density > 0" + " + 1" * 200, "too long"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_fix(typed: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"\A[^\n]*\Z") as raised:
        read_filter(typed, KNOWN)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    "typed",
    [
        "feature in (select feature from read_csv('{file}'))",
        "not exists (select 1 from read_csv('{file}'))",
        "feature = (select max(feature) from read_csv('{file}'))",
        "(select true)",
        "not read_csv('{file}')",
        "feature in (table x)",
        "feature in (with a as (values (1)) select 1)",
        "feature in (sel/**/ect 1)",
        "star -- and\n",
        "star /* and */",
        "note = '\\' or feature in (select 1) or note = '",
        "note = E'\\' or feature in (select 1) --'",
        "note = $$a$$",
        "note = $a$ or $a$",
        "note = N'x'",
        "note = `x`",
        'feature = "select"',
        "feature = 1 union select 1",
        "star; drop table x",
        "columns('.*') = 1",
        "* = 1",
        "feature = pg_read_file('{file}')",
        "layer.feature = 1",
        "star as x",
        "rank() over (order by feature) = 1",
        "interval '1 day' = 1",
        "cast(feature as text) = '1'",
    ],
)
def test_nothing_but_an_expression_over_the_columns_is_let_through(
    typed: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("feature\n1\n")
    rows = all_rows(pl.DataFrame({"layer": [0], "feature": [1], "star": [True], "note": ["x"]}))

    with pytest.raises(UsageError):
        filtered(rows, typed.format(file=file), TEXTS)


def test_a_shown_space_tells_a_word_from_the_end_of_another() -> None:
    texts = [" war", "toward", " WARM", "a\nb", "war "]
    frame = pl.DataFrame(
        {
            "layer": [0] * 5,
            "feature": range(5),
            "value_query_ids": [[number] for number in range(5)],
            "tags": [[], ["a", "b"], [], [], []],
            "note": ["", "", "", "", "on war"],
        },
        {"layer": pl.Int32, "feature": pl.Int32}
        | {name: KNOWN[name] for name in ("value_query_ids", "tags", "note")},
    )

    def found(typed: str) -> list[int]:
        return [feature for _, feature in names(filtered(all_rows(frame), typed, texts))]

    assert found("war") == [0, 1, 2, 4]
    assert found("note:␣war") == [4]
    assert found("note:war␣") == []
    assert found("␣war") == found('"␣war"') == found('" war"') == [0, 2]
    assert found("war␣") == [4]
    assert found("a⏎b") == [3]
    assert found("⏎") == [3]


LITERALS = ("''", "'%('", "'it''s'", "1", "-0.5", "1e400", "99999999999", "null", "true")
TITLES = sorted({*KNOWN, *map(header, KNOWN)})
PIECES = st.sampled_from([*KEYWORDS, *FUNCTIONS, *TITLES, *PLACES, *"<>=+-*/%(),", *LITERALS])
VALUES = st.recursive(
    st.sampled_from([*KNOWN, *LITERALS]),
    lambda each: (
        st.builds("{}({})".format, st.sampled_from(sorted(FUNCTIONS)), each)
        | st.builds("{}({}, {})".format, st.sampled_from(sorted(FUNCTIONS)), each, each)
        | st.builds("({} {} {})".format, each, st.sampled_from("+-*/%"), each)
    ),
    max_leaves=3,
)
COMPARED = st.builds(
    "{} {} {}".format, VALUES, st.sampled_from(["<", "=", "<>", "like", "is distinct from"]), VALUES
) | st.builds("{} in ({}, {})".format, VALUES, VALUES, VALUES)  # fmt: skip
HOLDS: dict[Any, list[Any]] = {
    pl.Boolean: [None, True, False],
    pl.Int32: [None, 2**31 - 1, -3],
    pl.Float32: [None, math.nan, -math.inf],
    pl.String: [None, "é\n%(", "12"],
    pl.List(pl.Int32): [None, [], [5, 6]],
    pl.List(pl.Float32): [None, [0.5, None], []],
    pl.List(pl.String): [None, [], ["x", "y"]],
}
WHOLE = pl.DataFrame({name: pl.Series(HOLDS[dtype], dtype=dtype) for name, dtype in KNOWN.items()})
FULL = all_rows(WHOLE.with_columns(layer=pl.lit(0, pl.Int32), feature=pl.int_range(3)))


@given(
    st.lists(PIECES, max_size=12).map(" ".join)
    | st.text(max_size=30)
    | COMPARED
    | st.builds("({}) {} ({})".format, COMPARED, st.sampled_from(["and", "or"]), COMPARED)
)
@settings(deadline=None, max_examples=120)
def test_whatever_is_typed_is_refused_in_one_line_or_can_be_used_on_any_rows(typed: str) -> None:
    refusal = None
    try:
        read_filter(typed, KNOWN)
    except UsageError as error:
        refusal = str(error)
    if refusal is not None:
        assert len(refusal.splitlines()) == 1
        return
    assert len(filtered(FULL, typed, TEXTS)) <= 3
    assert len(filtered(all_rows(WHOLE.clear()), typed, TEXTS)) == 0


@given(st.text(st.characters(exclude_categories=[]), min_size=1, max_size=8))
def test_a_token_is_found_by_what_lists_show_of_it(text: str) -> None:
    text = escape_bytes(text)  # as in every face, which is valid Unicode
    shown = visible(text)
    assume('"' not in shown)

    assert read_filter(f'"{shown}"', KNOWN) == Words((Word(text, QL),))
    assert read_filter(f'tag:"{shown}"', KNOWN) == Words((Word(text, ("tags",)),))
