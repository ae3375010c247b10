"""Every block of the model as a switch, with its share in the feature's signature.

One column per layer, attention above MLP: the blocks before the feature are the ways into its
key, those after it the ways out of its value, and a bar stands between them. A cell shows the
share of its side's score with its sign, as percent where all layers fit, else as a bar scaled
to the largest of its side. Switches show at once; until the engine has answered, a side's
shares are grey and the head says of which blocks they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.line_pane import Line, Run, facts, fitted, line, width_of
from qlens_tui.engine.messages import Paths, PathShare, Side, Transition
from qlens_tui.formats import share as percent
from qlens_tui.text import cells, fit, token_label

SIDES: tuple[Side, Side] = ("value", "key")
_BARS = "▁▂▃▄▅▆▇█"
_LABELS = 6  # columns in front of the cells
_WAYS: dict[Side, str] = {"value": "out of value", "key": "into key"}


FeatureBlock = tuple[int, int, Side, int]
"""A feature by layer and number, and a block on one side's way."""


@dataclass(frozen=True)
class BothWays:
    """A feature's paths by side, as far as they are there."""

    layer: int
    feature: int
    paths: Mapping[Side, Paths]


class PathsGrid(FeaturePane[BothWays]):
    """The blocks that lead to a feature and away from it."""

    DEFAULT_CSS = """
    PathsGrid > .paths--off { color: $text-warning; }
    PathsGrid > .paths--large { text-style: bold; color: $text-accent; }
    PathsGrid > .paths--here { text-style: underline bold; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"paths--off", "paths--large", "paths--here"}

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "left,h",
            "move(-2)",
            "Layer before",
            show=False,
            tooltip="To the block one layer before",
        ),
        Binding(
            "right,l", "move(2)", "Layer after", show=False, tooltip="To the block one layer after"
        ),
        Binding("up,k", "move(-1)", "Attention", show=False, tooltip="To the layer's attention"),
        Binding("down,j", "move(1)", "MLP", show=False, tooltip="To the layer's MLP"),
        Binding(
            "home", "end(-1)", "First layer", show=False, tooltip="To the block of the first layer"
        ),
        Binding(
            "end", "end(1)", "Last layer", show=False, tooltip="To the block of the last layer"
        ),
        Binding("space", "switch", "Toggle", tooltip="Switch the block off or on"),
        Binding("r", "row", "Row", tooltip="Switch the block's row, on its side of the feature"),
        Binding("O", "only", "Only this", tooltip="Only this block on, on its side of the feature"),
        Binding("a", "all", "All", tooltip="All blocks on"),
        Binding("n", "none", "None", tooltip="All blocks off"),
        Binding(
            "1",
            "transition('identity')",
            "Identity",
            tooltip="Identity: carry nothing through blocks",
        ),
        Binding(
            "2",
            "transition('first-order')",
            "First order",
            tooltip="First order: each block by itself",
        ),
        Binding(
            "3",
            "transition('full')",
            "Full",
            tooltip="Full: blocks after blocks, as Query Lens does",
        ),
    ]

    @dataclass
    class BlocksToggled(Message):
        """The user wants these blocks off, and all others on."""

        grid: PathsGrid
        off: frozenset[int]

        @property
        def control(self) -> PathsGrid:
            return self.grid

    @dataclass
    class TransitionChosen(Message):
        """The user wants signatures by this transition."""

        grid: PathsGrid
        transition: Transition

        @property
        def control(self) -> PathsGrid:
            return self.grid

    @dataclass
    class BlockFocused(Message):
        """The cursor is on another block."""

        grid: PathsGrid
        block: int

        @property
        def control(self) -> PathsGrid:
            return self.grid

    def __init__(
        self,
        *,
        ascii_only: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(ascii_only=ascii_only, name=name, id=id, classes=classes)
        self._off: frozenset[int] = frozenset()
        self._transition: Transition = "full"
        self._cursor = -1
        self._left = 0
        self._rows: dict[int, tuple[Side, PathShare]] = {}
        self._layers = 0
        self._arrived: dict[Side, Paths] = {}
        self._favoured: tuple[FeatureBlock, tuple[str, ...], str] | None = None
        self._failed: dict[Side, str] = {}

    @property
    def bare_block(self) -> FeatureBlock | None:
        """Layer, feature, side and block under the cursor, if its share came without tokens."""
        if self.view is None or self.stale or self._cursor not in self._rows:
            return None
        side, row = self._rows[self._cursor]
        split = self.view.paths[side].split
        if row.tokens or not row.on or split != "first-reader" or not self._as_asked(side):
            return None
        return *_of(self.view), side, self._cursor

    def favour(self, of: FeatureBlock, tokens: tuple[str, ...], doing: str = "") -> None:
        """What a block favours, or what is being done to know it."""
        self._favoured = of, tokens, doing
        self.redraw()

    @property
    def off(self) -> frozenset[int]:
        """The blocks that are to be off, whether or not the shares shown are of them."""
        return self._off

    @property
    def transition(self) -> Transition:
        """The transition that is asked for."""
        return self._transition

    @property
    def cursor(self) -> int | None:
        """The block under the cursor; `None` before the first shares."""
        return self._cursor if self._cursor in self._rows else None

    @property
    def stale(self) -> bool:
        # Of the same feature only the side whose switches changed turns grey: see `_shade_of`.
        return super().stale and self.view is not None and self._awaited != _of(self.view)

    @property
    def waiting(self) -> bool:
        shown = {} if self.view is None else self.view.paths
        return super().waiting or (not self._problem and not all(map(self._as_asked, shown)))

    def ask(self, off: frozenset[int], transition: Transition) -> None:
        """Want these blocks off and this transition, as when a place is restored."""
        self._off, self._transition = off, transition
        self.redraw()

    def show_paths(self, paths: Paths, n_layers: int) -> None:
        """Show one side's shares; of another mask than the asked one they stay grey.

        Of a new feature nothing shows before both sides are there, or it has taken too long.
        """
        of = paths.layer, paths.feature
        if self._awaited not in (None, of):
            return
        self._layers = n_layers
        shown = self.view if self.view is not None and _of(self.view) == of else None
        others = {**(shown.paths if shown is not None else {}), **self._arrived}
        others = {side: known for side, known in others.items() if _of(known) == of}
        self._arrived = {**others, paths.side: paths}
        self._failed.pop(paths.side, None)
        sides = self._arrived.keys() | self._failed.keys()
        if len(sides) == len(SIDES) or shown is not None or self._late:
            self._show_arrived()

    def _show_arrived(self) -> None:
        layer, feature = _of(next(iter(self._arrived.values())))
        first = not self._rows
        self._rows = {
            _block(row.block): (side, row)
            for side, paths in self._arrived.items()
            for row in paths.rows
            if row.block not in ("direct", "bias")
        }
        if first and self._rows:
            self._cursor = min(self._on_side("value") or self._rows)
        elif self._rows and self._cursor not in self._rows:
            self._cursor = min(self._rows, key=lambda block: abs(block - self._cursor))
        doing = self._doing
        self.show(BothWays(layer, feature, self._arrived))
        if not all(self._as_asked(side) or side in self._failed for side in SIDES):
            self._awaited, self._doing = (layer, feature), doing  # the other side is on its way
            self.redraw()

    def clear(self) -> None:
        self._arrived, self._failed = {}, {}
        super().clear()

    def expect(
        self, layer: int, feature: int, doing: str = "computing", side: Side | None = None
    ) -> None:
        """As of any pane; `side` if it is about one of them, else both are asked for anew."""
        if side is None:
            self._failed = {}
        else:
            self._failed.pop(side, None)
        super().expect(layer, feature, doing)

    def _give_up_waiting(self) -> None:
        super()._give_up_waiting()
        if self._awaited in {_of(paths) for paths in self._arrived.values()}:
            self._show_arrived()

    def fail(self, layer: int, feature: int, problem: str, side: Side | None = None) -> None:
        """Say why there are no shares; what was shown of the same feature stays, in grey."""
        view = self.view
        if side is not None:
            self._failed[side] = problem
        super().fail(layer, feature, problem)
        if view is not None and (view.layer, view.feature) == (layer, feature):
            self._view = view
            self.redraw()

    def action_move(self, by: int) -> None:
        wanted = self._cursor + by
        if abs(by) == 1 and wanted // 2 != self._cursor // 2:
            return
        # The feature's own block is no way in or out: the cursor goes past it.
        if abs(by) == 2 and wanted not in self._rows:
            wanted += by
        if wanted in self._rows:
            self._move_to(wanted)

    def action_end(self, way: int) -> None:
        row = [block for block in self._rows if block % 2 == self._cursor % 2]
        if row:
            self._move_to(max(row) if way > 0 else min(row))

    def action_switch(self) -> None:
        if self._cursor in self._rows:
            self._switch(self._off ^ {self._cursor})

    def action_row(self) -> None:
        """Attention or MLP of the cursor's side: all off, or on again where all are off."""
        row = {k for k in self._on_side(self._side(self._cursor)) if k % 2 == self._cursor % 2}
        self._switch(self._off - row if row <= self._off else self._off | row)

    def action_only(self) -> None:
        """Of the cursor's side; the other side's signature need not be computed again."""
        self._switch((self._off | self._on_side(self._side(self._cursor))) - {self._cursor})

    def action_all(self) -> None:
        self._switch(frozenset())

    def action_none(self) -> None:
        self._switch(frozenset(self._rows))

    def action_transition(self, transition: Transition) -> None:
        if transition != self._transition:
            self._transition = transition
            self.redraw()
            self.post_message(self.TransitionChosen(self, transition))

    def _switch(self, off: frozenset[int]) -> None:
        if off != self._off:
            self._off = off
            self.redraw()
            self.post_message(self.BlocksToggled(self, off))

    def _move_to(self, block: int) -> None:
        if block != self._cursor:
            self._cursor = block
            self.redraw()
            self.post_message(self.BlockFocused(self, block))

    def _as_asked(self, side: Side) -> bool:
        """Whether the side's shares are of the asked transition and blocks."""
        paths = None if self.view is None else self.view.paths.get(side)
        if paths is None:
            return False
        blocks = self._on_side(side)
        asked = self._transition, self._off & blocks
        return (paths.settings.transition, blocks.intersection(paths.settings.off)) == asked

    def _shade_of(self, side: Side, style: str = "") -> str:
        return self.shade(style) if self._as_asked(side) else "pane--quiet"

    def _side(self, block: int) -> Side | None:
        """The side whose way the block is on."""
        return self._rows[block][0] if block in self._rows else None

    def _on_side(self, side: Side | None) -> frozenset[int]:
        return frozenset(block for block, (of, _) in self._rows.items() if of == side)

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        instead = self.instead()
        lines = [self._title(width)]
        if self.view is None:
            lines.append(instead or ())
        else:
            lines += self._grid(width)
            lines += [instead or self._info(), self._ends(self.view, width)]
            lines += self._strongest(height - len(lines))
        return [fitted(one, width, self.ellipsis) for one in lines], []

    def _title(self, width: int) -> Line:
        start = line((" PATHS ", self.title_style()), (f" {self.feature_name()}", "pane--strong"))
        view = self.view
        if view is None:
            return start
        room = width - width_of(start) - 2
        # Of another feature than the awaited one it says what is shown, else what is asked for.
        shown = next(iter(view.paths.values())).settings
        is_left = bool(self.waiting_for())
        pieces: list[list[str]] = [[shown.transition if is_left else self._transition]]
        for side, paths in view.paths.items():
            blocks = self._on_side(side)
            off = frozenset(paths.settings.off) if is_left else self._off
            pieces.append([f"{side} {len(blocks - off)} of {len(blocks)} on"])
        waiting = self._waiting(view)
        if waiting:
            said = facts(pieces, room - cells(waiting) - 2)
            return (*start, (f"  {said}", "pane--quiet"), (f"  {waiting}", "pane--waiting"))
        tokens = f"{next(iter(view.paths.values())).n_tokens:,}"
        pieces.append([f"exact on {tokens} reference tokens", f"exact on {tokens} tokens"])
        splits = sorted({paths.split for paths in view.paths.values()})
        pieces.append([f"{' and '.join(splits)} split"])
        return (*start, (f"  {facts(pieces, room)}", "pane--quiet"))

    def _waiting(self, view: BothWays) -> str:
        """What is awaited, and of what the shares are until then."""
        if self.waiting_for():
            return self.waiting_for()
        arrow = ">" if self.ascii_only else "▸"
        missing = [side for side in SIDES if side not in view.paths]
        late = [side for side in view.paths if not self._as_asked(side)]
        said = []
        if missing:
            said.append(self._failure(missing[0]) or f"{arrow} {missing[0]} {self.doing()}")
        elif late and not self._problem:
            said.append(self._failure(late[0]) or f"{arrow} {self.doing()}")
        if late:
            settings = view.paths[late[0]].settings
            off = len(set(settings.off) & self._rows.keys())
            said.append(f"grey: {settings.transition}, {f'{off} off' if off else 'all on'}")
        return " ".join(said)

    def _failure(self, side: Side) -> str:
        problem = self._failed.get(side)
        return f"! {side}: {self.printable(problem)}" if problem is not None else ""

    def _grid(self, width: int) -> Iterator[Line]:
        room = max(0, width - _LABELS - 1)
        longest = max((len(_digits(row.share)) for _, row in self._rows.values()), default=0)
        each = max(3, longest) + 1
        bars = not self.ascii_only and self._layers * each > room
        each = 3 if bars else max(each, min(6, room // max(1, self._layers)))
        across = max(1, room // each)
        layer = self._cursor // 2
        # The layers beside the cursor stay in sight, so that one sees whether there are more.
        self._left = max(min(self._left, layer - 1), layer - across + 2)
        self._left = max(0, min(self._left, self._layers - across))
        layers = range(self._left, min(self._layers, self._left + across))
        before, after = ("<", ">") if self.ascii_only else ("‹", "›")
        numbers: list[Run] = [(" " * (_LABELS - 1), ""), (before if self._left else " ", "")]
        for layer in layers:
            style = "pane--strong" if layer == self._cursor // 2 else "pane--quiet"
            numbers.append((f"{self._gap(2 * layer)}{layer:>{each - 1}}", style))
        if layers.stop < self._layers:
            numbers.append((after, ""))
        yield line(*numbers)
        largest = {side: self._largest(side) for side in SIDES}
        for row, label in enumerate((" attn", " mlp")):
            runs: list[Run] = [(fit(label, _LABELS), "pane--quiet")]
            for block in (2 * layer + row for layer in layers):
                text, style = self._cell(block, each - 1, bars, largest)
                at_cursor = block == self._cursor
                runs.append((self._gap(block), "" if at_cursor else style))
                cursor = "pane--cursor" if self.has_focus else "paths--here"
                runs.append((text, cursor if at_cursor else style))
            yield line(*runs)

    def _gap(self, block: int) -> str:
        """A bar between the ways into the key and the ways out of the value."""
        starts = self._side(block) == "value" and self._side(block - 2) != "value"
        return ("|" if self.ascii_only else "│") if starts else " "

    def _cell(self, block: int, width: int, bars: bool, largest: dict[Side, float]) -> Run:
        if block not in self._rows:
            text, style = self._no_way(block), ""
        elif block in self._off:
            text, style = "x" if self.ascii_only else "×", "paths--off"
        else:
            side, row = self._rows[block]
            small = largest[side] / 16 if bars else 0.005
            if abs(row.share) < small or row.share == 0:
                text, style = "." if self.ascii_only else "·", self._shade_of(side)
            else:
                text = _bar(row.share, largest[side]) if bars else _digits(row.share)
                large = abs(row.share) >= largest[side] / 2
                style = self._shade_of(side, "paths--large" if large else "")
        return text.rjust(width), style

    def _no_way(self, block: int) -> str:
        """The feature's own block lies between its ways; a way not known yet stays empty."""
        into, out = self._on_side("key"), self._on_side("value")
        if block > max(into, default=block) and block < min(out, default=2 * self._layers):
            return "@" if self.ascii_only else "◆"
        return " "

    def _largest(self, side: Side) -> float:
        shares = (abs(self._rows[block][1].share) for block in self._on_side(side))
        return max(filter(math.isfinite, shares), default=0.0)

    def _info(self) -> Line:
        """The block under the cursor, with its own tokens."""
        if self._cursor not in self._rows:
            return ()
        side, row = self._rows[self._cursor]
        start = f" {row.block:<8}", "pane--strong"
        way = f"{_WAYS[side]}  ", "pane--quiet"
        if self._cursor in self._off:
            return (start, way, ("off", "paths--off"))
        if not row.on:
            return (start, way, ("off in the shares shown", "paths--off"))
        return (start, way, self._share(side, row), *self._found_later())

    def _found_later(self) -> Line:
        """The tokens of the block under the cursor, where they did not come with its share."""
        if self._favoured is None or self._favoured[0] != self.bare_block:
            return ()
        _, tokens, doing = self._favoured
        if doing:
            return ((f" {self.printable(doing)}{self.ellipsis}", "pane--waiting"),)
        return (("  ".join(token_label(each, ascii_only=self.ascii_only) for each in tokens), ""),)

    def _share(self, side: Side, row: PathShare) -> Run:
        labels = (token_label(token, ascii_only=self.ascii_only) for token in row.tokens)
        return f"{percent(row.share):>7}  {'  '.join(labels)}", self._shade_of(side)

    def _ends(self, view: BothWays, width: int) -> Line:
        """The shares that are no block's."""
        said = []
        for side, paths in view.paths.items():
            ends = [row for row in paths.rows if row.block in ("direct", "bias")]
            parts = ", ".join(f"{row.block} {percent(row.share)}" for row in ends)
            said.append([f"{side}: {parts}"])
        return ((f" {facts(said, width - 1, '   ')}", "pane--quiet"),)

    def _strongest(self, room: int) -> Iterator[Line]:
        """The largest shares of the cursor's side with their tokens, as far as there is room."""
        side = self._side(self._cursor)
        if side is None or room < 2:
            return
        yield ((f" largest shares {_WAYS[side]}", "pane--quiet"),)
        on = [self._rows[block][1] for block in self._on_side(side) - self._off]
        counted = [row for row in on if math.isfinite(row.share)]
        for row in sorted(counted, key=lambda row: -abs(row.share))[: room - 1]:
            name = f" {row.block:<8}", self._shade_of(side, "pane--strong")
            yield (name, self._share(side, row))


def _of(known: Paths | BothWays) -> tuple[int, int]:
    return known.layer, known.feature


def _block(name: str) -> int:
    kind, _, layer = name.partition(".")
    return 2 * int(layer) + (kind == "mlp")


def _digits(part: float) -> str:
    """Whole percent with a sign, in three columns up to 99%."""
    return f"{100 * part:+.0f}" if math.isfinite(part) else "?"


def _bar(part: float, largest: float) -> str:
    """A sign and a bar, full height for the largest share."""
    if not math.isfinite(part):
        return "?"
    size = int(abs(part) / largest * len(_BARS))
    return ("+" if part > 0 else "-") + _BARS[min(size, len(_BARS) - 1)]
