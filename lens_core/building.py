"""Building the operators of a session, for both front ends: the estimate, then the build."""

from __future__ import annotations

from lens_core.operators.build import Work, begin, build_operators, finish, seconds_left
from lens_core.operators.contents import is_complete
from lens_core.operators.files import Operators
from lens_core.operators.plan import Unit
from lens_core.session import Session
from lens_core.signature import BuildFacts
from lens_core.terms import Progress

WHOLE = (1, 1)
"""The only shard: number 1 of 1."""


def begin_build(session: Session, shard: tuple[int, int] = WHOLE) -> Work:
    """What `shard` (number, total) has to build, and which parts exist.

    Raises:
        StoreError: the disk has too little free space.
    """
    model, batch = session.model, session.config.compute.batch
    return begin(
        model, model.fingerprint, session.reference, session.operators_directory,
        batch=None if batch == "auto" else batch, shard=shard,
    )  # fmt: skip


def build_facts(session: Session, work: Work) -> BuildFacts:
    """What a build will take. The time is estimated from two passes per family on this machine."""
    plan = work.plan
    return BuildFacts(
        directory=str(session.operators_directory),
        device=str(session.model.device),
        passes=work.passes,
        passes_done=work.done,
        micro_batch=plan.micro_batch,
        length=session.reference.length,
        bytes_on_disk=plan.bytes_on_disk,
        bytes_while_building=plan.bytes_while_building,
        seconds=seconds_left(session.model, session.reference, work),
    )


def compute(
    session: Session,
    work: Work,
    shard: tuple[int, int] = WHOLE,
    *,
    progress: Progress | None = None,
) -> None:
    """Compute the missing units; `progress` is called with passes and may raise to stop.

    Finished units are kept; the next call computes the others.
    """
    directory = session.operators_directory
    session.lens.carrier.recording.release()
    if not is_complete(directory):
        build_operators(
            session.model, session.reference, work.plan, directory, shard=shard, progress=progress
        )


def join(session: Session, progress: Progress | None = None) -> list[Unit]:
    """Assemble the units and use the operators; returns units missing from other shards, if any.

    `progress` is called with files. If several processes finish together, one of them assembles.
    """
    directory = session.operators_directory
    if not is_complete(directory) and (missing := finish(directory, progress)):
        return missing
    operators = Operators(directory, session.model.device, expected=directory.name)
    session.lens.carrier.operators = operators
    session.lens.scales.clear()  # cached with the previous operators
    return []
