"""What was observed when a feature was set, in words, for both front ends."""

from __future__ import annotations

from lens_core.lenses import LENSES, ON_REQUEST
from lens_core.steered import Steered
from qlens_tui.formats import number


def how_set(found: Steered) -> str:
    """To which strengths, behind what, and how much that changed."""
    strengths = " and ".join(map(number, found.strengths))
    reached = " and ".join(f"{each:.2f}" for each in found.divergences)
    return f"set to {strengths} behind {found.prefixes} neutral prefixes (KL {reached})"


def listed_by(found: Steered) -> str:
    """Which part of the tokens that rise each lens lists, and how much can be expected."""
    agreement = found.agreement or {}
    parts = [
        f"{lens.title} {agreement[lens.name]:.0%}"
        for lens in (*LENSES, *ON_REQUEST)
        if lens.name in agreement
    ]
    ceiling = "" if found.ceiling is None else f"; at most about {found.ceiling:.0%}"
    return f"listed by {', '.join(parts)}{ceiling}"
