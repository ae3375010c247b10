"""What the columns of the feature table are called: in its head, and in filters.

The head's names are short (`gain k`), the atlas's are those of its files (`key_gain`). A filter
takes both, so that a user can type what the screen says, and filters for `qlens export` that
use the names of files stay valid. Columns that are not in `_HEADERS` have one name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

EXPLANATION = "explanation"
"""What others say about a feature (`qlens_tui.table.explanations`)."""
MARKED = "marked"
"""The column, for filters, that says whether a feature has any mark."""
_HEADERS: Mapping[str, str] = {
    "feature": "id",
    "value_logit_ids": "LL value",
    "value_query_ids": "QL value",
    "key_logit_ids": "LL key",
    "key_query_ids": "QL key",
    "value_gain": "gain v",
    "key_gain": "gain k",
    "value_stability": "stab v",
    "key_stability": "stab k",
    "density": "dens",
}


def header(column: str) -> str:
    """The name of a column in the table's head."""
    return _HEADERS.get(column, column)


def names_of(columns: Collection[str]) -> dict[str, str]:
    """Each name in lower case under which a filter may name one of `columns`, and the column.

    The head's names are also taken with underscores for their spaces: `gain_k`.
    """
    found: dict[str, str] = {}
    for column in columns:
        title = header(column).lower()
        found |= dict.fromkeys((title, title.replace(" ", "_")), column)
    return found | {column.lower(): column for column in columns}
