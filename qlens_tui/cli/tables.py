"""A feature as tables for a terminal of 80 columns or more, or for a pipe.

Every untrusted string (tokens, names, paths) is made printable once, cropped, and
put into `Text`, which interprets no markup. Colour only repeats what the text says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from lens_core.comparison import RankedToken, SideComparison
from lens_core.evidence import Context, Evidence
from lens_core.lenses import LOGIT, ON_REQUEST, QUERY, Lens
from lens_core.resemblance import Resembling
from lens_core.signature import (
    FeatureReport,
    Paths,
    PathShare,
    SideSignature,
    Signature,
    TokenList,
)
from lens_core.steered import Steered
from lens_core.terms import SIDES, Side, Split, switch_names
from qlens_tui.cli.documents import computed_on
from qlens_tui.cli.marked import in_words
from qlens_tui.cli.output import Output
from qlens_tui.formats import (
    counted,
    density,
    number,
    ranks_moved,
    reference_size,
    score_change,
    share,
    tokens_of,
)
from qlens_tui.shading import bars, concordance
from qlens_tui.steered_words import how_set, listed_by
from qlens_tui.text import fit, token_label, visible
from qlens_tui.triage.marks import Mark

if TYPE_CHECKING:
    from rich.console import RenderableType

_BLOCKS = 8
_SPLITS: dict[Split, str] = {
    "first-reader": "first-reader split",
    "last-writer": "last-writer split",
    "first-order": "first-order split",
    "ablation": "what the score loses with one of them off",
}
_MEANING = {"value": "what it promotes", "key": "what activates it"}
_FIXED = 37  # width of a token table without the tokens
_WIDEST_TOKEN = 32
_SHADES = ("", "on grey23", "on grey35", "black on dark_goldenrod", "black on gold1")


def feature_tables(
    report: FeatureReport, output: Output, explanation: str, mark: Mark | None
) -> Iterator[RenderableType]:
    """The parts that `qlens show` prints; `explanation`: what others say, "" if nothing."""
    page = _Page(output)
    yield from page.header(report)
    if explanation:
        yield Text(f"explanation: {page.visible(explanation)}")
    if mark is not None and mark != Mark():
        yield Text(f"marks: {page.visible(in_words(mark))}")
    for side in SIDES:
        yield Text()
        yield page.side(side, report.signature.side(side))
        comparison = report.comparison.side(side)
        if comparison is not None:
            yield from page.against_all_on(report.signature.side(side), comparison)
    if report.steered is not None:
        yield Text()
        yield from page.steered(report.steered)
    for paths in (*report.paths, *report.heads):
        yield Text()
        yield page.paths(paths)
    if report.similar is not None:
        yield Text()
        yield page.similar(report.similar, report.similar_lists)
    yield Text()
    yield from page.activity(report.evidence)


def plain_table() -> Table:
    """A table without box and outer padding."""
    return Table(box=None, pad_edge=False, header_style="dim", show_edge=False)


class _Page:
    def __init__(self, output: Output) -> None:
        self._ascii = output.ascii_only
        self._ellipsis = "..." if self._ascii else "…"
        self._width = output.console.width
        self._digits = self._ascii or output.console.color_system is None

    def visible(self, text: str) -> str:
        return visible(text, ascii_only=self._ascii)

    def label(self, token: str, width: int) -> Text:
        shown = token_label(token, ascii_only=self._ascii)
        return Text(fit(shown, width, ellipsis=self._ellipsis).rstrip(" "))

    def header(self, report: FeatureReport) -> Iterator[Text]:
        session, signature = report.session, report.signature
        settings, reference = signature.settings, session.reference
        name = f"{signature.layer}:{signature.feature}"
        yield Text.assemble(
            (name, "bold"),
            f"  {self.visible(report.layer.dictionary)}  {self.visible(session.model)}",
            f"  {' '.join(computed_on(session).values())}",
        )
        operators = report.operators
        method = f"{signature.method} method"
        if operators is not None and operators.origin == "shipped":
            method = f"operators that come with qlens ({operators.stored})"
        yield Text(
            f"{settings.transition} transition, {method}, "
            f"{settings.convention} convention, final norm: {settings.final_norm}"
        )
        if settings.positions != "all":
            yield Text(f"the feature only at {settings.positions} positions of a sample")
        if settings.off:
            yield Text(f"off: {', '.join(switch_names(settings.off))}")
        size = reference_size(reference.samples, reference.length, are_texts=reference.are_texts)
        skipped = ""
        if reference.skip_first or reference.skip_last:
            skipped = f", without the first {reference.skip_first} and last {reference.skip_last}"
        yield Text(f"reference: {size}{skipped}, {self.visible(reference.origin)}")
        counts = [each.n_tokens for each in (*report.paths, *report.heads)]
        used = min(signature.n_tokens, *counts) if counts else signature.n_tokens
        if used < reference.n_tokens:
            yield Text(f"passes stopped after {used:,} of {reference.n_tokens:,} reference tokens")
        if report.layer.provenance.get("gated") == "True":
            yield Text(f"key: {self.visible(report.layer.provenance['key'])}")

    def side(self, side: Side, signature: SideSignature) -> RenderableType:
        title = Text.assemble((side.upper(), "bold"), f"  {_MEANING[side]}")
        plain, query = signature.top[LOGIT.name], signature.top[QUERY.name]
        if plain.reason or query.reason:
            return Group(title, Text(f"none: {plain.reason or query.reason}"))
        facts = [f"length {number(signature.norm)}, carried {number(signature.transported_norm)}"]
        if signature.stability is not None:
            facts.append(f"stability {signature.stability:.2f}")
        if signature.relative_variance is not None:
            facts.append(f"relative variance {signature.relative_variance:.2f}")
        width = max(6, min(_WIDEST_TOKEN, (self._width - _FIXED) // 2))
        table = plain_table()
        table.add_column("", justify="right")
        table.add_column(LOGIT.title, min_width=width)
        table.add_column(plain.measure, justify="right", min_width=8)
        table.add_column(QUERY.title, min_width=width)
        table.add_column(query.measure, justify="right", min_width=8)
        table.add_column("moved", justify="right", min_width=6)
        rows = zip(
            plain.tokens, plain.shown_scores, query.tokens, query.shown_scores, query.moved,
            strict=True,
        )  # fmt: skip
        for rank, (before, its_score, after, score_after, by) in enumerate(rows, 1):
            table.add_row(
                str(rank),
                self.label(before, width),
                number(its_score),
                self.label(after, width),
                number(score_after),
                ranks_moved(by),
            )
        also = [
            self._also(lens, signature.top[lens.name], width)
            for lens in ON_REQUEST
            if lens.name in signature.top and side in lens.readouts
        ]
        return Group(title.append(f"  ({', '.join(facts)})"), table, *also)

    def _also(self, lens: Lens, tokens: TokenList, width: int) -> RenderableType:
        """The list of a lens on request."""
        if tokens.reason:
            return Text(f"{lens.title}: none: {tokens.reason}")
        over = "" if tokens.n_tokens is None else f" over {counted(tokens.n_tokens, 'token')}"
        table = plain_table()
        table.add_column("", justify="right")
        table.add_column(f"{lens.title}{over}", min_width=width)
        table.add_column(tokens.measure, justify="right", min_width=8)
        table.add_column("moved", justify="right", min_width=6)
        rows = zip(tokens.tokens, tokens.shown_scores, tokens.moved, strict=True)
        for rank, (token, score, by) in enumerate(rows, 1):
            table.add_row(str(rank), self.label(token, width), number(score), ranks_moved(by))
        return table

    def steered(self, found: Steered) -> Iterator[Text]:
        """What steering raises, and how many of these tokens each list has."""
        title = Text("OBSERVED", style="bold")
        if found.reason:
            yield Text.assemble(title, f"  none: {found.reason}")
            return
        yield Text.assemble(title, f"  tokens that rise when it is {how_set(found)}")
        labels = (token_label(token, ascii_only=self._ascii) for token in found.tokens)
        yield Text(fit("  ".join(labels), self._width, ellipsis=self._ellipsis).rstrip(" "))
        yield Text(listed_by(found))

    def against_all_on(
        self, signature: SideSignature, comparison: SideComparison
    ) -> Iterator[RenderableType]:
        """What the switches changed: the score lost, and the tokens that came in and left."""
        if comparison.reason:
            yield Text(f"not compared with all blocks on: {comparison.reason}")
            return
        change = comparison.top[QUERY.name]
        how = "" if comparison.operators == signature.operators else " (by operators)"
        yield Text(
            f"against all blocks on{how}: {score_change(change.lost)}, "
            f"{counted(len(change.came_in), 'token')} in, {len(change.left)} out"
        )
        for name, tokens in (("in", change.came_in), ("out", change.left)):
            if tokens:
                yield Text(f"{name + ':':<5}").append_text(self._names(tokens))

    def _names(self, tokens: tuple[RankedToken, ...]) -> Text:
        labels = (token_label(each.token, ascii_only=self._ascii) for each in tokens)
        return Text(fit(" ".join(labels), self._width - 5, ellipsis=self._ellipsis).rstrip(" "))

    def paths(self, paths: Paths) -> RenderableType:
        what = "blocks" if paths.block is None else "heads"
        of_block = "" if paths.block is None else f" {paths.block}"
        name = Text.assemble((what.upper() if of_block else "PATHS", "bold"), of_block)
        if paths.reason:
            return name.append(f"  {paths.side}: none: {paths.reason}")
        blocks = [row for row in paths.rows if row.block not in ("direct", "bias")]
        carrying = sorted((row for row in blocks if row.on), key=lambda row: -abs(row.share))
        kept = carrying[:_BLOCKS]
        ends = {row.block: row for row in paths.rows if row.block in ("direct", "bias")}
        table = plain_table()
        table.add_column(what.removesuffix("s"), min_width=8)
        is_ablation = paths.split == "ablation"
        table.add_column("lost" if is_ablation else "share", justify="right", min_width=6)
        if is_ablation:
            table.add_column("overlap", justify="right")
        table.add_column("tokens")
        first, last = ([ends[name]] if name in ends else [] for name in ("direct", "bias"))
        for row in [*first, *kept, *last]:
            overlap = "" if row.overlap is None else f"{row.overlap:.2f}"
            middle = [overlap] if is_ablation else []
            table.add_row(row.block, share(row.share), *middle, self._tokens(row))
        of = f"{sum(row.on for row in blocks)} of {len(blocks)} {what} on"
        rest = f", the {len(kept)} largest" if len(kept) < len(carrying) else ""
        title = f"  {paths.side}: {_SPLITS[paths.split]}, {of}{rest}"
        parts: list[RenderableType] = [name.append(title), table]
        if kept and paths.split == "first-reader" and not any(row.tokens for row in kept):
            build = "run `qlens build`, or " if paths.block is None else ""
            parts.append(Text(f"tokens of {what}: {build}use --split last-writer"))
        return Group(*parts)

    def _tokens(self, row: PathShare) -> Text:
        labels = [token_label(token, ascii_only=self._ascii) for token in row.tokens]
        taken = 20 if row.overlap is None else 29
        return Text(fit(" ".join(labels), self._width - taken, ellipsis=self._ellipsis).rstrip(" "))

    def similar(self, found: Resembling, lists: tuple[Signature, ...]) -> RenderableType:
        """Near-duplicates: their cosines, and the first tokens of their lists."""
        title = Text.assemble(("SIMILAR", "bold"), f"  in layer {found.layer}")
        if found.reason:
            return title.append(f": none: {found.reason}")
        title.append(f", of {counted(found.of, 'feature')}: cosines of carried vectors, all on")
        table = plain_table()
        for column in ("feature", *SIDES):
            table.add_column(column, justify="right", min_width=7)
        for side in SIDES:
            table.add_column(_MEANING[side], no_wrap=True)
        room = max(8, (self._width - 30) // 2)
        rows = zip(found.features, found.value, found.key, lists, strict=True)
        for feature, value, key, its in rows:
            cosines = ("" if each is None else f"{each:.3f}" for each in (value, key))
            table.add_row(str(feature), *cosines, *(self._first(its.side(s), room) for s in SIDES))
        return Group(title, table)

    def _first(self, signature: SideSignature, room: int) -> Text:
        labels = (
            token_label(each, ascii_only=self._ascii) for each in signature.top[QUERY.name].tokens
        )
        return Text(fit(" ".join(labels), room, ellipsis=self._ellipsis).rstrip(" "))

    def activity(self, activity: Evidence) -> Iterator[RenderableType]:
        text = self.visible(tokens_of(activity.text))
        if activity.silent:
            yield Text.assemble(("ACTIVITY", "bold"), f"  silent in {text}")
            return
        fired = sum(activity.histogram)
        shown = bars(activity.histogram, ascii_only=self._ascii)
        end = number(len(activity.histogram) * activity.bin_width)
        yield Text.assemble(
            ("ACTIVITY", "bold"),
            f"  fires on {fired:,} of {text} ({density(activity.density)}), "
            f"at most {number(activity.max_activation)}",
        )
        yield Text(f"0 {shown} {end}")
        table = plain_table()
        table.add_column("where", justify="right")
        table.add_column("activation", justify="right")
        table.add_column("context", no_wrap=True)
        for context in activity.contexts:
            self._add_context(table, context, activity.max_activation)
        if any(activity.quarters):
            table.add_row("", "", Text("from each quarter of its range", style="dim"))
        for quarter in reversed(activity.quarters):
            for context in quarter:
                self._add_context(table, context, activity.max_activation)
        yield table

    def _add_context(self, table: Table, context: Context, largest: float) -> None:
        room = max(0, self._width - 24)
        before = room * 11 // 20
        line = concordance(
            context, largest, before, room - before, ascii_only=self._ascii,
            digits=self._digits, ellipsis=self._ellipsis,
        )  # fmt: skip
        shown = Text.assemble(
            *((piece.text, "bold" if piece.is_peak else _SHADES[piece.shade]) for piece in line)
        )
        place = f"{context.sample}:{context.position}"
        table.add_row(place, number(context.activation), shown)
