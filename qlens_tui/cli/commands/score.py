"""`qlens score`: how much of what features do is in their token lists.

Contexts are those of `qlens contexts`, kept in the cache: a run that was stopped goes on from
there, and the app shows the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lens_core.lenses import BASELINES
from qlens_tui.cli.commands.contexts import collect, read_text
from qlens_tui.cli.exits import InterruptionError
from qlens_tui.cli.options import Command, Layers, open_lens, pass_output, with_common
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import build_progress
from qlens_tui.formats import counted, duration

if TYPE_CHECKING:
    from lens_core.contexts.collect import Collected
    from lens_core.reference import ReferenceSample
    from lens_core.scores.input_score import InputProtocol
    from lens_core.scores.output_score import OutputProtocol
    from lens_core.scores.report import Asked, Judged
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
    "--score",
    "kind",
    type=click.Choice(["input", "output", "both"]),
    default="both",
    show_default=True,
    help="What activates features, what they promote, or both.",
)
@click.option(
    "--features",
    type=click.IntRange(min=1),
    metavar="N",
    help="Score N features of each layer, the same ones each time.  "
    "[default: input all, output 100]",
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
    type=click.Choice(["published", "in-order", "paired"]),
    help="Input: the strongest contexts (published) or the first ones (in-order). Output: next "
    "tokens compared (paired), or continuations as in the authors' code (published: ten times "
    "as slow).  [default: input both, output paired]",
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
    kind: str,
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
    fires most, is in its list. Output score: the share of the 25 tokens that rise most behind 100
    neutral prefixes, when the feature is set to a strength, that are in its list. Features without
    a score are counted. The ceiling is what one half of the contexts, or prefixes, says of the
    other: no list can be expected to do better. Intervals are of 95%.

    What is found goes to the cache: stop at any time, run it again to resume. Without operators
    only Logit Lens is scored for all features: run `qlens build` first, or score a sample,
    --features 100. docs/evidence.md says more.

    \b
    Examples:
      qlens score demo
      qlens score demo --layers 10 --lenses query,logit --format markdown
      qlens score demo --layers 10 --lenses query,zero-out --features 100
      qlens score demo --score output --features 30
      qlens score demo --score output --protocol published --layers 10 --features 10
      qlens score gpt2-small-32k --corpus hub:NeelNanda/pile-10k --features 200 --json
    """
    from lens_core.contexts.source import CorpusSource

    start = time.monotonic()
    protocols = _protocols(kind, protocol)
    source = CorpusSource.parse(corpus)
    if protocols.input:
        source.check()
    session = open_lens(
        output, config, offline=offline, layers=layers, device=device, dtype=dtype,
        reference_tokens=reference_tokens,
    )  # fmt: skip
    shelf = session.lens.dictionaries
    wanted = shelf.layers if layers is None else layers
    asked = _asked(lenses, k, features)
    asked.check(session.model.d_vocab)
    judged, facts = [], []
    if protocols.input:
        _check(session, wanted, asked)
        text = read_text(output, session, source, tokens, offline=offline)
        found = collect(output, session, text, wanted)
        judged = _inputs(output, session, text, found, asked, protocols.input)
        facts += _input_facts(output, text, judged)
    if protocols.output:
        steered = _outputs(output, session, wanted, asked, protocols.output)
        judged += steered
        facts += _output_facts(steered, protocols.output)
    from lens_core.scores.report import rows_of

    rows = rows_of(judged)
    if as_json:
        output.document([row.document() for row in rows])
        return
    first = "scores in %, 95% interval (% of the ceiling)"
    _print(output, rows, form, [first, *facts, duration(time.monotonic() - start)])


@dataclass(frozen=True)
class _Protocols:
    input: tuple[InputProtocol, ...]
    output: OutputProtocol | None


def _protocols(kind: str, protocol: str | None) -> _Protocols:
    """Which protocols are asked for.

    Raises:
        click.UsageError: none of that kind of score.
    """
    inputs: tuple[InputProtocol, ...] = ("published", "in-order")
    outputs: tuple[OutputProtocol, ...] = ("paired", "published")
    steered = [each for each in outputs if kind != "input" and protocol in (None, each)]
    found = _Protocols(
        tuple(each for each in inputs if kind != "output" and protocol in (None, each)),
        steered[0]
        if steered
        else None,  # one of them: the other takes hours if it is not asked for
    )
    if not (found.input or found.output):
        raise click.UsageError(f"--protocol {protocol} is not one of the {kind} score")
    return found


