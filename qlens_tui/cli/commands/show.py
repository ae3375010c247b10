"""`qlens show`: one feature's signatures, paths and contexts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lens_core.lenses import LENSES, ON_REQUEST, lens_named
from qlens_tui.cli.explaining import explanation_of
from qlens_tui.cli.marked import mark_of
from qlens_tui.cli.options import (
    Command,
    FeatureName,
    open_lens,
    pass_output,
    with_common,
    with_explanations,
)
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import Watch

if TYPE_CHECKING:
    from lens_core.session import Session
    from lens_core.terms import Bucket, Settings, Split, Switch

_CONTEXTS = 5


@click.command(cls=Command, short_help="Show what a feature promotes and what activates it.")
@click.argument("config")
@click.argument("feature", type=FeatureName(), metavar="LAYER:FEATURE")
@click.option("-k", type=click.IntRange(min=1), help="Tokens per list.  [default: the config's]")
@click.option(
    "--off",
    multiple=True,
    metavar="SWITCHES",
    help="Switch blocks or heads off, such as attn.9,mlp.12,attn.11.h3, and say what that changed; "
    "may be repeated.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="SWITCHES",
    help="Switch all but these blocks and heads off, on both sides.",
)
@click.option("--transition", type=click.Choice(["identity", "first-order", "full"]))
@click.option(
    "--method",
    type=click.Choice(["operator", "direct"]),
    help="Operators, or passes over the reference.  [default: operators if they are exact]",
)
@click.option("--convention", type=click.Choice(["paper", "exact"]))
@click.option("--final-norm", type=click.Choice(["apply", "linearize"]))
@click.option(
    "--positions",
    type=click.Choice(["all", "early", "late"]),
    default="all",
    show_default=True,
    help="Where in a sample the feature sits: anywhere, its first 16 tokens, or after them.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    help="Stop passes after this many reference tokens, rounded up.  [default: all; zero-out and "
    "token-change: few]",
)
@click.option(
    "--split",
    type=click.Choice(["first-reader", "last-writer", "ablation"]),
    help="What a block's share is: of all that starts with it (for a key: ends with it), of what "
    "it adds itself, or what the score loses with that block off (a walk from every block on).",
)
@click.option(
    "--heads",
    multiple=True,
    metavar="BLOCKS",
    help="Split the shares of these attention blocks, such as attn.9,attn.11, among their heads.",
)
@click.option(
    "--lens",
    "lenses",
    multiple=True,
    metavar="NAME",
    help=f"Show the list of this lens too: {', '.join(each.name for each in ON_REQUEST)}; "
    "may be repeated.",
)
@click.option(
    "--observed",
    is_flag=True,
    help="Also set the feature to a strength behind neutral prefixes: the tokens that rise most, "
    "and how many of them each list has (some seconds).",
)
@click.option(
    "--similar",
    type=click.IntRange(min=1, max=100),
    metavar="N",
    help="Also list the N features of the layer that are most like it, by the cosines of carried "
    "keys and values, of which the lesser counts (needs operators).",
)
@click.option(
    "--no-paths",
    is_flag=True,
    help="Do not compute the paths, which cost passes without operators.",
)
@with_explanations
@with_common
@pass_output
def show(
    output: Output,
    config: str,
    feature: tuple[int, int],
    k: int | None,
    off: tuple[str, ...],
    only: tuple[str, ...],
    transition: str | None,
    method: Any,
    convention: str | None,
    final_norm: str | None,
    positions: Bucket,
    tokens: int | None,
    split: Split | None,
    heads: tuple[str, ...],
    lenses: tuple[str, ...],
    observed: bool,
    similar: int | None,
    no_paths: bool,
    explanations: Path | None,
    reference_tokens: Path | None,
    device: str | None,
    dtype: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Show what one feature promotes (value) and what activates it (key), and your marks of it.

    Shows Logit Lens next to Query Lens on both sides; `moved` is how many ranks a token rose.
    Paths show which blocks carry the result. Contexts are those of the longest corpus that `qlens
    contexts` read for this layer, else of the reference; tokens on which the feature fires are
    shaded by the quarter of its activation range, or numbered by it where there are no colours.

    \b
    Examples:
      qlens show smollm2-neurons 6:35
      qlens show gpt2-small-32k 8:1279 --off attn.9,mlp.10 --off mlp.11
      qlens show gpt2-small-32k 8:1279 --only mlp.9 --json
      qlens show demo 10:453 --off mlp.20 --tokens 256
      qlens show demo 10:453 --heads attn.22 --off attn.22.h3
      qlens show demo 10:453 --lens zero-out --lens token-change:5 --observed
      qlens show demo 10:453 --similar 10
    """
    if off and only:
        raise click.UsageError("give only one of --off and --only")
    if heads and no_paths:
        raise click.UsageError("--heads splits paths: remove --no-paths")
    _switches(only or off)  # refuses a wrong name before the model is loaded
    _blocks(heads)
    also = [lens for lens in map(lens_named, dict.fromkeys(lenses)) if lens not in LENSES]
    watch = Watch(output)
    session = open_lens(
        output, config, offline=offline, progress=watch, layers=feature[:1], feature=feature[1],
        k=k, transition=transition, convention=convention, final_norm=final_norm,
        device=device, dtype=dtype, reference_tokens=reference_tokens, explanations=explanations,
    )  # fmt: skip
    settings = replace(
        _settings(session, off, only), method=method, positions=positions, tokens=tokens
    )
    output.step("loading the dictionary")
    session.lens.dictionary(*feature)

    from lens_core.report import feature_report

    with watch.on("reading the reference"):
        report = feature_report(
            session,
            *feature,
            settings,
            split=split,
            with_paths=not no_paths,
            heads=_blocks(heads, session.model.n_layers),
            contexts=_CONTEXTS,
            also=also,
            observed=observed,
            similar=similar or 0,
        )
    explanation = explanation_of(output, session, report)
    mark = mark_of(output, report.layer.sha256, feature[1])
    if as_json:
        from qlens_tui.cli.documents import feature_document

        output.document(feature_document(report, explanation, mark))
        return
    from qlens_tui.cli.tables import feature_tables

    output.show(*feature_tables(report, output, explanation, mark))


def _settings(session: Session, off: tuple[str, ...], only: tuple[str, ...]) -> Settings:
    from lens_core.head_shares import all_but

    switches = _switches(only or off, session.model.n_layers)
    if only:
        switches = all_but(session.model, switches)
    return replace(session.settings, off=switches)


def _switches(lists: tuple[str, ...], n_layers: int | None = None) -> frozenset[Switch]:
    from lens_core.terms import switch_index

    return frozenset(switch_index(name, n_layers) for names in lists for name in names.split(","))


def _blocks(lists: tuple[str, ...], n_layers: int | None = None) -> list[int]:
    """The blocks, in the order given, each once."""
    from lens_core.terms import block_index

    names = (name for names in lists for name in names.split(","))
    return list(dict.fromkeys(block_index(name, n_layers) for name in names))
