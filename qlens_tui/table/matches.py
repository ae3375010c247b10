"""What a filter looked for in each column, so that the table can show why a row is there.

polars is not imported: the table's widgets use this before it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Matches:
    """The columns that a filter read, and what its words match there; nothing for SQL.

    `tokens`: for columns of token lists, the ids that match each word; `words`: for tags and
    other texts, the words in lower case (`str.casefold`).
    """

    columns: tuple[str, ...] = ()
    tokens: Mapping[str, tuple[frozenset[int], ...]] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


NO_MATCHES = Matches()
