"""Building the operators of a session: what that takes, then the build; for both front ends."""

from __future__ import annotations

from lens_core.operators.build import Work, begin, build_operators, finish, seconds_left
from lens_core.operators.contents import is_complete
from lens_core.operators.files import Operators
from lens_core.operators.plan import Unit
from lens_core.session import Session
from lens_core.signature import BuildFacts
from lens_core.terms import Progress

WHOLE = (1, 1)
"""The shard that is everything: the first of one."""


def begin_build(session: Session, shard: tuple[int, int] = WHOLE) -> Work:
    """What `shard` (number, of how many) has to build, and what of it is there.

    Raises:
        StoreError: the disk has no room for it.
    """
    model, batch = session.model, session.config.compute.batch
    return begin(
        model, model.fingerprint, session.reference, session.operators_directory,
        batch=None if batch == "auto" else batch, shard=shard,
    )  # fmt: skip


def build_facts(session: Session, work: Work) -> BuildFacts:
    """What a build will take. The time is measured: two walks over a micro-batch a family."""
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
    """Compute the units that are missing; `progress`, told of passes, may raise to stop.

    Whole units are kept, and the next call goes on with the others.
    """
    directory = session.operators_directory
    if not is_complete(directory):
        build_operators(
            session.model, session.reference, work.plan, directory, shard=shard, progress=progress
        )


def join(session: Session, progress: Progress | None = None) -> list[Unit]:
    """Put the units together and answer by them; those that other shards still owe, if any.

    `progress` is told of files. Of several processes that end together one does it.
    """
    directory = session.operators_directory
    if not is_complete(directory) and (missing := finish(directory, progress)):
        return missing
    operators = Operators(directory, session.model.device, expected=directory.name)
    session.lens.carrier.operators = operators
    session.lens.scales.clear()  # of the operators that answered before
    return []
