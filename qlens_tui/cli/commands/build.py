"""`qlens build` and `qlens merge`: compute the operators of a configuration, or combine shards.

A build is a list of units, each written as a whole, so it can be stopped at any time and
run again; `--shard I/N` computes every N-th unit. The process that finds all units present
assembles them: each process looks at its end, so the last one does. A build without shards
then makes the atlas of the configuration's dictionaries.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lens_core.directories import OPERATORS, SHARED_CACHE
from lens_core.errors import OperatorError, UsageError
from lens_core.lenses import LENSES_WITH_FILES
from lens_core.storage.disk_space import size_of
from qlens_tui.cli.commands.atlas import atlas_summary, fill_atlas
from qlens_tui.cli.commands.build_states import build_states
from qlens_tui.cli.exits import InterruptionError
from qlens_tui.cli.options import Command, Layers, Shard, open_lens, pass_output, with_common
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import build_progress
from qlens_tui.formats import counted, duration, in_bytes

if TYPE_CHECKING:
    from lens_core.atlas.files import CachedLayer
    from lens_core.operators.files import Operators
    from lens_core.operators.plan import BuildPlan, Unit
    from lens_core.session import Session


@click.command(cls=Command, short_help="Compute the operators and the atlas of a configuration.")
@click.argument("config")
@click.option(
    "--shard",
    type=Shard(),
    default="1/1",
    metavar="I/N",
    help="Compute only the I-th of N parts, for several GPUs or machines.",
)
@click.option("--no-atlas", is_flag=True, help="Do not compute the atlas.")
@click.option(
    "--lens",
    type=click.Choice(LENSES_WITH_FILES),
    help="Compute what this lens reads instead, for CONFIG's layers.",
)
@click.option("--layers", type=Layers(), help="With --lens: only these, such as 3,5-9.")
@with_common
@pass_output
def build(
    output: Output,
    config: str,
    shard: tuple[int, int],
    no_atlas: bool,
    lens: str | None,
    layers: tuple[int, ...] | None,
    reference_tokens: Path | None,
    device: str | None,
    dtype: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Compute the operators of CONFIG's model and reference, then its atlas.

    Operators serve every feature of every dictionary; the atlas tabulates CONFIG's (see
    `qlens atlas`). It can be stopped at any time; run it again to resume. Several processes
    can each compute a shard of the operators. With a shared cache directory the last one
    combines them, otherwise `qlens merge` does; then a build without --shard makes the atlas.

    The lenses forward and forward+first-order read the states of the vocabulary: --lens forward
    runs every token of it through the model, behind a few beginnings of the reference's samples.

    \b
    Examples:
      qlens build smollm2-neurons
      qlens build demo --lens forward
      qlens build smollm2-neurons --no-atlas
      CUDA_VISIBLE_DEVICES=1 qlens build gpt2-small-32k --shard 2/4
    """
    start = time.monotonic()
    if layers is not None and lens is None:
        raise UsageError("operators are of all layers: --layers is for --lens")
    session = open_lens(
        output, config, offline=offline, layers=layers, device=device, dtype=dtype,
        reference_tokens=reference_tokens,
    )  # fmt: skip
    if lens is not None:
        build_states(output, session, layers, shard, as_json=as_json)
        return
    shared, passes = _shared(session), 0
    if shared is None:
        passes = _build(output, session, shard)
    else:
        output.note("the operators are complete: nothing to build")
    directory = session.operators_directory if shared is None else shared.directory
    table = None if no_atlas or shard[1] > 1 else fill_atlas(output, session)
    _result(output, as_json, directory, passes, start, table)


