"""A prompt for a token, completed while it is typed, whose features are then searched."""

from __future__ import annotations

from collections.abc import Sequence

from lens_core.faces import id_named, outside
from qlens_tui.app.opened import Opened
from qlens_tui.app.screens.prompt import Answer, Prompt, Suggestion
from qlens_tui.app.screens.reverse_search import Sought
from qlens_tui.completion import Completion
from qlens_tui.text import fit, token_label, visible

_COMPLETIONS = 50


def token_prompt(
    completion: Completion, texts: Sequence[str], last: Sought | None, *, ascii_only: bool
) -> Prompt:
    """Ask for a token of `texts`; with nothing typed, offer the search `last`."""
    space = visible(" ", ascii_only=ascii_only)
    hint = f"type a token, up and down choose; a leading space (or {space}) counts; #7 is id 7"

    def typed(prompt: Prompt, text: str) -> None:
        prompt.tell(hint, printable=True)
        if last is not None and not text:
            label = token_label(last.token, ascii_only=ascii_only)
            prompt.offer(
                [Suggestion(f"features that {last.in_words(ascii_only=ascii_only)}", "")],
                take_first=True,
            )
            prompt.tell(f"enter: the last results, for {label}", printable=True)
            return
        ids = completion.offered(text, _COMPLETIONS, ascii_only=ascii_only)
        labels = (fit(token_label(texts[token], ascii_only=ascii_only), 28) for token in ids)
        prompt.offer(
            [
                Suggestion(f"{label} {token}", texts[token], token)
                for label, token in zip(labels, ids, strict=True)
            ],
            take_first=True,
        )
        if text and not ids:
            problem = "no token begins with that, or contains it"
            if id_named(text) is not None:
                problem = outside(f"'{text}'", len(texts))
            prompt.tell(problem, problem=True)

    return Prompt("features by token", typed=typed, must_choose=True, ascii_only=ascii_only)


def sought_by(answer: Answer, layer: int | None, last: Sought | None) -> Sought | None:
    """The requested search, in `layer` or in all layers."""
    if answer.number is None:
        return last
    return Sought(answer.number, answer.text, layer, everywhere=layer is None)


def still_possible(last: Sought | None, opened: Opened) -> Sought | None:
    """The search `last`, unless another model or other dictionaries are open now."""
    texts = opened.texts
    if last is None or texts is None:
        return None
    if list(texts[last.token_id : last.token_id + 1]) != [last.token]:
        return None
    return last if last.layer is None or last.layer in opened.choices else None
