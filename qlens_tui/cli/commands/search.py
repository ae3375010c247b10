"""`qlens search`: from a token to the features that promote it or fire on it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lens_core.errors import UsageError
from qlens_tui.cli.options import Command, Layers, open_lens, pass_output, with_common
from qlens_tui.cli.output import Output
from qlens_tui.cli.progress import Watch

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lens_core.carry import Side
    from lens_core.lens import Lens
    from lens_core.session import Session
    from lens_core.vocabulary import Vocabulary

_TOKENS = 5
_RANKED_BY = "paper", "apply"  # what operators answer: convention and final norm


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
    help="Features that promote the token, or that it activates.",
)
@click.option(
    "--lens",
    type=click.Choice(["query", "logit", "first-order"]),
    default="query",
    show_default=True,
    help="All but logit need operators (`qlens build`).",
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
    lens: Lens,
    layers: tuple[int, ...] | None,
    n: int,
    reference_tokens: Path | None,
    device: str | None,
    dtype: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Find the features for one token, indirect effects included.

    TOKEN is a token's text, what lists show for it, or its id behind a # (quote it). Most
    words begin with a space, which counts. A score is the one that `qlens show` prints for the
    token; its rank is the token's in the feature's list, 1 the best.

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
    if lens != "logit" and asked != _RANKED_BY:
        output.note(
            "search uses operators: convention paper, final norm apply, whatever the config says"
        )
    with watch.on("searching"):
        hits = session.lens.search(wanted, side=side, lens=lens, layers=layers, n=n)
        results = [
            {**hit, **_best(session, hit["layer"], hit["feature"], wanted, side, lens)}
            for hit in hits.iter_rows(named=True)
        ]
    searched = session.lens.dictionaries.layers if layers is None else layers
    text = vocabulary.text(wanted)
    if as_json:
        from qlens_tui.cli.documents import computed_on, reference_document

        output.document(
            {
                "model": session.model.name,
                "model_fingerprint": session.model.fingerprint,
                "reference": reference_document(session),
                **computed_on(session),
                "convention": _RANKED_BY[0],
                "final_norm": _RANKED_BY[1],
                "token": {"id": wanted, "text": text},
                "side": side,
                "lens": lens,
                "layers": searched,
                "results": results,
            }
        )
        return
    output.show(*_tables(output, session, wanted, text, side, lens, results))


def _token_given(vocabulary: Vocabulary, token: str, *, ascii_only: bool) -> int:
    """The token that is this text, or that lists show like this (`␣war`)."""
    from qlens_tui.text import read_back

    try:
        return vocabulary.id_of(token)
    except UsageError:
        shown = read_back(token, ascii_only=ascii_only)
        with suppress(UsageError):
            return vocabulary.id_of(shown)
        raise


def _best(
    session: Session, layer: int, feature: int, token_id: int, side: Side, lens: Lens
) -> dict[str, Any]:
    """The best tokens of a feature under the lens that found it, and the rank of this one."""
    from lens_core.carry import Settings
    from lens_core.readout import top_k
    from lens_core.search import ranks_among

    ours = session.lens
    dictionary = ours.dictionary(layer, feature)
    if lens == "logit":
        vectors = dictionary.values if side == "value" else dictionary.keys
        scores = ours.plain_scores(side, vectors[feature])
    else:
        transition = Settings(
            transition="full" if lens == "query" else "first-order", method="operator"
        )
        carried = ours.transport.carry(side, dictionary, feature, transition)
        scores = ours.scores(side, carried.vector)
    ids = top_k(scores, _TOKENS)[0].tolist()
    rank = int(ranks_among(ours, dictionary, [feature], token_id, side, lens))
    return {"rank": rank, "ids": ids, "tokens": ours.vocabulary.texts(ids)}


def _tables(
    output: Output,
    session: Session,
    token_id: int,
    token: str,
    side: Side,
    lens: Lens,
    results: list[dict[str, Any]],
) -> list[RenderableType]:
    from rich.text import Text

    from qlens_tui.cli.tables import plain_table
    from qlens_tui.formats import number
    from qlens_tui.text import fit, token_label

    verb = "promote" if side == "value" else "are activated by"
    label = token_label(token, ascii_only=output.ascii_only)
    title = Text.assemble(
        f"features that {verb} ", (label, "bold"), f" (id {token_id}), {lens} lens"
    )
    table = plain_table()
    beside = () if lens == "logit" else ("logit",)
    for name in ("layer", "feature", "score", *beside, "rank"):
        table.add_column(name, justify="right", min_width=7)
    table.add_column("its tokens", no_wrap=True)
    room = max(8, output.console.width - 51)
    for hit in results:
        labels = (token_label(each, ascii_only=output.ascii_only) for each in hit["tokens"])
        shown = fit(" ".join(labels), room, ellipsis="..." if output.ascii_only else "…")
        table.add_row(
            str(hit["layer"]), str(hit["feature"]), number(hit["score"]),
            *(number(hit[f"{name}_score"]) for name in beside), f"{hit['rank']:,}",
            Text(shown.rstrip(" ")),
        )  # fmt: skip
    return [title, table]
