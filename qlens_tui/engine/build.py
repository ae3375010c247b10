"""Building operators inside the engine: as `qlens build` does, with ticks instead of a bar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lens_core.errors import OperatorError
from lens_core.storage.disk_space import demand_space

if TYPE_CHECKING:
    from lens_core.operators.plan import BuildPlan
    from lens_core.session import Session


def build(session: Session, tick: Callable[[str, int, int], None]) -> Path:
    """Compute the units that are missing, put them together, and let the lens answer by them.

    `tick` may raise: whole units are kept, and the next call goes on with the others.
    """
    from lens_core.operators.build import assemble, build_operators
    from lens_core.operators.files import Operators
    from lens_core.operators.plan import is_complete, missing_units
    from lens_core.storage.files import build_lock

    directory, model = session.operators_directory, session.model
    if not is_complete(directory):
        plan = _plan(session)
        demand_space(directory, plan.bytes_while_building)
        build_operators(
            model,
            session.reference,
            plan,
            directory,
            progress=lambda done, total: tick("building operators", done, total),
        )
        # Another process may be putting them together, or have done so.
        with build_lock(directory / "locks" / "assemble", wait=True):
            if not is_complete(directory) and not missing_units(directory):
                assemble(directory, lambda done, total: tick("putting units together", done, total))
    lens = session.lens
    lens.carrier.operators = Operators(directory, model.device, expected=directory.name)
    lens.scales.clear()  # of the operators that answered before
    return directory


def _plan(session: Session) -> BuildPlan:
    """What was begun, or a plan for this machine's memory."""
    from lens_core.operators.plan import plan_build, read_manifest

    try:
        return read_manifest(session.operators_directory)
    except OperatorError:
        model, batch = session.model, session.config.compute.batch
        batch_size = None if batch == "auto" else batch
        return plan_build(model, model.fingerprint, session.reference, batch=batch_size)
