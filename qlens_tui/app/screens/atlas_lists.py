"""Lists from the atlas, shown until the engine has answered."""

from __future__ import annotations

from qlens_tui.app.state import State
from qlens_tui.app.widgets.feature_table import FeatureTable


def offer_atlas_lists(table: FeatureTable, state: State) -> None:
    """Give the state the lists of the row under the cursor, if they fit the settings."""
    rows, opened, feature = table.rows, state.opened, state.feature
    if rows is None or feature is None or not state.may_stand_in:
        return
    from qlens_tui.table.frames import signature_of

    row = rows.page(table.row, 1, rows.frame.columns)[0]
    operators = opened.operators(feature[0])
    found = signature_of(row, opened.texts, n_tokens=opened.n_tokens, operators=operators)
    if found is not None:
        state.stand_in(found)
