"""`qlens contexts`: where features fire in a corpus, for all features of some layers.

The result goes to the cache, where `qlens show` and the app find it. It is written from time to
time, so that a run can be stopped at any time and resumed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qlens_tui.cli.exits import InterruptionError
from qlens_tui.cli.options import Command, Layers, open_lens, pass_output, with_common
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import build_progress
from qlens_tui.formats import counted, density, duration

if TYPE_CHECKING:
    from rich.table import Table

    from lens_core.contexts.collect import Collected
    from lens_core.contexts.source import CorpusSource
    from lens_core.reference import ReferenceSample
    from lens_core.session import Session

_TOKENS = 1_000_000


@click.command(cls=Command, short_help="Find where features fire in a longer text.")
@click.argument("config")
@click.option(
    "--corpus",
    required=True,
    metavar="SOURCE",
    help="A text file in UTF-8, hub:OWNER/NAME, or bundled: text that is in neither the "
    "reference nor the demo's training.",
)
@click.option("--layers", type=Layers(), help="Such as 3,5-9.  [default: the config's]")
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=_TOKENS,
    show_default=True,
    help="Stop after this many tokens, rounded up to whole samples.",
)
@with_common
@pass_output
def contexts(
    output: Output,
    config: str,
    corpus: str,
    layers: tuple[int, ...] | None,
    tokens: int,
    reference_tokens: Path | None,
    device: str | None,
    dtype: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Find where every feature of CONFIG's dictionaries fires in a corpus.

    For each feature: its strongest contexts, examples from each quarter of its activation range,
    and a histogram. `qlens show` and the app use them in place of the reference's. The corpus is
    cut into samples as the reference is; samples of the reference are left out. It can be stopped
    at any time; run it again to resume.

    \b
    Examples:
      qlens contexts demo --corpus bundled
      qlens contexts demo --corpus novels.txt --layers 10 --tokens 200000
      qlens contexts gpt2-small-32k --corpus hub:NeelNanda/pile-10k --json
    """
    from lens_core.contexts.source import CorpusSource

    start = time.monotonic()
    source = CorpusSource.parse(corpus)
    source.check()
    session = open_lens(
        output, config, offline=offline, layers=layers, device=device, dtype=dtype,
        reference_tokens=reference_tokens,
    )  # fmt: skip
    wanted = session.lens.dictionaries.layers if layers is None else layers
    for layer in wanted:
        if layer not in session.lens.dictionaries.layers:
            session.lens.dictionary(layer)  # its message lists the layers
    text = read_text(output, session, source, tokens, offline=offline)
    found = collect(output, session, text, wanted)
    seconds = time.monotonic() - start
    if as_json:
        output.document(_document(session, text, found, seconds))
        return
    from rich.text import Text

    line = f"{counted(text.n_tokens, 'token')}, {duration(seconds)}"
    output.show(_table(found), Text(line), Text(output.shown(text.origin)))


def read_text(
    output: Output, session: Session, source: CorpusSource, tokens: int, *, offline: bool
) -> ReferenceSample:
    from lens_core.contexts.corpus import read_corpus
    from lens_core.hub import is_offline

    output.step("reading the corpus")
    return read_corpus(
        source,
        session.model.tokenizer,
        session.lens.text,
        d_vocab=session.model.d_vocab,
        prepend_bos=session.config.reference.prepend_bos,
        tokens=tokens,
        offline=offline or is_offline(),
    )


def collect(
    output: Output, session: Session, text: ReferenceSample, layers: Sequence[int]
) -> list[Collected]:
    from lens_core.contexts.collect import collect_contexts

    what = f"reading for {counted(len(layers), 'layer')}"
    try:
        with build_progress(output, 0, None, what, ("token", "tokens")) as draw:
            return collect_contexts(session.lens, text, layers, session.cache, progress=draw)
    except KeyboardInterrupt as error:
        raise InterruptionError(
            f"interrupted: what was found is kept in {session.cache / 'contexts'}; run the same "
            "command again to resume"
        ) from error


def _document(
    session: Session, text: ReferenceSample, found: Sequence[Collected], seconds: float
) -> dict[str, Any]:
    from lens_core.report import session_facts
    from qlens_tui.cli.documents import computed_on, reference_document

    facts = session_facts(session)
    return {
        "corpus": {
            "origin": text.origin,
            "samples": text.samples,
            "length": text.length,
            "n_tokens": text.n_tokens,
        },
        "directory": str(found[0].file.parent),
        "layers": [
            {
                "layer": each.layer,
                "dictionary": each.dictionary,
                "features": each.features,
                "silent": each.silent,
                "density": each.density,
                "file": str(each.file),
            }
            for each in found
        ],
        "model": facts.model,
        "reference": reference_document(facts.reference),
        **computed_on(facts),
        "seconds": round(seconds, 3),
    }


def _table(found: Sequence[Collected]) -> Table:
    from qlens_tui.cli.tables import plain_table

    table = plain_table()
    for name in ("layer", "features", "silent", "mean density"):
        table.add_column(name, justify="right")
    for each in found:
        table.add_row(
            str(each.layer), f"{each.features:,}", f"{each.silent:,}", density(each.density)
        )
    return table