@click.command(cls=Command, short_help="Combine shards from other machines.")
@click.argument("config")
@click.argument("directories", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR]...")
@with_common
@pass_output
def merge(
    output: Output,
    config: str,
    directories: tuple[Path, ...],
    reference_tokens: Path | None,
    device: str | None,
    dtype: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Copy shards that other machines built into this cache, and combine them.

    DIR is another machine's cache directory, or its directory of these operators.

    \b
    Examples:
      qlens merge gpt2-small-32k /mnt/a/qlens-cache /mnt/b/qlens-cache
      qlens merge gpt2-small-32k
    """
    start = time.monotonic()
    session = open_lens(
        output, config, offline=offline, device=device, dtype=dtype,
        reference_tokens=reference_tokens,
    )  # fmt: skip
    from lens_core.operators.build import import_units
    from lens_core.operators.contents import is_complete

    shared, directory = _shared(session), session.operators_directory
    if shared is not None or is_complete(directory):
        output.note("the operators are complete: nothing to merge")
        _result(output, as_json, directory if shared is None else shared.directory, 0, start)
        return
    for place in directories:
        brought = import_units(_source(place, directory), directory)
        output.note(f"{counted(brought, 'unit')} from {place}")
    missing = _join(output, session)
    if missing:
        raise OperatorError(
            f"{counted(len(missing), 'unit')} missing in {directory}: run the other shards of "
            "`qlens build` first, or name their directories"
        )
    output.note("run `qlens build` to make the atlas too")
    _result(output, as_json, directory, 0, start)


def _shared(session: Session) -> Operators | None:
    """The finished operators of another user, if the session uses them."""
    from lens_core.operators.files import Operators

    operators = session.lens.carrier.operators
    if isinstance(operators, Operators) and operators.directory != session.operators_directory:
        return operators
    return None


def _build(output: Output, session: Session, shard: tuple[int, int]) -> int:
    """Compute what the shard lacks, and combine if it is the last; returns the passes made."""
    from lens_core.building import begin_build, build_facts, compute
    from lens_core.operators.contents import is_complete

    directory = session.operators_directory
    output.step("checking existing files")
    work = begin_build(session, shard)
    if is_complete(directory):
        output.note("the operators are complete: nothing to build")
        _join(output, session)
        return 0
    if work.units:
        facts = build_facts(session, work)
        output.note(
            f"{counted(facts.passes, 'pass', 'passes')} over batches of "
            f"{facts.micro_batch} x {facts.length} tokens on {facts.device}"
            f"{f', {facts.passes_done:,} of them already done' if facts.passes_done else ''}"
            f"{f', about {duration(facts.seconds)}' if facts.seconds is not None else ''}"
        )
        output.note(
            f"{in_bytes(facts.bytes_on_disk)} when finished, "
            f"{in_bytes(facts.bytes_while_building)} while building, in {directory}"
        )
    try:
        with build_progress(output, work.done, work.passes) as report:
            compute(session, work, shard, progress=report)
    except KeyboardInterrupt as error:
        raise _interrupted(directory) from error
    if missing := _join(output, session):
        _name_missing(output, directory, missing, shard[1])
    return work.passes - work.done


def _join(output: Output, session: Session) -> list[Unit]:
    """Combine the units if all exist, or return the missing ones."""
    from lens_core.building import join

    output.step("writing the operators")
    try:
        return join(session)
    except KeyboardInterrupt as error:
        raise _interrupted(session.operators_directory) from error


def _interrupted(directory: Path) -> InterruptionError:
    plan = _begun(directory)
    units = plan.units() if plan is not None else []
    kept = sum(_path(directory, unit).is_file() for unit in units)
    return InterruptionError(
        f"interrupted: {kept} of {counted(len(units), 'unit')} are kept in {directory}; "
        "run the same command again to resume"
    )


def _name_missing(output: Output, directory: Path, missing: list[Unit], of: int) -> None:
    from lens_core.operators.manifest import read_manifest

    units = read_manifest(directory).units()
    shards = sorted({units.index(unit) % of + 1 for unit in missing})
    shown = ", ".join(f"--shard {number}/{of}" for number in shards[:8])
    output.note(
        f"this shard is done; {counted(len(missing), 'unit')} of {shown}"
        f"{', ...' if len(shards) > 8 else ''} are missing"
    )


def _begun(directory: Path) -> BuildPlan | None:
    """The plan of the build in `directory`; `None` if it has none."""
    from lens_core.operators.manifest import read_manifest

    try:
        return read_manifest(directory)
    except OperatorError:
        return None


def _path(directory: Path, unit: Unit) -> Path:
    return directory / "units" / unit.filename


def _source(place: Path, directory: Path) -> Path:
    from lens_core.operators.contents import is_complete

    ours = directory.name
    for candidate in (place, place / OPERATORS / ours, place / ours):
        plan = _begun(candidate)
        if plan is None:
            continue
        if plan.fingerprint != ours:
            raise OperatorError(
                f"{candidate} holds operators of another model, reference, dtype or version: "
                "give shards of the same configuration and versions"
            )
        if is_complete(candidate):
            raise OperatorError(
                f"{candidate} holds finished operators, not shards: copy it to {directory}, "
                f"or set {SHARED_CACHE} to its cache directory"
            )
        return candidate
    raise OperatorError(
        f"{place} holds no shard of these operators ({ours[:12]}...): give another "
        "machine's cache directory, built from the same configuration and versions"
    )


def _result(
    output: Output,
    as_json: bool,
    directory: Path,
    passes: int,
    start: float,
    table: list[CachedLayer] | None = None,
) -> None:
    from lens_core.operators.contents import is_complete

    complete, size = is_complete(directory), size_of(directory)
    layers = None if table is None else atlas_summary(table)
    if as_json:
        document: dict[str, Any] = {
            "directory": str(directory),
            "bytes": size,
            "passes": passes,
            "seconds": round(time.monotonic() - start, 3),
            "complete": complete,
            "atlas": layers,
        }
        output.document(document)
        return
    from rich.text import Text

    state = "complete" if complete else "not complete"
    lines = [f"operators {state}, {in_bytes(size)}", output.shown(str(directory))]
    if layers is not None:
        features = counted(sum(each["features"] for each in layers), "feature")
        lines.append(f"atlas complete, {features} of {counted(len(layers), 'layer')}")
    output.show(*map(Text, lines))
