"""How strongly a feature fires on each token of a text: in shades or, without colours, in digits.

The shade of a token is the quarter of the feature's activation range `(0, max]` in which its
activation lies, 1 to 4, and 0 where it does not fire. Where colours cannot be seen (`NO_COLOR`, a
pipe) or only ASCII may be written, the number follows the token: `war³`, in ASCII `war^3`. The
token of a context, where the feature fires most, is in brackets in any case. For both front ends.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lens_core.evidence import Context
from lens_core.faces import parted
from qlens_tui.text import cells, context_label, fit, token_label

SHADES = 4
_DIGITS = "⁰¹²³⁴"
_BARS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
_EMPTY = "·", " "


@dataclass(frozen=True)
class Piece:
    """A printable piece of a text, its shade, and the tokens that it shows.

    It shows several tokens if they share a character. `is_peak`: it is the token of a context.
    """

    text: str
    shade: int = 0
    is_peak: bool = False
    tokens: range = range(0)


def has_no_colour(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user wants no colours (https://no-color.org)."""
    return bool(environment.get("NO_COLOR"))


def shade_of(activation: float | None, largest: float) -> int:
    """The quarter of `(0, largest]` in which an activation lies; 0 if it is not above zero."""
    if not activation or activation <= 0 or largest <= 0:
        return 0
    return max(1, min(math.ceil(SHADES * activation / largest), SHADES))


def pieces(
    tokens: Sequence[str],
    activations: Sequence[float | None],
    largest: float,
    *,
    ascii_only: bool,
    digits: bool,
    peak: int | None = None,
) -> Iterator[Piece]:
    """A running text in pieces; `activations` may be empty, `digits` writes shades as numbers."""
    for part, face in parted(tokens):
        fired = [activations[at] or 0.0 for at in part] if activations else [0.0]
        shade = shade_of(max(fired), largest)
        if peak is not None and peak in part:
            label = token_label(face, ascii_only=ascii_only)
            yield Piece(f"[{label}]", shade, is_peak=True, tokens=part)
            continue
        text = context_label(face, ascii_only=ascii_only)
        if digits and shade:
            text += f"^{shade}" if ascii_only else _DIGITS[shade]
        yield Piece(text, shade, tokens=part)


def concordance(
    context: Context,
    largest: float,
    before: int,
    after: int,
    *,
    ascii_only: bool,
    digits: bool,
    ellipsis: str,
) -> list[Piece]:
    """A context in `before + after` columns, with its token `before` columns from the left."""
    at = len(context.before)
    shown = list(
        pieces(
            context.tokens, context.activations, largest, ascii_only=ascii_only, digits=digits,
            peak=at,
        )
    )  # fmt: skip
    here = next(index for index, piece in enumerate(shown) if piece.is_peak)
    token = shown[here]
    label = token.text[1:-1]
    room = max(0, after - 2)
    label = fit(label, min(cells(label), room), ellipsis=ellipsis)
    kept = _first(shown[here + 1 :], room - cells(label))
    return [*_last(shown[:here], before), replace(token, text=f"[{label}]"), *kept]


def bars(counts: Sequence[int], *, ascii_only: bool) -> str:
    """Counts as bars one line high, on a logarithmic scale; a dot or blank for none."""
    heights, top = _BARS[ascii_only], math.log1p(max(counts, default=0))
    return "".join(
        heights[max(0, math.ceil(len(heights) * math.log1p(count) / top) - 1)]
        if count
        else _EMPTY[ascii_only]
        for count in counts
    )


def _first(shown: Sequence[Piece], width: int) -> Iterator[Piece]:
    """The beginning of a text in exactly `width` columns."""
    for piece in shown:
        text = fit(piece.text, min(cells(piece.text), width), ellipsis="")
        width -= cells(text)
        yield replace(piece, text=text)
    yield Piece(" " * width)


def _last(shown: Sequence[Piece], width: int) -> list[Piece]:
    """The end of a text in exactly `width` columns."""
    kept: list[Piece] = []
    for piece in reversed(shown):
        text = piece.text
        while cells(text) > width:
            text = text[1:]
        width -= cells(text)
        kept.append(replace(piece, text=text))
    return [Piece(" " * width), *reversed(kept)]
