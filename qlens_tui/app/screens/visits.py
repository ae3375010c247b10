"""Saving where the user is, and restoring it at the next start."""

from __future__ import annotations

from dataclasses import replace

from lens_core.terms import in_order
from qlens_tui.app.last_visit import LastVisit
from qlens_tui.app.opened import Opened
from qlens_tui.app.screens.table_rows import TableRows
from qlens_tui.app.state import State
from qlens_tui.app.views import TokenLook
from qlens_tui.engine import messages as m


def begun(visit: LastVisit) -> State:
    """The state at the start of a visit: settings, look, and what was known about the layers."""
    state = State(
        Opened(visit),
        settings=m.Settings(
            transition=visit.transition or "full",  # type: ignore[arg-type]
            convention=visit.convention,  # type: ignore[arg-type]
            final_norm=visit.final_norm,  # type: ignore[arg-type]
            off=frozenset(visit.off),
        ),
        has_chosen=visit.transition is not None,
        look=TokenLook(
            end="bottom" if visit.bottom else "top",
            ids=visit.ids,
            lenses=visit.lenses,
            length=visit.length,
            against_all_on=visit.against_all_on,
        ),
    )
    state.pinned, state.block = visit.pinned, visit.block
    return state


def visit_of(
    state: State, rows: TableRows, feature: tuple[int, int] | None, *, moves_on: bool
) -> LastVisit:
    """The visit to save, with `feature` under the cursor; without tab, pane and theme."""
    opened, settings, look, known = state.opened, state.settings, state.look, state.opened.known
    visit = LastVisit(
        layer=state.layer,
        sort=rows.sort,
        filter=rows.filter,
        filters=rows.filters,
        transition=settings.transition,
        off=tuple(in_order(settings.off)),
        convention=settings.convention,
        final_norm=settings.final_norm,
        ids=look.ids,
        bottom=look.end == "bottom",
        lenses=look.lenses,
        length=look.length,
        against_all_on=look.against_all_on,
        moves_on=moves_on,
        block=state.block,
        listed=rows.listed,
        pinned=state.pinned,
        model=opened.model_name,
        tokens=opened.n_tokens,
        known=tuple(known[layer] for layer in sorted(known)),
    )
    if feature is None:
        return visit
    layer, number = feature
    return replace(visit, layer=layer, feature=number, everywhere=state.layer is None)
