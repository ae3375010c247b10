"""`qlens search`: from a token to the features that promote it or fire on it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lens_core.errors import UsageError
from lens_core.lenses import LENSES, LOGIT, QUERY, lens_named
from qlens_tui.cli.options import Command, Layers, open_lens, pass_output, with_common
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import Watch

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lens_core.signature import Found
    from lens_core.terms import Side
    from lens_core.vocabulary import Vocabulary

_RANKED_BY = "paper", "apply"  # the convention and final norm that operators support


@click.command(cls=Command, short_help="Find the features for one token.")
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
    words begin with a space, which counts. The score is the same as in `qlens show`; the rank
    is the token's in the feature's own list (1 is best).

    \b
    Examples:
      qlens search smollm2-neurons " trade"
      qlens search smollm2-neurons " trade" --side key --layers 3,5-9 -n 10
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
        wanted = _token_given(vocabulary, token, ascii_only=output.ascii_only)
    else:
        wanted = vocabulary.check(token_id or 0)
    asked = session.settings.convention, session.settings.final_norm
    if lens_named(lens).needs_operators and asked != _RANKED_BY:
        output.note(
            "search always uses convention paper, final norm apply, whatever the config says"
        )
    from lens_core.search_report import search as search_features

    with watch.on("searching"):
        found = search_features(session, wanted, side=side, lens=lens, layers=layers, n=n)
    if as_json:
        from lens_core.report import session_facts
        from qlens_tui.cli.documents import search_document

        output.document(search_document(session_facts(session), found))
        return
    output.show(*_tables(output, found))


def _token_given(vocabulary: Vocabulary, token: str, *, ascii_only: bool) -> int:
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

    verb = "promote" if found.side == "value" else "are activated by"
    label = token_label(found.token, ascii_only=output.ascii_only)
    title = Text.assemble(
        f"features that {verb} ",
        (label, "bold"),
        f" (id {found.token_id}), {lens_named(found.lens).title}",
    )
    table = plain_table()
    plain = found.lens != LOGIT.name
    for name in ("layer", "feature", "score", *(("logit",) if plain else ()), "rank"):
        table.add_column(name, justify="right", min_width=7)
    table.add_column("its tokens", no_wrap=True)
    room = max(8, output.console.width - 51)
    for hit in found.hits:
        labels = (token_label(each, ascii_only=output.ascii_only) for each in hit.tokens)
        shown = fit(" ".join(labels), room, ellipsis="..." if output.ascii_only else "…")
        table.add_row(
            str(hit.layer), str(hit.feature), number(hit.score),
            *((number(hit.logit_score),) if plain else ()), f"{hit.rank:,}",
            Text(shown.rstrip(" ")),
        )  # fmt: skip
    return [title, table]
