"""Text and rules can be told from their ground, in every theme."""

from __future__ import annotations

import pytest
from textual.app import App
from textual.color import Color
from textual.theme import BUILTIN_THEMES

from qlens_tui.app.colours import GROUNDS, RULE, RULES, TEXT, TEXTS, contrast, readable

THEMES = sorted(name for name in BUILTIN_THEMES if not name.startswith("ansi"))

# Colours of usual terminals: xterm, the Linux console, and a light one of Textual's own.
PALETTES = {
    False: [
        {"blue": "#0000ee", "magenta": "#cd00cd", "red": "#cd0000"},
        {"blue": "#0000aa", "magenta": "#aa00aa", "red": "#aa0000"},
        {"blue": "#325cc0", "magenta": "#7a3e9d", "red": "#aa3731"},
    ],
    True: [
        {"green": "#00cd00", "yellow": "#cdcd00", "bright_red": "#ff0000"},
        {"green": "#00aa00", "yellow": "#aa5500", "bright_red": "#ff5555"},
    ],
}


def variables_of(name: str) -> dict[str, str]:
    app: App[None] = App()
    app.theme = name
    return app.get_css_variables()


@pytest.mark.parametrize("name", THEMES)
def test_text_has_a_contrast_of_at_least_4_5_and_rules_of_3(name: str) -> None:
    before = variables_of(name)
    found = readable(before, is_dark=BUILTIN_THEMES[name].dark)
    assert found.keys() == before.keys()
    grounds = [Color.parse(found[ground]) for ground in GROUNDS]
    grounds.append(grounds[0].blend(Color.parse(found["foreground"]), 0.1))  # the cursor's row
    for names, least in ((TEXTS, TEXT), (RULES, RULE)):
        for each in names:
            ratios = [contrast(Color.parse(found[each]), ground) for ground in grounds]
            assert min(ratios) >= least, (each, ratios)
    changed = {each for each in found if found[each] != before[each]}
    assert changed <= {*TEXTS, *RULES}
    for each in TEXTS[:-1]:  # what was strong enough is as the theme has it
        colour = Color.parse(before[each])
        if min(contrast(colour, ground) for ground in grounds) >= TEXT:
            assert Color.parse(found[each]) == colour


@pytest.mark.parametrize("name", ["ansi-dark", "ansi-light"])
def test_of_the_terminal_s_own_colours_those_are_used_that_are_strong_on_its_ground(
    name: str,
) -> None:
    is_dark = BUILTIN_THEMES[name].dark
    found = readable(variables_of(name), is_dark=is_dark)
    ground = Color.parse("#000000" if is_dark else "#ffffff")
    used = {found[each].removeprefix("ansi_") for each in TEXTS if "default" not in found[each]}
    assert found["border-blurred"] == "ansi_default"
    for palette in PALETTES[is_dark]:
        assert used <= palette.keys()
        least = 3.9 if palette.get("yellow") == "#aa5500" else TEXT  # the console's brown
        assert min(contrast(Color.parse(palette[each]), ground) for each in used) >= least


def test_contrast_is_that_of_wcag() -> None:
    black, white = Color.parse("#000"), Color.parse("#fff")
    assert contrast(black, white) == contrast(white, black) == pytest.approx(21)
    assert contrast(white, white) == 1
    assert contrast(Color.parse("#767676"), white) == pytest.approx(4.54, abs=0.005)
