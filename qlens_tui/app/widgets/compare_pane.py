"""Two features side by side: the pinned one, and the one under the cursor.

First how alike they are, then Query Lens's lists of both, with `=` at the tokens that both have,
then their numbers and their largest paths. All of it is about the two features that the first line
names; what is not there yet is blank, and the first line says what is awaited.

At any width the four lists stand beside each other; scores are left out where they do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import ClassVar

from lens_core.lenses import QUERY
from qlens_tui.app.views import SIDES, Compared, CompareView
from qlens_tui.app.widgets.feature_pane import FeaturePane
from qlens_tui.app.widgets.line_pane import Line, Run, facts, fitted, line, width_of
from qlens_tui.engine.messages import Side, SideSignature, TokenList
from qlens_tui.formats import density, number, part_of, share
from qlens_tui.text import fit, token_label, wrapped

_ORDER: tuple[Side, Side] = ("key", "value")
_SCORED, _SCORE = 22, 8  # columns of a list from which it has scores, and theirs
_NAME, _NUMBER = 10, 16  # columns of a fact's name and of its value
_BLOCKS = 6
_BLOCK, _SHARE = 10, 9  # columns of a block's name and of a share
_LONGEST = 1000  # characters of an explanation


class ComparePane(FeaturePane[CompareView]):
    """The comparison with the pinned feature."""

    DEFAULT_CSS = """
    ComparePane > .compare--common { text-style: bold; color: $text-accent; }
    ComparePane > .compare--pinned { text-style: bold; }
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"compare--common", "compare--pinned"}

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(CompareView(), ascii_only=ascii_only, id=id)

    def lay_out(self, width: int, height: int) -> tuple[Sequence[Line], Sequence[Line]]:
        instead, pinned, here = self.instead(), self.view.there, self.view.here
        head = [self._title(width)]
        if instead is not None or pinned is None or here is None:
            return [fitted(head[0], width, self.ellipsis)], [fitted(instead or (), width)]
        head += [self._alike(width), self._heads(width)]
        body = [*self._tokens(width), (), *self._numbers(width), *self._paths(width)]
        return [fitted(one, width, self.ellipsis) for one in head], [
            fitted(one, width, self.ellipsis) for one in body
        ]

    def _title(self, width: int) -> Line:
        view = self.view
        pinned = "" if view.pinned is None else f"{view.pinned[0]}:{view.pinned[1]}"
        start = line(
            (" COMPARE ", self.title_style()),
            (f" {pinned}", "pane--strong"),
            (" pinned, with ", "pane--quiet"),
            (self.feature_name(), "pane--strong"),
            "  ",
        )
        if view.pinned is not None and view.pinned == view.shown.of == view.shown.asked:
            return (*start, ("the same: go to another feature", "pane--waiting"))
        if view.problem:
            return (*start, (f"! {self.printable(view.problem)}", "pane--problem"))
        waiting = self.waiting_for() or (view.awaits and self.doing(view.awaits))
        if waiting:
            return (*start, (waiting, "pane--waiting"))
        return (
            *start,
            *self.kept_note("{}  "),
            (self._settings(width - width_of(start)), "pane--quiet"),
        )

    def _settings(self, room: int) -> str:
        """What is not as usual in these lists, and how to end the comparison."""
        answer = self.view.shown.answer
        pieces: list[list[str]] = []
        if answer is not None:
            settings = answer.settings
            if settings.transition != "full":
                pieces.append([settings.transition])
            if settings.off:
                pieces.append([f"{len(settings.off)} off"])
        tokens, every = self._fewest_tokens(), self.view.n_tokens
        if tokens < every:
            pieces.append([f"on at least {part_of(tokens, every)} tokens"])
        return facts([*pieces, ["P unpins"]], room)

    def _fewest_tokens(self) -> int:
        """Over how many tokens of the reference everything here is, at least."""
        view = self.view
        pair = [of for of in (view.there, view.here) if of is not None]
        found = [of.signature.n_tokens for of in pair if of.signature is not None]
        found += [paths.n_tokens for of in pair for paths in of.paths.values()]
        found += [view.cosines.n_tokens] if view.cosines is not None else []
        return min(found, default=view.n_tokens)

    def _alike(self, width: int) -> Line:
        """The cosines, raw and carried, and how many tokens the lists have in common."""
        pieces = [each for side in _ORDER if (each := self._of_side(side))]
        return ((f" {facts(pieces, width - 1, '   ')}", self.shade()),)

    def _of_side(self, side: Side) -> list[str]:
        """How alike the two are on one side, in two wordings; empty if nothing is known yet."""
        common, length = self._common(side)
        long, short = [], []
        if self.view.cosines is not None:
            of = self.view.cosines.key if side == "key" else self.view.cosines.value
            carried = "none" if of.carried is None else f"{of.carried:+.2f}"
            if of.raw is None:
                long, short = ["no cosine: a vector of length zero"], ["no cosine"]
            else:
                long = [f"cosine {of.raw:+.2f}, carried {carried}"]
                short = [f"cos {of.raw:+.2f}, carried {carried}"]
        if length:
            long.append(f"{len(common)} of {length} tokens in common")
            short.append(f"{len(common)}/{length} =")
        return [f"{side}: {', '.join(each)}" for each in (long, short) if each]

    # The lists.

    def _list(self, of: Compared | None, side: Side) -> TokenList | None:
        if of is None or of.signature is None:
            return None
        one: SideSignature = of.signature.side(side)
        lists = one.top if self.view.look.end == "top" else one.bottom
        return None if lists is None else lists[QUERY.name]

    def _ranks(self, of: Compared | None, side: Side) -> range:
        found = self._list(of, side)
        length = self.view.look.length or self.view.k
        return range(0 if found is None else len(found.ids[:length]))

    def _common(self, side: Side) -> tuple[frozenset[int], int]:
        """The tokens in both lists, and how long the shorter one is; 0 if one is not there."""
        one, other = (self._list(of, side) for of in (self.view.there, self.view.here))
        if one is None or other is None:
            return frozenset(), 0
        length = min(len(self._ranks(of, side)) for of in (self.view.there, self.view.here))
        return frozenset(one.ids[:length]) & frozenset(other.ids[:length]), length

    def _columns(self) -> list[tuple[Side, Compared | None]]:
        return [(side, of) for side in _ORDER for of in (self.view.there, self.view.here)]

    def _widths(self, width: int) -> list[int]:
        """The widths of the four lists, with their marks and scores."""
        each, more = divmod(max(0, width - 4 - 2 * 3), 4)
        return [each + (at < more) for at in range(4)]

    def _bar(self, at: int) -> str:
        """What stands between two lists: those of one side are nearer to each other."""
        return "" if not at else "  " if at % 2 else " |" if self.ascii_only else " │"

    def _heads(self, width: int) -> Line:
        end = "" if self.view.look.end == "top" else " bottom"
        runs: list[Run] = [("    ", "pane--quiet")]
        for at, ((side, of), room) in enumerate(
            zip(self._columns(), self._widths(width), strict=True)
        ):
            name = "" if of is None else f"{of.feature[0]}:{of.feature[1]}"
            title = f" {side.upper()} {name}{end}"
            runs += [(self._bar(at), "pane--quiet")]
            runs += [
                (
                    fit(title, room, ellipsis=""),
                    "compare--pinned" if at % 2 == 0 else "pane--strong",
                )
            ]
        return line(*runs)

    def _tokens(self, width: int) -> Iterator[Line]:
        common = {side: self._common(side)[0] for side in _ORDER}
        longest = max(len(self._ranks(of, side)) for side, of in self._columns())
        if not longest:
            reasons = (
                found.reason for side, of in self._columns() if (found := self._list(of, side))
            )
            reason = next(filter(None, reasons), "")
            yield ((f" none: {self.printable(reason)}" if reason else " no tokens", "pane--quiet"),)
        for rank in range(longest):
            runs: list[Run] = [(f" {rank + 1:>2} ", self.shade("pane--quiet"))]
            for at, ((side, of), room) in enumerate(
                zip(self._columns(), self._widths(width), strict=True)
            ):
                runs += [(self._bar(at), self.shade("pane--quiet"))]
                found = self._list(of, side)
                if found is None or rank >= len(found.ids):
                    runs += [(" " * room, "")]
                    continue
                is_common = found.ids[rank] in common[side]
                scored = room >= _SCORED
                label = token_label(found.tokens[rank], ascii_only=self.ascii_only)
                token = fit(label, room - 1 - scored * (_SCORE + 1), ellipsis=self.ellipsis)
                style = self.shade("compare--common" if is_common else "")
                runs += [(("=" if is_common else " ") + token, style)]
                if scored:
                    score = number(found.shown_scores[rank])
                    runs += [(f" {score:>{_SCORE}}", self.shade("pane--quiet"))]
            yield line(*runs)

    # The numbers.

    def _numbers(self, width: int) -> Iterator[Line]:
        pair = [of for of in (self.view.there, self.view.here) if of is not None]
        names = [f"{of.feature[0]}:{of.feature[1]}" for of in pair]
        yield line(
            (fit("", _NAME + 2), ""), *((f"{name:>{_NUMBER}}", "pane--strong") for name in names)
        )
        for name, values in self._facts(pair):
            said = (f"{text:>{_NUMBER}}" for text in values)
            yield line(
                (f" {fit(name, _NAME)} ", "pane--quiet"), *((text, self.shade()) for text in said)
            )
        for of, name in zip(pair, names, strict=True):
            text = self.printable(of.explanation[:_LONGEST])
            if text:
                rows = wrapped(text, max(1, width - _NAME - 3))
                for label, row in zip_longest([name], rows, fillvalue=""):
                    yield line((f" {fit(label, _NAME)} ", "pane--quiet"), (row, self.shade()))

    def _facts(self, pair: Sequence[Compared]) -> Iterator[tuple[str, list[str]]]:
        def of_evidence(of: Compared) -> tuple[str, str]:
            if of.evidence is None:
                return "", ""
            if of.evidence.silent:
                return "silent", ""
            return density(of.evidence.density), number(of.evidence.max_activation)

        fires = [of_evidence(of) for of in pair]
        yield "fires on", [said for said, _ in fires]
        yield "at most", [said for _, said in fires]
        for side in _ORDER:
            gains = (of.gains.get(side) for of in pair)
            yield f"gain {side[0]}", ["" if each is None else f"{each:+.2f}" for each in gains]
        sides = [
            {side: None if of.signature is None else of.signature.side(side) for side in SIDES}
            for of in pair
        ]
        for side in _ORDER:
            found = [each[side] for each in sides]
            stable = (None if one is None else one.stability for one in found)
            yield f"stab {side[0]}", ["" if each is None else f"{each:.2f}" for each in stable]
            yield f"length {side[0]}", ["" if one is None else number(one.norm) for one in found]
            carried = ["" if one is None else number(one.transported_norm) for one in found]
            yield "carried", carried

    def _paths(self, width: int) -> Iterator[Line]:
        """The largest shares of either feature, side by side where there is room."""
        parts = [list(self._shares(side)) for side in _ORDER]
        if not any(parts):
            return
        yield ()
        room = _BLOCK + 2 * _SHARE + 3
        for key, value in zip_longest(*parts, fillvalue=()):
            yield (
                (*fitted(key, room, self.ellipsis), *value) if width >= 2 * room else (*key, *value)
            )

    def _shares(self, side: Side) -> Iterator[Line]:
        pair = (self.view.there, self.view.here)
        found = [None if of is None else of.paths.get(side) for of in pair]
        if all(each is None for each in found):
            return
        rows = [
            {}
            if each is None
            else {row.block: row.share for row in each.rows if row.block != "bias"}
            for each in found
        ]
        largest = {
            block: max(abs(each.get(block, 0.0)) for each in rows)
            for each in rows
            for block, value in each.items()
            if math.isfinite(value)
        }
        names = ("" if of is None else f"{of.feature[0]}:{of.feature[1]}" for of in pair)
        title = f" {fit(f'{side} path', _BLOCK)}"
        yield line(
            (title, "pane--strong"), *((f"{name:>{_SHARE}}", "pane--quiet") for name in names)
        )
        for block in sorted(largest, key=lambda block: -largest[block])[:_BLOCKS]:
            said = (share(each[block]) if block in each else "" for each in rows)
            yield line(
                (f" {fit(block, _BLOCK)}", "pane--quiet"),
                *((f"{text:>{_SHARE}}", self.shade()) for text in said),
            )
