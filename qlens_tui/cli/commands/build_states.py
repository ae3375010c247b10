"""`qlens build --lens forward`: run every token of the vocabulary through the model.

The states go to the cache in parts, each written as a whole, so that a run can be stopped at any
time, resumed, and shared by several machines.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qlens_tui.cli.exits import InterruptionError
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import build_progress
from qlens_tui.formats import counted, duration, in_bytes

if TYPE_CHECKING:
    from lens_core.session import Session
    from lens_core.vocabulary_states import VocabularyStates


def build_states(
    output: Output,
    session: Session,
    layers: Sequence[int] | None,
    shard: tuple[int, int],
    *,
    as_json: bool,
) -> None:
    """Compute a shard of the states of the vocabulary, and say what is there."""
    from rich.text import Text

    start, lens = time.monotonic(), session.lens
    wanted = lens.dictionaries.layers if layers is None else layers
    sites = sorted({lens.dictionary(layer).read_site for layer in wanted})
    states = lens.states
    assert states is not None, "a session has them"
    parts = _build(output, session, states, sites, shard)
    missing, seconds = len(states.missing(sites)), time.monotonic() - start
    if as_json:
        output.document(
            {
                "directory": str(states.directory),
                "sites": sites,
                "left_contexts": [list(each) for each in states.contexts],
                "parts": parts,
                "complete": not missing,
                "bytes": states.bytes_on_disk(len(sites)),
                "seconds": round(seconds, 3),
            }
        )
        return
    state = "complete"
    if missing:
        state = f"{counted(missing, 'part')} missing: run the other shards"
    output.show(
        Text(f"states at {counted(len(sites), 'site')}, {state}, {duration(seconds)}"),
        Text(output.shown(str(states.directory))),
    )


def _build(
    output: Output,
    session: Session,
    states: VocabularyStates,
    sites: Sequence[int],
    shard: tuple[int, int],
) -> int:
    parts = states.missing(sites, shard)
    if not parts:
        output.note("every part is there: nothing to compute")
        return 0
    output.note(
        f"{counted(session.model.d_vocab, 'token')} behind "
        f"{counted(len(states.contexts), 'left context')} on {session.model.device}, up to site "
        f"{max(sites)}; {in_bytes(states.bytes_on_disk(len(sites)))} in {states.directory}"
    )
    session.lens.carrier.recording.release()
    try:
        with build_progress(output, 0, None, "running", ("token", "tokens")) as draw:
            return states.build(sites, shard, progress=draw)
    except KeyboardInterrupt as error:
        left = len(states.missing(sites, shard))
        raise InterruptionError(
            f"interrupted: {len(parts) - left} of {counted(len(parts), 'part')} are kept in "
            f"{states.directory}; run the same command again to resume"
        ) from error
