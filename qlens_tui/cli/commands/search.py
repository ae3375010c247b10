"""`qlens search`: from tokens to the features that promote them or fire on them."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from lens_core.errors import UsageError
from lens_core.lenses import LENSES, LOGIT, QUERY, lens_named
from lens_core.token_query import By, TokenQuery
from qlens_tui.cli.options import Command, Layers, open_lens, pass_output, with_common
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import Watch
from qlens_tui.token_words import query_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lens_core.signature import Found
    from lens_core.terms import Side
    from lens_core.vocabulary import Vocabulary

_RANKED_BY = "paper", "apply"  # the convention and final norm that operators support


@click.command(cls=Command, short_help="Find the features for a token, or for several.")
@click.argument("config")
@click.argument("token", required=False)
@click.option(
    "--id", "token_id", type=click.IntRange(min=0), help="The token's id, instead of TOKEN."
)
@click.option(
    "--side",
    type=click.Choice(["value", "key"]),
    default="value",
    show_default=True,
    help="value: features that promote the token; key: features that fire on it.",
)
@click.option(
    "--lens",
    type=click.Choice([each.name for each in LENSES]),
    default=QUERY.name,
    show_default=True,
    help="query and first-order need operators (`qlens build`).",
)
@click.option(
    "--by",
    type=click.Choice(get_args(By)),
    default="rank",
    show_default=True,
    help="rank: the token's rank in each feature's own list, then score; score: score alone.",
)
@click.option("--layers", type=Layers(), help="Such as 3,5-9.  [default: the config's]")
@click.option("-n", type=click.IntRange(min=1), default=25, show_default=True, help="Features.")
@with_common
@pass_output
def search(
    output: Output,
    config: str,
    token: str | None,
    token_id: int | None,
    side: Side,
    lens: str,
    by: By,
    layers: tuple[int, ...] | None,
    n: int,
    reference_tokens: Path | None,
    device: str | None,
    dtype: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Find the features that promote a token or fire on it, indirect effects included.

    TOKEN is a token's text, in the notation of lists too, or # and its id (in quotes). Most
    words begin with a space, which counts. "a, b" looks for features that rank both well, and
    counts the worse of the two; "a -b" leaves out those with b among their best k tokens, or in
    front of a. Spaces around a comma or before a minus do not count; a token with one of these is
    written in double quotes, or as # and its id.

    The rank is the token's in the feature's own list (1 is best); the score is the same as in
    `qlens show`. Ranking takes at most one product of the dictionaries with the vocabulary
    (the demo's 25 best of one layer: half a second), none of it with --by score, or where the
    layers have an atlas (`qlens atlas`) and enough features have the token in their lists.

    \b
    Examples:
      qlens search smollm2-neurons " trade"
      qlens search smollm2-neurons " trade" --side key --layers 3,5-9 -n 10
      qlens search smollm2-neurons ' war, " battle"'
      qlens search smollm2-neurons ' war -" star"' --by score
      qlens search smollm2-neurons '#4710' --lens logit --json
    """
    if (token is None) == (token_id is None):
        raise click.UsageError("give a token, or --id NUMBER")
    watch = Watch(output)
    session = open_lens(
        output, config, offline=offline, progress=watch, layers=layers, device=device, dtype=dtype,
        reference_tokens=reference_tokens,
    )  # fmt: skip
    vocabulary = session.lens.vocabulary
    if token is not None:
        query = query_of(token, partial(_id_of, vocabulary, ascii_only=output.ascii_only))
    else:
        query = TokenQuery((vocabulary.check(token_id or 0),))
    asked = session.settings.convention, session.settings.final_norm
    if lens_named(lens).needs_operators and asked != _RANKED_BY:
        output.note(
            "search always uses convention paper, final norm apply, whatever the config says"
        )
    from lens_core.search_report import search as search_features

    with watch.on("searching", in_passes=False):
        found = search_features(
            session, query, side=side, lens=lens, layers=layers, n=n, by=by,
            tick=lambda _what, done, total: watch(done, total),
        )  # fmt: skip
    if as_json:
        from lens_core.report import session_facts
        from qlens_tui.cli.documents import search_document

        output.document(search_document(session_facts(session), found))
        return
    output.show(*_tables(output, found))


def _id_of(vocabulary: Vocabulary, token: str, *, ascii_only: bool) -> int:
    """The token with this text, or with this notation in lists (`␣war`)."""
    from qlens_tui.text import read_back

    try:
        return vocabulary.id_of(token)
    except UsageError:
        shown = read_back(token, ascii_only=ascii_only)
        with suppress(UsageError):
            return vocabulary.id_of(shown)
        raise


def _tables(output: Output, found: Found) -> list[RenderableType]:
    from rich.text import Text

    from qlens_tui.cli.tables import plain_table
    from qlens_tui.formats import number
    from qlens_tui.text import fit, token_label

    def shown(face: str) -> str:
        return token_label(face, ascii_only=output.ascii_only)

    verb = "promote" if found.side == "value" else "are activated by"
    title = Text(f"features that {verb} ")
    n_wanted, n_tokens = len(found.query.wanted), len(found.tokens)
    for at, (token, face) in enumerate(zip(found.query.ids, found.tokens, strict=True)):
        joint = "" if at == 0 else " and " if at < n_wanted else ", not "
        title.append(joint).append(shown(face), "bold").append(f" (id {token})")
    title.append(f", {lens_named(found.lens).title}, by {found.by}")
    several = [f"{'-' * (at >= n_wanted)}{shown(face)}" for at, face in enumerate(found.tokens)]
    ellipsis = "..." if output.ascii_only else "…"
    table = plain_table()
    plain = found.lens != LOGIT.name
    ranks = [fit(each, 8, ellipsis=ellipsis).rstrip() for each in several] if n_tokens > 1 else []
    for name in ("layer", "feature", "rank", *ranks, "score", *(("logit",) if plain else ())):
        table.add_column(Text(name), justify="right", min_width=7)
    table.add_column("its tokens", no_wrap=True)
    room = max(8, output.console.width - 51 - 10 * len(ranks))
    for hit in found.hits:
        tokens = fit(" ".join(map(shown, hit.tokens)), room, ellipsis=ellipsis)
        each = (f"{rank:,}" for rank in hit.ranks) if ranks else ()
        table.add_row(
            str(hit.layer), str(hit.feature), f"{hit.rank:,}", *each, number(hit.score),
            *((number(hit.logit_score),) if plain else ()), Text(tokens.rstrip(" ")),
        )  # fmt: skip
    return [title, table]
