"""Writes the README's screenshots of the app on the demo, as SVG.

    python tools/make_screenshots.py [--config demo] [--out docs]

Runs the app headless with its real engine and this machine's caches and marks, goes to the feature
that the demo opens on, waits until nothing is being computed, and exports the screen.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from textual.pilot import Pilot

from lens_core.config import load_config
from qlens_tui.app.app import QlensApp
from qlens_tui.app.screens.reverse_search import ReverseSearch
from qlens_tui.app.screens.workbench import Workbench
from qlens_tui.cli.commands.open import DEMO_BEGINS_AT

SHOTS: dict[str, tuple[tuple[int, int], tuple[str, ...]]] = {
    "app": ((160, 48), ()),
    "search": ((120, 36), ("slash", "space", *"change", "enter", "tab")),
    "overview": ((120, 36), ("v",)),
}
"""Pictures by name: the size of the window, and the keys that lead to the screen."""
_PATIENCE = 600  # seconds


async def at_rest(pilot: Pilot[None]) -> None:
    """Wait until every pane is of the feature under the cursor and no job runs."""
    for _ in range(_PATIENCE * 10):
        await pilot.pause(0.1)
        bench = next((each for each in pilot.app.screen_stack if isinstance(each, Workbench)), None)
        if bench is None or bench.table.feature != DEMO_BEGINS_AT or bench.state.jobs:
            continue
        opened, rows = bench.state.opened, bench.table.rows
        if opened.session is None or opened.texts is None or rows is None:
            continue
        top = pilot.app.screen
        if isinstance(top, ReverseSearch) and not top.hits:
            continue
        shown = [pane.shown for pane in bench.pane_layout.panes.values()]
        is_whole = "value_gain" in rows.frame.columns
        if is_whole and all(each.of == DEMO_BEGINS_AT and not each.awaits for each in shown):
            return
    raise SystemExit("the app is still computing")


async def shoot(config: Path, name: str, out: Path) -> None:
    size, keys = SHOTS[name]
    app = QlensApp(config, jump_to=DEMO_BEGINS_AT)
    async with app.run_test(size=size) as pilot:
        await at_rest(pilot)
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.3)
        await at_rest(pilot)
        await pilot.pause(0.5)
        drawn = app.export_screenshot(title="qlens")
        # Without this, renderers that follow SVG 1.1 leave out the blanks before a text.
        drawn = drawn.replace("<text ", '<text xml:space="preserve" ')
        (out / f"{name}.svg").write_text(drawn, "utf-8")
        app.finish()
    app.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="demo")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    config = load_config(arguments.config).path
    arguments.out.mkdir(exist_ok=True)
    for name in SHOTS:
        asyncio.run(shoot(config, name, arguments.out))


if __name__ == "__main__":
    main()
