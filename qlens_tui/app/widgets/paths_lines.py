"""The lines of the paths pane: its head, a cell for each block, shares in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lens_core.terms import block_name, heads_of, on_path, switch_name
from qlens_tui.app.views import SIDES, HeadShares, PathsView, SideShares
from qlens_tui.app.widgets.block_shares import ENDS, BlockShares
from qlens_tui.app.widgets.line_pane import Line, Run, facts, line
from qlens_tui.engine.messages import Paths, PathShare, Side
from qlens_tui.formats import counted, part_of
from qlens_tui.formats import share as percent
from qlens_tui.text import cells, fit, token_label, visible

LABELS = 6
"""Columns in front of the cells."""
_BARS = "▁▂▃▄▅▆▇█"
_WAYS: dict[Side, str] = {"value": "out of value", "key": "into key"}


@dataclass(frozen=True)
class PathsLines:
    """Lays out one view; `cursor` is the block under the cursor, `has_focus` the pane's focus.

    `at_head` is the head under the cursor, `None` if the cursor is among the blocks.
    """

    view: PathsView
    shares: BlockShares
    cursor: int
    at_head: int | None
    has_focus: bool
    ascii_only: bool

    def head(self, room: int, waiting_for: str) -> Line:
        """The head: what the shares are for, after the pane's name."""
        view = self.view
        there = self._there()
        # For another feature the settings of the shown numbers, else the requested ones.
        is_other = view.shown.of != view.shown.asked
        shown = next(iter(there.values())).settings
        pieces: list[list[str]] = [[shown.transition if is_other else view.transition]]
        for side, paths in there.items():
            blocks = self.shares.on_side(side)
            off = on_path(paths.settings.off if is_other else view.off, blocks)
            n_heads = sum(not isinstance(each, int) for each in off)
            n_on = len(blocks) - (len(off) - n_heads)
            heads = f", {counted(n_heads, 'head')} off" if n_heads else ""
            pieces.append([f"{side} {n_on} of {len(blocks)} on{heads}"])
        if view.off:
            pieces.append(["a: all on"])
        waiting = waiting_for or ("" if is_other else self._waiting())
        if waiting:
            said = facts(pieces, room - cells(waiting) - 2)
            return ((f"  {said}", "pane--quiet"), (f"  {waiting}", "pane--waiting"))
        fewest = min(paths.n_tokens for paths in there.values())
        tokens = part_of(fewest, view.n_tokens)
        # Before what goes first for lack of room, which the remark on kept shares takes.
        at = 0 if view.shown.is_kept else len(pieces)
        pieces.insert(at, [f"exact on {tokens} reference tokens", f"exact on {tokens} tokens"])
        splits = sorted({paths.split for paths in there.values()})
        if "ablation" in splits:
            pieces.insert(0, ["ablation: score lost with one block off", "ablation"])
        else:
            pieces.append([f"{' and '.join(splits)} split"])
        return ((f"  {facts(pieces, room)}", "pane--quiet"),)

    def _waiting(self) -> str:
        """What is awaited for this feature, and which settings the grey shares are for."""
        sides = self.view.sides
        missing = [side for side in SIDES if sides[side].paths is None]
        late = [side for side in SIDES if sides[side].paths is not None and sides[side].late]
        said = [self._outcome(side, sides[side], named=True) for side in missing[:1]]
        if not missing and not self.view.shown.problem:
            said = [self._outcome(side, sides[side]) for side in late[:1]]
        for side in late[:1]:
            paths = sides[side].paths
            assert paths is not None
            off = len(on_path(paths.settings.off, self.shares.rows))
            which = f"{off} off" if off else "all on"
            # Its kind, where another kind of share was asked for.
            is_other = (
                "ablation" in (self.view.split, paths.split) and paths.split != self.view.split
            )
            kind = f"{paths.split}, " if is_other else ""
            said.append(f"grey: {paths.settings.transition}, {kind}{which}")
        return " ".join(filter(None, said))

    def _outcome(self, side: Side, shares: SideShares, *, named: bool = False) -> str:
        if shares.problem:
            return f"! {side}: {self._printable(shares.problem)}"
        arrow = ">" if self.ascii_only else "▸"
        doing = f"{self._printable(shares.awaits)}{self._ellipsis}"
        return f"{arrow} {f'{side} ' if named else ''}{doing}" if shares.awaits else ""

    def across(self, width: int) -> tuple[int, int, bool]:
        """How many layers fit, the columns of each, and whether bars replace percentages."""
        room, layers = max(0, width - LABELS - 1), self.view.n_layers
        rows = self.shares.rows.values()
        longest = max((len(_digits(row.share)) for _, row in rows), default=0)
        each = max(3, longest) + 1
        bars = not self.ascii_only and layers * each > room
        each = 3 if bars else max(each, min(6, room // max(1, layers)))
        return max(1, room // each), each, bars

    def grid(self, left: int, width: int) -> Iterator[Line]:
        """The rows of layer numbers, attention and MLP, from layer `left` as many as fit."""
        across, each, bars = self.across(width)
        layers = range(left, min(self.view.n_layers, left + across))
        before, after = ("<", ">") if self.ascii_only else ("‹", "›")
        numbers: list[Run] = [(" " * (LABELS - 1), ""), (before if left else " ", "")]
        for layer in layers:
            style = "pane--strong" if layer == self.cursor // 2 else "pane--quiet"
            numbers.append((f"{self._gap(2 * layer)}{layer:>{each - 1}}", style))
        if layers.stop < self.view.n_layers:
            numbers.append((after, ""))
        yield line(*numbers)
        largest = {side: self.shares.largest(side) for side in SIDES}
        for row, label in enumerate((" attn", " mlp")):
            runs: list[Run] = [(fit(label, LABELS), "pane--quiet")]
            for block in (2 * layer + row for layer in layers):
                text, style = self._cell(block, bars, largest)
                at_cursor = block == self.cursor
                runs.append((self._gap(block), "" if at_cursor else style))
                here = "pane--cursor" if self.has_focus else "paths--here"
                here += "-grey" if style == "pane--quiet" else ""
                runs.append((text.rjust(each - 1), here if at_cursor else style))
            yield line(*runs)

    def heads(self, width: int) -> Iterator[Line]:
        """The heads of the open block: a row of numbers and one of shares, as many as fit."""
        opened = self.view.heads
        if opened is None:
            return
        label = f" {fit(block_name(opened.block), LABELS + 1)}"
        rows = self._heads()
        if not rows:
            said = self._outcome("value", opened.shares) or "none on this feature's paths"
            yield (label, "pane--strong"), (f"  {said}", "pane--waiting")
            return
        each = max(3, *(len(_digits(row.share, 1)) for row in rows)) + 1
        each = max(each, min(6, (width - len(label) - 1) // len(rows)))
        across = max(1, (width - len(label) - 1) // each)
        left = max(0, min((self.at_head or 0) - across // 2, len(rows) - across))
        shown = range(left, min(len(rows), left + across))
        before, after = ("<", ">") if self.ascii_only else ("‹", "›")
        ends = (before if left else " ", after if shown.stop < len(rows) else "")
        numbers: list[Run] = [(" " * (len(label) - 1) + ends[0], "pane--quiet")]
        cells_: list[Run] = [(label, "pane--strong")]
        largest = max((abs(row.share) for row in rows if math.isfinite(row.share)), default=0.0)
        for head in shown:
            at_cursor = head == self.at_head
            style = "pane--strong" if at_cursor else "pane--quiet"
            numbers.append((f"{f'h{head}':>{each}}", style))
            text, style = self._head_cell(opened, rows[head], head, largest)
            here = "pane--cursor" if self.has_focus else "paths--here"
            cells_.append((" ", ""))
            cells_.append((text.rjust(each - 1), here if at_cursor else style))
        numbers.append((ends[1], "pane--quiet"))
        yield line(*numbers)
        waiting = self._outcome("value", opened.shares)
        yield line(*cells_, (f"  {waiting}" if waiting else "", "pane--waiting"))

    def _heads(self) -> tuple[PathShare, ...]:
        """The rows of the open block's heads, as far as they are there."""
        opened = self.view.heads
        return () if opened is None or opened.shares.paths is None else opened.shares.paths.rows

    def _head_cell(self, opened: HeadShares, row: PathShare, head: int, largest: float) -> Run:
        if opened.block in self.view.off or (opened.block, head) in self.view.off:
            return ("x" if self.ascii_only else "×"), "paths--off"
        style = "paths--large" if abs(row.share) >= largest / 2 else ""
        return _digits(row.share, 1), "pane--quiet" if opened.shares.late else style

    def block(self) -> Line:
        """The block or head under the cursor, with its own tokens."""
        if self.cursor not in self.shares:
            return ()
        if self.at_head is not None:
            return self._one_head(self.at_head)
        side, row = self.shares.rows[self.cursor]
        start = f" {row.block:<8}", "pane--strong"
        way = f"{_WAYS[side]}  ", "pane--quiet"
        if self.cursor in self.view.off:
            return (start, way, ("off", "paths--off"))
        if not row.on:
            return (start, way, ("off in the shares shown", "paths--off"))
        off = len(heads_of(self.view.off, self.cursor))
        some = [(f"  {counted(off, 'head')} off", "paths--off")] if off else []
        return (start, way, self._share(side, row), *some, *self._tokens_of_block())

    def _one_head(self, head: int) -> Line:
        side, _ = self.shares.rows[self.cursor]
        name = f" {switch_name((self.cursor, head))}  "
        start, way = (name, "pane--strong"), (f"{_WAYS[side]}  ", "pane--quiet")
        if self.cursor in self.view.off or (self.cursor, head) in self.view.off:
            return (start, way, ("off", "paths--off"))
        rows, opened = self._heads(), self.view.heads
        if opened is None or head >= len(rows):
            return (start, way)
        if not rows[head].on:
            return (start, way, ("off in the shares shown", "paths--off"))
        return (start, way, self._words(rows[head], late=opened.shares.late))

    def ends(self, width: int) -> Line:
        """The shares that do not belong to a block."""
        said = []
        for side, paths in self._there().items():
            rows = [row for row in paths.rows if row.block in ENDS]
            parts = ", ".join(f"{row.block} {percent(row.share)}" for row in rows)
            none = f"none: {self._printable(paths.reason)}" if paths.reason else ""
            if paths.split == "ablation":
                parts = "each block by itself, no sum"
            said.append([f"{side}: {none or parts}"])
        return ((f" {facts(said, width - 1, '   ')}", "pane--quiet"),)

    def strongest(self, room: int) -> Iterator[Line]:
        """The largest shares of the cursor's side with their tokens, as many as fit."""
        side = self.shares.side(self.cursor)
        if side is None or room < 2:
            return
        opened = self.view.heads
        shares = self.view.sides[side] if opened is None else opened.shares
        what = (
            "losses" if shares.paths is not None and shares.paths.split == "ablation" else "shares"
        )
        of = "" if opened is None else f" among the heads of {block_name(opened.block)}"
        yield ((f" largest {what} {_WAYS[side]}{of}", "pane--quiet"),)
        if opened is None:
            on = [
                self.shares.rows[k][1] for k in self.shares.on_side(side) if k not in self.view.off
            ]
        else:
            on = [row for row in self._heads() if row.on]
        finite = [row for row in on if math.isfinite(row.share)]
        for row in sorted(finite, key=lambda row: -abs(row.share))[: room - 1]:
            name = f" {row.block:<8}", "pane--quiet" if shares.late else "pane--strong"
            yield (name, self._words(row, late=shares.late))

    def _there(self) -> dict[Side, Paths]:
        sides = self.view.sides
        return {side: found for side in SIDES if (found := sides[side].paths) is not None}

    def _shade(self, side: Side, style: str = "") -> str:
        return "pane--quiet" if self.view.sides[side].late else style

    def _gap(self, block: int) -> str:
        """A bar between the key's path and the value's path."""
        starts = self.shares.side(block) == "value" and self.shares.side(block - 2) != "value"
        return ("|" if self.ascii_only else "│") if starts else " "

    def _cell(self, block: int, bars: bool, largest: dict[Side, float]) -> Run:
        if block not in self.shares:
            own = "@" if self.ascii_only else "◆"
            return (own if self.shares.is_own(block) else " "), ""
        if block in self.view.off:
            return ("x" if self.ascii_only else "×"), "paths--off"
        side, row = self.shares.rows[block]
        small = largest[side] / 16 if bars else 0.005
        if abs(row.share) < small or row.share == 0:
            return ("." if self.ascii_only else "·"), self._shade(side)
        text = _bar(row.share, largest[side]) if bars else _digits(row.share)
        large = abs(row.share) >= largest[side] / 2
        return text, self._shade(side, "paths--large" if large else "")

    def _tokens_of_block(self) -> Line:
        """The tokens of the block under the cursor, if they did not come with its share."""
        found = self.view.block
        if found is None or found.block != self.cursor:
            return ()
        if found.problem:
            return ((f" ! {self._printable(found.problem)}", "pane--problem"),)
        if found.awaits:
            return ((f" {self._printable(found.awaits)}{self._ellipsis}", "pane--waiting"),)
        return (("  ".join(map(self._label, found.tokens)), ""),)

    def _share(self, side: Side, row: PathShare) -> Run:
        return self._words(row, late=self.view.sides[side].late)

    def _words(self, row: PathShare, *, late: bool) -> Run:
        labels = "  ".join(map(self._label, row.tokens))
        overlap = "" if row.overlap is None else f"overlap {row.overlap:.2f}  "
        return f"{percent(row.share):>7}  {overlap}{labels}", "pane--quiet" if late else ""

    def _label(self, token: str) -> str:
        return token_label(token, ascii_only=self.ascii_only)

    def _printable(self, text: str) -> str:
        return visible(text, ascii_only=self.ascii_only)

    @property
    def _ellipsis(self) -> str:
        return "..." if self.ascii_only else "…"


def _digits(part: float, decimals: int = 0) -> str:
    """A signed percentage; a whole one takes three columns up to 99%."""
    return f"{100 * part:+.{decimals}f}" if math.isfinite(part) else "?"


def _bar(part: float, largest: float) -> str:
    """A sign and a bar, full height for the largest share."""
    if not math.isfinite(part):
        return "?"
    size = int(abs(part) / largest * len(_BARS))
    return ("+" if part > 0 else "-") + _BARS[min(size, len(_BARS) - 1)]
