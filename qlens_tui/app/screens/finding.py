"""Ways to a feature: its name, a filter, an order, a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lens_core.errors import LensError
from qlens_tui.app.screens.choice import Choice
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.app.screens.reverse_search import ReverseSearch, Sought
from qlens_tui.app.widgets.table_columns import COLUMNS
from qlens_tui.text import fit, token_label, visible

if TYPE_CHECKING:
    from qlens_tui.app.screens.workbench import Workbench

_COMPLETIONS = 50
_MARKS = ("star", "reject", "tags", "note")


def ask_jump(bench: Workbench) -> None:
    """`layer:feature`, or a feature of the layer in sight."""

    def check(text: str) -> str | None:
        found = _jump(text, bench.browsing.layer)
        if found is None:
            return "write LAYER:FEATURE, such as 8:1279, or a feature of this layer"
        layer, feature = found
        layers = [each for each in bench.browsing.choices if each is not None]
        if layer not in layers:
            return f"there is no layer {layer}: layers are {', '.join(map(str, layers))}"
        known = bench.browsing.known.get(layer)
        if known is not None and feature >= known.n_features:
            return f"layer {layer} has features 0 to {known.n_features - 1}"
        return None

    def go(answer: Answer | None) -> None:
        found = _jump(answer.text, bench.browsing.layer) if answer is not None else None
        if found is not None:
            bench.browsing.go(*found)

    prompt = Prompt("jump to layer:feature", check=check, ascii_only=bench.ascii)
    bench.app.push_screen(prompt, go)


def ask_sort(bench: Workbench) -> None:
    """A column to sort by; the one it is sorted by already turns the order round."""
    by, descending = bench.browsing.sort, bench.browsing.descending
    columns = _sortable(bench.table.rows.frame.columns if bench.table.rows is not None else ())
    lines = [
        f"{column:<28}{('down' if descending else 'up') if column == by else ''}"
        for column in columns
    ]

    def chosen(index: int | None) -> None:
        if index is not None:
            bench.browsing.sort_by(columns[index])

    choice = Choice(
        "sort by (again: the other way)",
        lines,
        cursor=columns.index(by) if by in columns else 0,
        ascii_only=bench.ascii,
    )
    bench.app.push_screen(choice, chosen)


def ask_filter(bench: Workbench) -> None:
    """Words, or SQL over the columns."""
    from qlens_tui.table.filter_sql import read_filter
    from qlens_tui.table.filter_words import RULE
    from qlens_tui.table.rows import KNOWN

    def check(text: str) -> str | None:
        try:
            read_filter(text, KNOWN, ascii_only=bench.ascii)
        except LensError as error:
            return str(error)
        return None

    def apply(answer: Answer | None) -> None:
        if answer is not None:
            bench.browsing.filter_by(answer.text.strip())

    prompt = Prompt(
        "filter features (empty: none)",
        value=bench.browsing.filter,
        hint=RULE,
        check=check,
        ascii_only=bench.ascii,
    )
    bench.app.push_screen(prompt, apply)


def ask_token(bench: Workbench) -> None:
    """A token of the vocabulary, completed while it is typed; then the features for it.

    With nothing typed the last search is offered, if its token and layer are still there.
    """
    completion, texts = bench.dialogue.completion, bench.dialogue.texts
    if bench.dialogue.ready is None or completion is None or texts is None:
        bench.notify("search needs the model: it is still loading", severity="warning")
        return

    last = _last_search(bench, texts)
    space = visible(" ", ascii_only=bench.ascii)
    hint = f"type a token, up and down choose; a leading space (or {space}) counts; #7 is id 7"

    def typed(prompt: Prompt, text: str) -> None:
        prompt.tell(hint, printable=True)
        if last is not None and not text:
            label = token_label(last.token, ascii_only=bench.ascii)
            prompt.offer(
                [Suggestion(f"features that {last.told(ascii_only=bench.ascii)}", "")],
                take_first=True,
            )
            prompt.tell(f"enter alone: the results for {label} again", printable=True)
            return
        ids = completion.offered(text, _COMPLETIONS, ascii_only=bench.ascii)
        labels = (fit(token_label(texts[token], ascii_only=bench.ascii), 28) for token in ids)
        prompt.offer(
            [
                Suggestion(f"{label} {token}", texts[token], token)
                for label, token in zip(labels, ids, strict=True)
            ],
            take_first=True,
        )
        if text and not ids:
            prompt.tell("no token begins with that, or holds it", problem=True)

    def go(answer: Answer | None) -> None:
        if answer is None:
            return
        if answer.number is not None:
            layer = bench.browsing.layer
            _search(bench, Sought(answer.number, answer.text, layer, everywhere=layer is None))
        elif last is not None:
            _search(bench, last)

    prompt = Prompt(
        "features by token",
        typed=typed,
        must_choose=True,
        ascii_only=bench.ascii,
    )
    bench.app.push_screen(prompt, go)


def _last_search(bench: Workbench, texts: Sequence[str]) -> Sought | None:
    """The last search, unless another model or other dictionaries are open now."""
    last = bench.dialogue.last_search
    if last is None or list(texts[last.token_id : last.token_id + 1]) != [last.token]:
        return None
    return last if last.layer is None or last.layer in bench.browsing.choices else None


def _search(bench: Workbench, sought: Sought) -> None:
    def leave(hit: tuple[int, int] | None) -> None:
        bench.dialogue.search = None
        bench.dialogue.last_search = screen.sought
        if hit is not None:
            bench.browsing.go(*hit)

    screen = ReverseSearch(bench, sought)
    bench.dialogue.search = screen
    bench.app.push_screen(screen, leave)


def _jump(text: str, layer: int | None) -> tuple[int, int] | None:
    first, colon, second = text.strip().partition(":")
    if not colon:
        first, second = ("" if layer is None else str(layer)), first
    if first.isdecimal() and second.isdecimal() and len(text) < 20:
        return int(first), int(second)
    return None


def _sortable(columns: Sequence[str]) -> list[str]:
    """Columns that an order makes sense of, those of the table first."""
    shown = [column.source for column in COLUMNS if column.source in (*columns, *_MARKS)]
    hidden = ("_ids", "_scores", "_moved")
    others = [
        name for name in columns if not name.endswith(hidden) and not name.startswith("context_")
    ]
    return list(dict.fromkeys([*shown, *_MARKS, *others]))
