"""`qlens score`: how much of what features do is in their token lists.

Contexts are those of `qlens contexts`, kept in the cache: a run that was stopped goes on from
there, and the app shows the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lens_core.lenses import BASELINES
from qlens_tui.cli.commands.contexts import collect, read_text
from qlens_tui.cli.options import Command, Layers, open_lens, pass_output, with_common
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import build_progress
from qlens_tui.formats import counted, duration

if TYPE_CHECKING:
    from lens_core.contexts.collect import Collected
    from lens_core.reference import ReferenceSample
    from lens_core.scores.report import Asked, LayerScores
    from lens_core.scores.rows import ScoreRow
    from lens_core.session import Session

_TOKENS = 158_720
_SHOWN = 25


class Lenses(click.ParamType[tuple[str, ...]]):
    """Names of lenses, separated by commas."""

    name = "names"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        from lens_core.errors import UsageError
        from lens_core.lenses import lens_named

        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
        for name in names:
            try:
                lens_named(name)
            except UsageError as error:
                self.fail(str(error), param, ctx)
        return names


@click.command(cls=Command, short_help="Score how well lists say what features do.")
@click.argument("config")
@click.option(
    "--corpus",
    default="bundled",
    show_default=True,
    metavar="SOURCE",
    help="A text file in UTF-8, hub:OWNER/NAME, or bundled: text that is in neither the "
    "reference nor the demo's training.",
)
@click.option("--layers", type=Layers(), help="Such as 3,5-9.  [default: the config's]")
@click.option(
    "--features",
    type=click.IntRange(min=1),
    metavar="N",
    help="Score N features of each layer, the same ones each time.  [default: all]",
)
@click.option(
    "--lenses",
    type=Lenses(),
    metavar="NAMES",
    help=f"Such as query,logit, or baselines: {', '.join(each.name for each in BASELINES)}.  "
    "[default: all but baselines]",
)
@click.option(
    "--protocol",
    type=click.Choice(["published", "in-order"]),
    help="The strongest contexts, or the first ones.  [default: both]",
)
@click.option(
    "-k", type=click.IntRange(min=1), help="Length of lists.  [default: 5, 10, 20 and 25]"
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=_TOKENS,
    show_default=True,
    help="Tokens of the corpus to read, rounded up to whole samples.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "csv"]),
    default="table",
    show_default=True,
    help="How to print the table.",
)
@with_common
@pass_output
def score(
    output: Output,
    config: str,
    corpus: str,
    layers: tuple[int, ...] | None,
    features: int | None,
    lenses: tuple[str, ...] | None,
    protocol: str | None,
    k: int | None,
    tokens: int,
    form: str,
    reference_tokens: Path | None,
    device: str | None,
    dtype: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Score the token lists of CONFIG's features against what the features do.

    Input score: the share of a feature's contexts in a corpus whose token, the one on which it
    fires most, is in its list. Features with fewer than 20 contexts have no score and are
    counted. The ceiling is the score of the most frequent tokens of one half of the contexts on the
    other half: no list can be expected to do better. Intervals are of 95%.

    Contexts go to the cache, where the app finds them: stop at any time, run it again to resume.
    Without operators only Logit Lens is scored for all features: run `qlens build` first, or
    score a sample, --features 100. docs/evidence.md says more.

    \b
    Examples:
      qlens score demo
      qlens score demo --layers 10 --lenses query,logit --format markdown
      qlens score demo --layers 10 --lenses query,zero-out --features 100
      qlens score gpt2-small-32k --corpus hub:NeelNanda/pile-10k --features 200 --json
    """
    from lens_core.contexts.source import CorpusSource

    start = time.monotonic()
    source = CorpusSource.parse(corpus)
    source.check()
    session = open_lens(
        output, config, offline=offline, layers=layers, device=device, dtype=dtype,
        reference_tokens=reference_tokens,
    )  # fmt: skip
    shelf = session.lens.dictionaries
    wanted = shelf.layers if layers is None else layers
    asked = _asked(lenses, protocol, k, features)
    asked.check(session.model.d_vocab)
    _check(session, wanted, asked)
    text = read_text(output, session, source, tokens, offline=offline)
    found = collect(output, session, text, wanted)
    rows, scores = _scored(output, session, text, found, asked)
    if as_json:
        output.document([row.document() for row in rows])
        return
    seconds = time.monotonic() - start
    facts = _facts(output, text, scores, seconds)
    _print(output, rows, form, facts)


def _asked(
    lenses: Sequence[str] | None, protocol: str | None, k: int | None, features: int | None
) -> Asked:
    from lens_core.lenses import LENSES, lens_named
    from lens_core.scores.input_score import INPUT_PROTOCOLS
    from lens_core.scores.report import LENGTHS, Asked

    return Asked(
        LENSES if lenses is None else tuple(map(lens_named, lenses)),
        tuple(each for each in INPUT_PROTOCOLS if protocol in (None, each)),
        LENGTHS if k is None else (k,),
        features,
    )


def _check(session: Session, layers: Sequence[int], asked: Asked) -> None:
    """Refuse what cannot be scored before a corpus is read for minutes."""
    from lens_core.scores.report import demand_sample

    for layer in layers:
        demand_sample(session.lens, session.lens.dictionary(layer), asked)


def _scored(
    output: Output,
    session: Session,
    text: ReferenceSample,
    found: Sequence[Collected],
    asked: Asked,
) -> tuple[list[ScoreRow], list[LayerScores]]:
    from lens_core.scores.report import layer_scores, rows_of

    scores = []
    for at, each in enumerate(found):
        with build_progress(
            output, 0, None, f"scoring layer {each.layer}", ("list", "lists")
        ) as draw:

            def tick(_what: str, done: int, of: int) -> None:
                draw(done, of)

            output.step(f"scoring layer {each.layer}, {at + 1} of {len(found)}")
            scores.append(layer_scores(session.lens, each.layer, text, each.file, asked, tick))
    return rows_of(scores), scores


def _facts(
    output: Output, text: ReferenceSample, scores: Sequence[LayerScores], seconds: float
) -> list[str]:
    from lens_core.scores.input_score import CONTEXTS

    judged = sum(len(next(iter(each.features.values()))) for each in scores)
    out = sum(next(iter(each.left_out.values())) for each in scores)
    return [
        "input score in %, 95% interval (% of the ceiling)",
        f"{counted(judged, 'feature')} in {CONTEXTS} contexts of {text.length} tokens; {out:,} "
        "left out: fewer contexts, or no list",
        f"{counted(text.n_tokens, 'token')} of {output.shown(text.origin)}, {duration(seconds)}",
    ]


def _print(output: Output, rows: Sequence[ScoreRow], form: str, facts: Sequence[str]) -> None:
    from rich.text import Text

    from lens_core.scores.rows import columns, frame, markdown, paper_layout
    from qlens_tui.cli.tables import plain_table

    if form == "csv":
        output.text(frame(rows).write_csv())
        return
    longest = max(k for _, _, k in columns(rows))
    shown = [row for row in rows if row.k == min(longest, _SHOWN)]
    if form == "markdown":
        output.text("\n".join([markdown(shown), *facts]))
        return
    head, body = paper_layout(shown)
    table = plain_table()
    for at, name in enumerate(head):
        table.add_column(output.shown(name), justify="left" if at == 1 else "right")
    for line in body:
        table.add_row(*map(output.shown, line))
    output.show(table, *map(Text, facts))
