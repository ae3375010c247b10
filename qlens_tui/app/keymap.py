"""The keys that work in every pane of the workbench, and how keys are written.

A key's short name is in the last line of the screen if it is `_shown`; its full description is
in the help and the command palette.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from textual.binding import Binding, BindingType

MOVE_ON = "M"
_NAMES = {
    "plus": "+", "equals_sign": "=", "minus": "-", "colon": ":", "slash": "/", "space": "space",
    "question_mark": "?", "less_than_sign": "<", "greater_than_sign": ">",
    "pagedown": "pgdn", "pageup": "pgup",
}  # fmt: skip


def _shown(key: str, action: str, name: str, does: str = "", sign: str | None = None) -> Binding:
    return Binding(key, action, name, tooltip=does, key_display=sign)


def _quiet(key: str, action: str, name: str, does: str = "", sign: str | None = None) -> Binding:
    return Binding(key, action, name, show=False, tooltip=does, key_display=sign)


KEYMAP = (
    _quiet("j,down", "feature(1)", "Next feature"),
    _quiet("k,up", "feature(-1)", "Previous feature"),
    _quiet("h,left", "layer(-1)", "Previous layer"),
    _quiet("l,right", "layer(1)", "Next layer"),
    _shown("tab", "pane(1)", "Pane", "Next pane"),
    _shown("z", "zoom", "Zoom", "Give the pane the whole screen, and back"),
    _quiet("shift+tab", "pane(-1)", "Previous pane"),
    _quiet("colon", "ask('jump')", "Jump to layer:feature", sign=":"),
    _shown("slash", "search('by_token')", "Token", "Search features by token", "/"),
    _quiet(
        "p", "search('by_text')", "What fires on a text", "Type a text and see what fires on it"
    ),
    _quiet(
        "d",
        "search('near_duplicates')",
        "Near-duplicates",
        "Features like this one, to mark them together",
    ),
    _quiet(
        "r",
        "search('steered')",
        "What it raises",
        "Set the feature, and see which tokens rise",
    ),
    _shown("f", "ask('filter')", "Filter", "Filter the table's rows"),
    _shown("o", "ask('sort')", "Sort", "Sort the table's rows; again: by one more"),
    _shown("s", "mark('star')", "Star", "Star or unstar the selection"),
    _shown("x", "mark('reject')", "Reject", "Reject the selection, or undo that"),
    _shown("t", "mark('tag')", "Tag", "Tag the selection, or remove a tag"),
    _shown("L", "mark('label')", "Label", "Write a label for the selection"),
    _shown("m", "mark('note')", "Note", "Write a note on the feature"),
    _quiet("N", "mark('next_unmarked')", "Next unmarked", "Next feature without a mark"),
    _quiet("S", "mark('only', 'starred')", "Only starred", "Filter starred features, or not"),
    _quiet("T", "mark('only', 'tagged')", "Only tagged", "Filter tagged features, or not"),
    _quiet("U", "mark('only', 'unmarked')", "Only unmarked", "Filter unmarked features, or not"),
    _shown(
        MOVE_ON,
        "mark('switch_moving_on')",
        "Move on",
        "After a mark, move on to the next feature, or stay",
    ),
    _quiet("u", "mark('undo')", "Undo", "Undo the last change of marks"),
    _quiet("ctrl+r", "mark('redo')", "Redo", "Redo what was undone"),
    _shown("e", "export", "Export", "Export features to a file"),
    _quiet("1", "transition('identity')", "Identity", "Identity: carry nothing through blocks"),
    _quiet("2", "transition('first-order')", "First order", "First order: each block by itself"),
    _quiet("3", "transition('full')", "Full", "Full: each block acts on earlier ones too"),
    _quiet("a", "all_on", "All blocks on"),
    _quiet(
        "D",
        "look('other_comparison')",
        "Compared with",
        "Blocks off: compare with all on, or Logit Lens",
    ),
    _quiet("b", "look('other_end')", "Top or bottom lists"),
    _quiet("i", "look('with_ids')", "Token ids", "Show or hide token ids"),
    _quiet("c", "look('next_lenses')", "Lenses compared", "Next choice of lenses to compare"),
    _quiet("plus,equals_sign", "look('lengthened', 1)", "Longer lists"),
    _quiet("minus", "look('lengthened', -1)", "Shorter lists"),
    _quiet("P", "pin", "Pin", "Pin the feature to compare it, or unpin"),
    _quiet("y", "copy", "Copy", "Copy the pane's text"),
    _quiet("Y", "copy('address')", "Copy address", "Copy the feature's address on Neuronpedia"),
    _quiet("v", "open('overview')", "Overview of the layers"),
    _quiet("C", "open('columns')", "Columns", "Choose the table's columns, order and widths"),
    _quiet("w", "open('jobs')", "Jobs", "Jobs: see what is being computed, and stop it"),
    _quiet("I", "open('provenance')", "Provenance", "Where the numbers on the screen come from"),
    _quiet("B", "build", "Build operators and atlas"),
    _quiet("escape", "back", "Back", "Back: to table; from zoom, pin, jump, sort, filter"),
    _quiet("ctrl+p", "app.palette", "Commands", "Find a command by its words, and run it"),
    _shown("question_mark", "open('help')", "Help", "All keys and a glossary", "?"),
    _quiet("q", "app.quit", "Quit", "Quit qlens"),
)

LAYER_KEYS = frozenset(
    key
    for binding in KEYMAP
    if binding.action.startswith("layer(")
    for key in binding.key.split(",")
)


def keys_of(binding: Binding) -> str:
    """The keys of a binding in readable form."""
    return " ".join(_NAMES.get(key, key) for key in binding.key.split(","))


def words_of(binding: Binding) -> str:
    """A binding's full description, which does not depend on a pane; the footer's is shorter."""
    return binding.tooltip or binding.description


def bindings_of(bindings: Iterable[BindingType]) -> Iterator[Binding]:
    """The bindings of a class, in whichever form they are declared."""
    for binding in bindings:
        yield binding if isinstance(binding, Binding) else Binding(*binding)
