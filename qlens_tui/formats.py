"""How both front ends write numbers: one function for each kind.

A missing or non-finite number is `n/a`, so that no screen shows `nan`. Sizes use the core's
`in_bytes`.
"""

from __future__ import annotations

import math

from lens_core.evidence import TextFacts
from lens_core.storage.disk_space import in_bytes

__all__ = [
    "counted",
    "density",
    "duration",
    "in_bytes",
    "name_of_text",
    "number",
    "ranks_moved",
    "score_change",
    "share",
    "tokens_of",
]


def number(value: float) -> str:
    """A float32 score or length in at most 8 columns, with decimals by its magnitude."""
    if not math.isfinite(value):
        return "n/a"
    size = abs(value)
    # The bounds are those from which rounding would add a digit.
    if size != 0 and not 1e-3 <= size < 99999.95:
        return f"{value:.1e}"
    if size >= 9999.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 10 else f"{value:.3f}"


def share(value: float) -> str:
    """A share as a signed percentage, such as `+12.3%`; `n/a` for NaN."""
    return f"{100 * value:+.1f}%" if math.isfinite(value) else "n/a"


def score_change(lost: float | None) -> str:
    """What a score lost as a part of it, such as `score -38.2%`; `None` where it has no parts."""
    return f"score {share(math.nan if lost is None else -lost)}"


def density(value: float) -> str:
    """The share of tokens on which a feature fires, in at most 6 columns."""
    percent = 100 * value
    if 0 < percent < 0.001:
        return "<.001%"
    places = 3 if percent < 0.1 else 2 if percent < 10 else 1
    return f"{percent:.{places}f}%"


def ranks_moved(by: int) -> str:
    """Ranks that a token rose (`+4`) or fell (`-4`)."""
    return f"{by:+d}" if by else "0"


def part_of(tokens: int, of: int) -> str:
    """`256 of 2,048`, or `2,048` where that is all, or more is not known."""
    return f"{tokens:,} of {of:,}" if tokens < of else f"{tokens:,}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 unit`, `2,304 units`; `plural` if it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def tokens_of(text: TextFacts) -> str:
    """`2,048 reference tokens`, or `158,720 tokens of novels.txt`; raw, as the name is."""
    if text.is_reference:
        return f"{text.n_tokens:,} reference tokens"
    return f"{text.n_tokens:,} tokens of {name_of_text(text)}"


def name_of_text(text: TextFacts) -> str:
    """`the reference`, or `novels.txt`; raw."""
    if text.is_reference:
        return "the reference"
    name = text.origin.rpartition("/")[2] if text.origin.startswith("text:") else text.origin
    return name.removeprefix("text:")


def reference_size(samples: int, length: int, *, are_texts: bool) -> str:
    """`64 x 33 tokens`, or `480 texts of at most 7 tokens, read at the last`."""
    if are_texts:
        return f"{counted(samples, 'text')} of at most {length} tokens, read at the last"
    return f"{samples} x {length} tokens"


def duration(seconds: float) -> str:
    """A time, or an estimate of one: `40 s`, `3:05 min`, `2 h 30 min`."""
    minutes, left = divmod(max(0, round(seconds)), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes}:{left:02d} min" if minutes else f"{left} s"
