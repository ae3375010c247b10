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

from lens_core.lenses import ON_REQUEST
from qlens_tui.cli.commands.contexts import collect, read_text
from qlens_tui.cli.exits import InterruptionError
from qlens_tui.cli.options import Command, Layers, open_lens, pass_output, with_common
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import build_progress
from qlens_tui.cli.score_tables import fidelity_facts, input_facts, output_facts, print_rows
from qlens_tui.formats import duration

if TYPE_CHECKING:
    from lens_core.contexts.collect import Collected
    from lens_core.reference import ReferenceSample
    from lens_core.scores.fidelity import FidelityProtocol
    from lens_core.scores.input_score import InputProtocol
    from lens_core.scores.output_score import OutputProtocol
    from lens_core.scores.report import Asked, Judged
    from lens_core.session import Session

_TOKENS = 158_720


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
    type=click.Choice(["input", "output", "both", "fidelity"]),
    default="both",
    show_default=True,
    help="What activates features, what they promote, both; or how far lists depend on the "
    "reference.",
)
@click.option(
    "--features",
    type=click.IntRange(min=1),
    metavar="N",
    help="Score N features of each layer, the same ones each time.  "
    "[default: input all, output 100, fidelity by walks 100]",
)
@click.option(
    "--lenses",
    type=Lenses(),
    metavar="NAMES",
    help="Such as query,logit, or those on request: "
    f"{', '.join(each.name for each in ON_REQUEST)}.  "
    "[default: all but those on request]",
)
@click.option(
    "--protocol",
    type=click.Choice(
        ["published", "in-order", "paired", "variance", "halves", "thirds", "lenses"]
    ),
    help="Input: the strongest contexts (published) or the first ones (in-order). Output: next "
    "tokens compared (paired), or continuations as in the authors' code (published: far "
    "slower). Fidelity: variance over tokens, lists from halves or thirds of the reference, or "
    "of different lenses.  [default: all, output paired]",
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
    other: no list can be expected to do better. Intervals are of 95%. Fidelity: how alike tokens
    of the reference, parts of it and lenses carry a feature.

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
      qlens score demo --score fidelity --protocol variance --features 20
      qlens score gpt2-small-32k --corpus hub:NeelNanda/pile-10k --features 200 --json
    """
    from lens_core.contexts.source import CorpusSource

    start = time.monotonic()
    protocols = _protocols(kind, protocol)
    if protocols.fidelity and lenses is not None:
        raise click.UsageError("--score fidelity compares all lenses: leave --lenses out")
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
        facts += input_facts(output, text, judged)
    if protocols.output:
        steered = _outputs(output, session, wanted, asked, protocols.output)
        judged += steered
        facts += output_facts(steered, protocols.output)
    if protocols.fidelity:
        judged = _fidelity(output, session, wanted, asked, protocols.fidelity)
        facts += fidelity_facts(judged)
    from lens_core.scores.report import rows_of

    rows = rows_of(judged)
    if as_json:
        output.document([row.document() for row in rows])
        return
    first = "scores in %, 95% interval" + ("" if protocols.fidelity else " (% of the ceiling)")
    print_rows(output, rows, form, [first, *facts, duration(time.monotonic() - start)])


@dataclass(frozen=True)
class _Protocols:
    input: tuple[InputProtocol, ...]
    output: OutputProtocol | None
    fidelity: tuple[FidelityProtocol, ...]


def _protocols(kind: str, protocol: str | None) -> _Protocols:
    """Which protocols are asked for.

    Raises:
        click.UsageError: none of that kind of score.
    """
    inputs: tuple[InputProtocol, ...] = ("published", "in-order")
    outputs: tuple[OutputProtocol, ...] = ("paired", "published")
    stable: tuple[FidelityProtocol, ...] = ("variance", "halves", "thirds", "lenses")
    steered = [each for each in outputs if protocol in (None, each)]
    found = _Protocols(
        tuple(each for each in inputs if kind in ("input", "both") and protocol in (None, each)),
        # One of them: `published` takes hours.
        steered[0] if steered and kind in ("output", "both") else None,
        tuple(each for each in stable if kind == "fidelity" and protocol in (None, each)),
    )
    if not (found.input or found.output or found.fidelity):
        which = f"the {kind} score" if kind != "both" else "the input or output score"
        raise click.UsageError(f"--protocol {protocol} is not one of {which}")
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
                raise _interrupted() from error
    return judged


def _fidelity(
    output: Output,
    session: Session,
    layers: Sequence[int],
    asked: Asked,
    protocols: Sequence[FidelityProtocol],
) -> list[Judged]:
    from lens_core.scores.report import fidelity_scores

    judged: list[Judged] = []
    for layer in layers:
        if "lenses" in protocols:
            _check(session, [layer], asked)
        with _steps(output, f"comparing lists of layer {layer}") as tick:
            try:
                judged += fidelity_scores(session.lens, layer, protocols, asked, tick)
            except KeyboardInterrupt as error:
                raise _interrupted() from error
    return judged


def _interrupted() -> InterruptionError:
    return InterruptionError(
        "interrupted: what was found is kept; run the same command again to resume"
    )


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
            draw(done, of, step)

        output.step(what)
        yield tick
