"""The output of `terse` paints the same as its input, by rich's own ANSI decoder."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.ansi import AnsiDecoder
from rich.style import Style
from textual.drivers.linux_driver import LinuxDriver
from textual.drivers.web_driver import WebDriver

from qlens_tui.app.compact_output import in_ascii, terse, terse_driver
from qlens_tui.text import cells

STYLES = (
    "", "bold", "dim", "bold dim", "italic", "reverse", "bold reverse", "underline",
    "underline red", "strike", "overline", "blink", "conceal", "frame",
    "red", "bright_red", "on blue", "white on bright_black", "color(9) on color(200)",
    "#e0e0e0 on #121212", "#999999 on #121212", "bold #e0e0e0 on #121212", "not bold red",
    "reverse #999999 on #121212", "on #121212", "underline #999999 on #121212",
)  # fmt: skip
PLACES = st.tuples(st.integers(1, 4), st.integers(1, 40)).map(lambda at: f"\x1b[{at[0]};{at[1]}H")
RUNS = st.builds(
    lambda text, style: Style.parse(style).render(text),
    st.text("ab 日\u0301␣│", min_size=1, max_size=6) | st.just("   "),
    st.sampled_from(STYLES),
)
UPDATES = st.lists(RUNS | RUNS | PLACES | st.sampled_from(["\n", "\x1b[0m", "\x1b[m"]), max_size=30)


def painted(update: str) -> tuple[dict[tuple[int, int], tuple[str, Style]], tuple[int, int], Style]:
    """The cells an update paints, where it leaves the cursor, and in which style.

    Every character takes one cell here, and a line feed goes to the next line's first: it is
    enough to tell two updates apart.
    """
    decoder = AnsiDecoder()
    cells: dict[tuple[int, int], tuple[str, Style]] = {}
    y = x = 1
    for part in re.split(r"(\x1b\[\d+;\d+H|\r?\n)", update):
        if part.endswith("H") and part.startswith("\x1b"):
            y, x = map(int, part[2:-1].split(";"))
        elif part.endswith("\n"):
            y, x = y + 1, 1
        else:
            text = decoder.decode_line(part)
            for index, character in enumerate(text.plain):
                spans = [span.style for span in text.spans if span.start <= index < span.end]
                style = Style.combine([Style(), *(s for s in spans if isinstance(s, Style))])
                cells[y, x] = character, seen(character, style)
                x += 1
    return cells, (y, x), decoder.style


def seen(character: str, style: Style) -> Style:
    """Of a style, what is seen of it on this character."""
    lines = style.underline or style.strike or style.frame or style.overline or style.reverse
    is_blank = character == " " and not lines
    on = {name: True for name in ("bold", "dim", "italic", "underline", "blink", "reverse",
          "conceal", "strike", "frame", "overline") if getattr(style, name)}  # fmt: skip
    default = {"default", None}
    colours = {
        name: None if colour is None or colour.name in default else colour
        for name, colour in (("color", style.color), ("bgcolor", style.bgcolor))
    }
    if is_blank:
        return Style(bgcolor=colours["bgcolor"])
    return Style(**colours, **on)  # type: ignore[arg-type]


@given(UPDATES)
def test_the_same_cells_are_painted_and_nothing_stays_set(update: list[str]) -> None:
    given_ = "".join(update) + "\x1b[0m"
    cells, cursor, _ = painted(given_)
    written = terse(given_)
    again, cursor_again, left = painted(written)
    assert again == cells
    assert cursor_again == cursor
    assert not seen("x", left)
    assert len(written) <= len(given_)


def test_a_run_of_one_style_is_opened_once_and_closed_once() -> None:
    one = Style.parse("#e0e0e0 on #121212")
    bold = Style.parse("bold #e0e0e0 on #121212")
    update = one.render("ab") + bold.render("cd") + "\n\x1b[5;1H" + one.render("ef")
    opened = "\x1b[38;2;224;224;224;48;2;18;18;18m"
    assert terse(update) == f"{opened}ab\x1b[1mcd\x1b[5;1H\x1b[22mef\x1b[0m"


def test_spaces_do_not_change_what_they_are_written_in() -> None:
    assert terse("\x1b[31ma\x1b[0m \x1b[31mb\x1b[0m") == "\x1b[31ma b\x1b[0m"
    assert terse("\x1b[7ma\x1b[0m \x1b[31mb\x1b[0m") == "\x1b[7ma\x1b[0m \x1b[31mb\x1b[0m"
    # The line under a space has the text's colour.
    underlined = "\x1b[4;31ma\x1b[0m\x1b[4;32m \x1b[0m"
    assert terse(underlined) == "\x1b[4;31ma\x1b[32m \x1b[0m"


def test_other_sequences_are_passed_on_where_they_are() -> None:
    for update in (
        "\x1b[?2026h", "\x1b[?1049h", "\x1b]52;c;YQ==\x07", "\x1b[2J", "\x1b", "\x1b[", "\x1b[3",
        "\x1b]8;;http://a\x1b\\text\x1b]8;;\x1b\\", "\r\n\n", "\x1b[1;1H", "",
    ):  # fmt: skip
        assert terse(update) == update
    # With a style around them as well: an erased line takes the ground of that style.
    assert terse("\x1b[41m\x1b[2K\x1b[0m") == "\x1b[41m\x1b[2K\x1b[0m"


def test_codes_that_mean_nothing_here_do_no_harm() -> None:
    assert terse("\x1b[;mx") == "x"
    assert terse("\x1b[99mx") == "x"
    assert terse("\x1b[38mx") == terse("\x1b[38mx\x1b[0m")
    assert terse("\x1b[38;5mx\x1b[0my").endswith("\x1b[0my")


def test_any_driver_can_be_made_terse() -> None:
    for base in (LinuxDriver, WebDriver):
        made = terse_driver(base)
        assert issubclass(made, base)
        assert made.write is not base.write


@given(st.text())
def test_in_ascii_everything_takes_the_cells_that_it_took(text: str) -> None:
    found = in_ascii(text)
    assert found.isascii()
    assert len(found) == sum(cells(c) if not c.isascii() else 1 for c in text)


def test_lines_and_blocks_look_like_themselves_in_ascii() -> None:
    assert in_ascii("╭─╮ │x│ ╰─╯ ▌ ▁█") == "+-+ |x| +-+ | _#"
    assert in_ascii("\x1b[1m日本\x1b[0me\u0301") == "\x1b[1m????\x1b[0me"
    assert in_ascii("🔎") == "> "
