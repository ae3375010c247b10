"""Long work that the engine does, listed, and a key that stops it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qlens_tui.app.screens.choice import Choice
from qlens_tui.text import visible

if TYPE_CHECKING:
    from qlens_tui.app.screens.workbench import Workbench

_SECONDS = 0.5


def show_jobs(bench: Workbench) -> None:
    """Show the jobs until the user leaves; `d` stops the one under the cursor."""
    inquiry = bench.dialogue.inquiry
    shown: list[int] = []

    def lines() -> list[str]:
        shown[:] = inquiry.jobs
        said = (f"{job.name}: {job.progress}" for job in inquiry.jobs.values())
        return [visible(line, ascii_only=bench.ascii) for line in said]

    def cancel(_choice: Choice, index: int | None) -> None:
        if index is not None and index < len(shown):
            inquiry.cancel(shown[index])

    choice = Choice(
        "jobs", lines(), nothing="nothing long is being done",
        keys=(("d", "cancel", cancel),), ascii_only=bench.ascii,
    )  # fmt: skip
    timer = bench.set_interval(_SECONDS, lambda: choice.show(lines()))
    bench.app.push_screen(choice, lambda _index: timer.stop())
