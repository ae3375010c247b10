"""Building operators inside the engine: as `qlens build` does, with ticks instead of a bar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lens_core.session import Session


def build(session: Session, tick: Callable[[str, int, int], None]) -> Path:
    """Compute the units that are missing, put them together, and let the lens answer by them.

    `tick` may raise: whole units are kept, and the next call goes on with the others.
    """
    from lens_core.operators.build import begin, build_operators, finish
    from lens_core.operators.contents import is_complete
    from lens_core.operators.files import Operators

    directory, model = session.operators_directory, session.model
    batch = session.config.compute.batch
    work = begin(
        model, model.fingerprint, session.reference, directory,
        batch=None if batch == "auto" else batch,
    )  # fmt: skip
    if not is_complete(directory):
        build_operators(
            model,
            session.reference,
            work.plan,
            directory,
            progress=lambda done, total: tick("building operators", done, total),
        )
        # Another process may be putting them together, or have done so.
        finish(directory, lambda done, total: tick("putting units together", done, total))
    lens = session.lens
    lens.carrier.operators = Operators(directory, model.device, expected=directory.name)
    lens.scales.clear()  # of the operators that answered before
    return directory
