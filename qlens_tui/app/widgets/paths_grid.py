"""Every block of the model as a switch, with its share in the feature's signature.

One column per layer, attention above MLP: the blocks before the feature lead into its key, those
after it carry its value, with a bar between them. A cell shows the block's share of its side's
score, as a signed percentage if all layers fit, else as a bar scaled to the side's largest.
Switches show at once; until the engine has answered, a side's shares are grey and the head says
which blocks they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from lens_core.terms import Switch, block_name, merged, splits, toggled
from qlens_tui.app.views import PathsView
from qlens_tui.app.widgets.block_shares import BlockShares
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.line_pane import Line, fitted, line, width_of
from qlens_tui.app.widgets.paths_lines import PathsLines
from qlens_tui.engine.messages import Split, Transition


class PathsGrid(FeaturePane[PathsView]):
    """The blocks before and after a feature, as switches."""

    DEFAULT_CSS = """
    PathsGrid > .paths--off { color: $text-warning; }
    PathsGrid > .paths--large { text-style: bold; color: $text-success; }
    PathsGrid > .paths--here { text-style: underline bold; }
    PathsGrid > .paths--here-grey { text-style: underline dim; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "paths--off",
        "paths--large",
        "paths--here",
        "paths--here-grey",
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "left,h",
            "move(-2)",
            "Previous layer",
            show=False,
            tooltip="To the block one layer earlier",
        ),
        Binding(
            "right,l", "move(2)", "Next layer", show=False, tooltip="To the block one layer later"
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
            "enter", "heads", "Heads", tooltip="Open the attention block's heads, or close them"
        ),
        Binding("escape", "close", "Close", show=False, tooltip="Close the heads"),
        Binding("c", "split", "Shares", tooltip="Next kind of share (see the glossary: split)"),
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
            tooltip="Full: each block acts on earlier ones too",
        ),
    ]

    @dataclass
    class BlocksToggled(Message):
        """The user wants these blocks and heads off, and all others on."""

        grid: PathsGrid
        off: frozenset[Switch]

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
    class SharesChosen(Message):
        """The user wants this kind of share, `None` for the usual one, and this block's heads."""

        grid: PathsGrid
        split: Split | None
        heads: int | None

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
        view: PathsView | None = None,
        *,
        ascii_only: bool = False,
        name: str | None = None,
        id: str | None = None,
        classes: str | None = None,
    ) -> None:
        super().__init__(
            view or PathsView(), ascii_only=ascii_only, name=name, id=id, classes=classes
        )
        self._shares = BlockShares()
        self._cursor = -1
        self._at_head = 0
        self._left = 0

    @property
    def cursor(self) -> int | None:
        """The block under the cursor; `None` before the first shares."""
        return self._cursor if self._cursor in self._shares else None

    def view_changed(self, *, is_other_feature: bool) -> None:
        """Keep the cursor on its block, or the nearest one; at first the value's first block."""
        first, self._shares = not self._shares.rows, BlockShares.of(self.view)
        if first and self._shares.rows:
            at, usual = self.view.at, min(self._shares.on_side("value") or self._shares.rows)
            self._set_cursor(at if at in self._shares.rows else usual)
        elif self._cursor not in self._shares:
            self._set_cursor(self._shares.nearest(self._cursor))

    def instead(self) -> Line | None:
        """The lines without shares: one side may have failed while the other is awaited."""
        sides = self.view.sides.items()
        if self.shown.answer is None and self.shown.awaits:
            problems = ((side, self.printable(each.problem)) for side, each in sides)
            failed = [f"! {side}: {problem}" for side, problem in problems if problem]
            if failed:
                waits = f"  {self.arrow} {self.doing(self.shown.awaits)}"
                return ((f" {failed[0]}", "pane--problem"), (waits, "pane--waiting"))
        return super().instead()

    @property
    def heads(self) -> int:
        """How many heads of the cursor's block are open, among which the cursor is; else 0."""
        opened = self.view.heads
        is_open = opened is not None and opened.block == self._cursor
        return self._n_heads(self._cursor) if is_open else 0

    def action_move(self, by: int) -> None:
        if self.heads:
            if abs(by) == 2:
                self._at_head = max(0, min(self._at_head + by // 2, self.heads - 1))
                self.redraw()
            elif by < 0:
                self.action_close()
            return
        wanted = self._cursor + by
        if abs(by) == 1 and wanted // 2 != self._cursor // 2:
            return
        # The feature's own block is on neither path: the cursor skips it.
        if abs(by) == 2 and wanted not in self._shares:
            wanted += by
        if wanted in self._shares:
            self._move_to(wanted)

    def action_heads(self) -> None:
        """Open the heads of the block under the cursor, or close them."""
        block = self._cursor
        if self.view.heads is not None:
            self.action_close()
        elif self._n_heads(block):
            self._at_head = 0
            self.post_message(self.SharesChosen(self, self.view.split, block))
        elif block in self._shares:
            name = block_name(block)
            is_mlp = f"{name} has no heads: it is an MLP"
            self.notify(is_mlp if block % 2 else f"the heads of {name} cannot be told apart")

    def action_close(self) -> None:
        self.post_message(self.SharesChosen(self, self.view.split, None))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self.view.heads is not None if action == "close" else True

    def action_end(self, way: int) -> None:
        if self.heads:
            self._at_head = self.heads - 1 if way > 0 else 0
            self.redraw()
            return
        row = [block for block in self._shares.rows if block % 2 == self._cursor % 2]
        if row:
            self._move_to(max(row) if way > 0 else min(row))

    def action_switch(self) -> None:
        if self._cursor in self._shares:
            switch = (self._cursor, self._at_head) if self.heads else self._cursor
            self._switch(toggled(self.view.off, switch, self._n_heads))

    def action_row(self) -> None:
        """Switch all attention or MLP blocks of the cursor's side off, or on if all are off.

        Among heads, all of them.
        """
        if self.heads:
            self._switch(toggled(self.view.off, self._cursor, self._n_heads))
            return
        row = {block for block in self._own_side() if block % 2 == self._cursor % 2}
        off = self.view.off
        off = off - row if row <= off else off | row
        self._switch(merged(off, self._n_heads))

    def action_only(self) -> None:
        """The blocks of the cursor's side; the other side need not be computed again.

        Among heads, those of their block.
        """
        others = self._own_side() - {self._cursor}
        off = self.view.off - {self._cursor}
        if self.heads:
            every = frozenset((self._cursor, head) for head in range(self.heads))
            self._switch((off | every) - {(self._cursor, self._at_head)})
        else:
            heads = {(self._cursor, head) for head in range(self._n_heads(self._cursor))}
            self._switch(merged(off - heads | others, self._n_heads))

    def action_all(self) -> None:
        self._switch(frozenset())

    def action_none(self) -> None:
        self._switch(frozenset(self._shares.rows))

    def action_transition(self, transition: Transition) -> None:
        if transition != self.view.transition:
            self.post_message(self.TransitionChosen(self, transition))

    def action_split(self) -> None:
        """The next kind of share, if the settings have several."""
        _, *others = splits(self.view.transition, any_off=bool(self.view.off))
        order: list[Split | None] = [None, *others]
        at = order.index(self.view.split) if self.view.split in order else 0
        if others:
            opened = self.view.heads
            heads = None if opened is None else opened.block
            self.post_message(self.SharesChosen(self, order[(at + 1) % len(order)], heads))

    def _n_heads(self, block: int) -> int:
        return self.view.n_heads[block] if 0 <= block < len(self.view.n_heads) else 0

    def _own_side(self) -> frozenset[int]:
        return self._shares.on_side(self._shares.side(self._cursor))

    def _switch(self, off: frozenset[Switch]) -> None:
        if off != self.view.off:
            self.post_message(self.BlocksToggled(self, off))

    def _move_to(self, block: int) -> None:
        if block != self._cursor:
            self._set_cursor(block)
            self.redraw()

    def _set_cursor(self, block: int | None) -> None:
        if block is not None and block != self._cursor:
            self._cursor = block
            self.post_message(self.BlockFocused(self, block))

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        head = self._at_head if self.heads else None
        drawn = PathsLines(
            self.view, self._shares, self._cursor, head, self.has_focus, self.ascii_only
        )
        instead = self.instead()
        start = line((" PATHS ", self.title_style()), (f" {self.feature_name()}", "pane--strong"))
        if self.shown.answer is None:
            lines: list[Line] = [start, instead or ()]
        else:
            start = (*start, *self.kept_note("  {}"))
            said = drawn.head(width - width_of(start) - 2, self.waiting_for())
            lines = [(*start, *said), *drawn.grid(self._scrolled(drawn, width), width)]
            lines += drawn.heads(width)
            lines += [instead or drawn.block(), drawn.ends(width)]
            lines += drawn.strongest(height - len(lines))
        return [fitted(one, width, self.ellipsis) for one in lines], []

    def _scrolled(self, drawn: PathsLines, width: int) -> int:
        """The first visible layer; the layers next to the cursor's stay visible."""
        across, _, _ = drawn.across(width)
        layer = self._cursor // 2
        self._left = max(min(self._left, layer - 1), layer - across + 2)
        self._left = max(0, min(self._left, self.view.n_layers - across))
        return self._left