def _asked(lenses: Sequence[str] | None, k: int | None, features: int | None) -> Asked:
    from lens_core.lenses import LENSES, lens_named
    from lens_core.scores.report import LENGTHS, Asked

    return Asked(
        LENSES if lenses is None else tuple(map(lens_named, lenses)),
        LENGTHS if k is None else (k,),
        features,
    )


def _check(session: Session, layers: Sequence[int], asked: Asked) -> None:
    """Refuse what cannot be scored before a corpus is read for minutes."""
    from lens_core.scores.report import demand_sample

    for layer in layers:
        demand_sample(session.lens, session.lens.dictionary(layer), asked)


def _inputs(
    output: Output,
    session: Session,
    text: ReferenceSample,
    found: Sequence[Collected],
    asked: Asked,
    protocols: Sequence[InputProtocol],
) -> list[Judged]:
    from lens_core.scores.report import input_scores

    judged: list[Judged] = []
    for each in found:
        with _steps(output, f"scoring layer {each.layer}") as tick:
            judged += input_scores(
                session.lens, each.layer, text, each.file, protocols, asked, tick
            )
    return judged


def _outputs(
    output: Output,
    session: Session,
    layers: Sequence[int],
    asked: Asked,
    protocol: OutputProtocol,
) -> list[Judged]:
    from lens_core.scores.prefixes import scoring_prefixes
    from lens_core.scores.report import output_scores

    prefixes = scoring_prefixes(session.model, prepend_bos=session.config.reference.prepend_bos)
    if protocol == "published":
        from lens_core.scores.output_score import TARGETS
        from lens_core.scores.published import MOST_PASSES, WRITTEN

        output.note(
            f"protocol published: each feature takes up to {MOST_PASSES} passes over "
            f"{prefixes.samples} prefixes and {len(TARGETS) * WRITTEN} tokens written behind each"
        )
    judged = []
    for layer in layers:
        with _steps(output, f"steering features of layer {layer}") as tick:
            live = session.lens.activity(layer).density > 0
            try:
                judged.append(
                    output_scores(session.lens, layer, live, prefixes, asked, tick, protocol)
                )
            except KeyboardInterrupt as error:
                raise InterruptionError(
                    "interrupted: what was found is kept; run the same command again to resume"
                ) from error
    return judged


@contextmanager
def _steps(output: Output, what: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress of features through one step after another, each shown by itself."""
    with ExitStack() as stack:
        now, draw = "", None

        def tick(step: str, done: int, of: int) -> None:
            nonlocal now, draw
            if step != now or draw is None:
                stack.close()
                now = step
                draw = stack.enter_context(
                    build_progress(output, done, of, step, ("feature", "features"))
                )
            draw(done, of)

        output.step(what)
        yield tick


def _input_facts(output: Output, text: ReferenceSample, judged: Sequence[Judged]) -> list[str]:
    from lens_core.scores.input_score import CONTEXTS

    of = [each for each in judged if each.protocol == judged[0].protocol]
    features = counted(sum(len(each.features) for each in of), "feature")
    out = sum(each.left_out for each in of)
    return [
        f"input: {features} in {CONTEXTS} contexts of {text.length} tokens; {out:,} left out: "
        "fewer contexts, or no list",
        f"{counted(text.n_tokens, 'token')} of {output.shown(text.origin)}",
    ]


def _output_facts(judged: Sequence[Judged], protocol: OutputProtocol) -> list[str]:
    from lens_core.scores.output_score import TARGETS
    from lens_core.scores.prefixes import SCORING
    from lens_core.scores.published import MARGIN, WRITTEN

    features = counted(sum(len(each.features) for each in judged), "feature")
    out = sum(each.left_out for each in judged)
    targets = " and ".join(f"{target:g}" for target in TARGETS)
    how = f"KL {targets} behind {len(SCORING)} prefixes"
    if protocol == "published":
        targets = " and ".join(f"{target:g} to {target + MARGIN:g}" for target in TARGETS)
        how = f"KL {targets}, {WRITTEN} tokens written behind each of {len(SCORING)} prefixes"
    return [f"output: {features} steered to {how}; {out:,} that do not reach it left out"]


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
