"""The colours of a theme, changed as far as they are too faint to read.

By the contrast of WCAG 2.1: (L1 + 0.05) / (L2 + 0.05) of the relative luminances, at least 4.5 for
text and 3 for rules, on every ground that the app draws on. Themes are made for other apps, whose
text in these colours is large or rare; here they are the answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from textual.color import BLACK, WHITE, Color

TEXT, RULE = 4.5, 3.0
TEXTS = ("text-success", "text-warning", "text-error", "text-accent", "foreground-muted")
"""Variables for text in a colour, and for text that stands back."""
RULES = ("border-blurred",)
"""Variables for lines and frames."""
GROUNDS = ("background", "surface")

# The terminal's own colours are not known. On white its green and yellow are too faint in most
# terminals, on black its red; the others are not.
_ANSI: Mapping[bool, Mapping[str, str]] = {
    False: {
        "text-success": "ansi_blue", "text-accent": "ansi_magenta", "text-warning": "ansi_red",
        "border-blurred": "ansi_default",
    },
    True: {"text-error": "ansi_bright_red", "border-blurred": "ansi_default"},
}  # fmt: skip
_STEP = 0.02
_FAINTEST = 0.3  # of the foreground, for a rule
_CURSOR = 0.1  # of the foreground, for the ground of the table's row under the cursor


def readable(variables: Mapping[str, str], *, is_dark: bool) -> dict[str, str]:
    """The CSS variables of a theme, of which those of `TEXTS` and `RULES` can be read."""
    if variables["background"].startswith("ansi_"):
        return {**variables, **_ANSI[is_dark]}
    grounds = [Color.parse(variables[name]) for name in GROUNDS]
    foreground = Color.parse(variables["foreground"])
    grounds.append(grounds[0].blend(foreground, _CURSOR))
    found = dict(variables)
    for name in TEXTS:
        colour = Color.parse(variables[name])
        found[name] = _strong_enough(grounds[0] + colour, grounds, TEXT, is_dark).hex
    faint = grounds[0].blend(foreground, _FAINTEST)
    found |= dict.fromkeys(RULES, _strong_enough(faint, grounds, RULE, is_dark).hex)
    return found


def contrast(one: Color, other: Color) -> float:
    """From 1 for two equal colours to 21 for black and white."""
    less, more = sorted((_luminance(one), _luminance(other)))
    return (more + 0.05) / (less + 0.05)


def _strong_enough(colour: Color, grounds: list[Color], least: float, is_dark: bool) -> Color:
    """The colour or, if it is too faint, the nearest darker one (in a dark theme, lighter one)."""
    end = WHITE if is_dark else BLACK
    mixed, share = colour, 0.0
    while min(contrast(mixed, ground) for ground in grounds) < least and share < 1:
        share += _STEP
        mixed = colour.blend(end, share)
    return mixed


def _luminance(colour: Color) -> float:
    red, green, blue = map(_linear, colour.rgb)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(value: int) -> float:
    share = value / 255
    return share / 12.92 if share <= 0.03928 else float(((share + 0.055) / 1.055) ** 2.4)
