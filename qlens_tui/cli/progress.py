"""Progress of a long run: a bar on a terminal, a line for every 10% in a log.

The rate counts only what this run did, so that the estimate of a resumed build is
right. The bar is drawn at most a few times a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from qlens_tui.cli.output import Output
from qlens_tui.formats import counted, duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Report = Callable[[int, int], None]
"""Called with the amount done and the total."""


class Draw(Protocol):
    """Called with the amount done, the total and, if it changes, what is being done."""

    def __call__(self, done: int, total: int, what: str = "", /) -> None: ...


@dataclass
class Pace:
    """The rate of this run; `first` were done before it."""

    first: int
    plural: str = "passes"
    start: float = field(default_factory=time.monotonic)

    def text(self, done: int, total: int) -> str:
        seconds = time.monotonic() - self.start
        rate = (done - self.first) / seconds if seconds > 0 else 0.0
        if rate <= 0:
            return ""
        return f"{rate:,.1f} {self.plural}/s, {duration(max(0, total - done) / rate)} left"


@contextmanager
def build_progress(
    output: Output,
    done: int,
    total: int | None,
    what: str = "building",
    noun: tuple[str, str] = ("pass", "passes"),
) -> Iterator[Draw]:
    """Report a build of `total` passes (`None`: not known yet), `done` of them already done."""
    pace = Pace(done, noun[1])
    if output.errors.is_terminal:
        with _bar(output, what, done, total) as (bar, task):

            def draw(now: int, of: int, now_doing: str = "", /) -> None:
                rate = pace.text(now, of)
                bar.update(task, completed=now, total=of, pace=rate, description=now_doing or what)

            yield draw
        return
    said = 10 * done // max(1, total or 1)

    def write(now: int, of: int, now_doing: str = "", /) -> None:
        nonlocal said
        tenth = 10 * now // max(1, of)
        if tenth > said:
            said = tenth
            rate = pace.text(now, of)
            doing = f"{now_doing}: " if now_doing else ""
            output.note(
                f"{doing}{tenth * 10}% ({now:,} of {counted(of, *noun)}"
                f"{', ' + rate if rate and now < of else ''})"
            )

    yield write


class Watch:
    """Progress of the passes that an answer needs, drawn only on a terminal.

    Their number is not known in advance, so the bar is that of the current pass.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._draw: Report | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._draw is not None:
            self._draw(done, total)

    @contextmanager
    def on(self, what: str, *, in_passes: bool = True) -> Iterator[None]:
        """Draw the progress reported inside the block; `in_passes`: say which pass it is."""
        if not self._output.errors.is_terminal:
            yield
            return
        passes, last = 1, 0
        with _bar(self._output, what, 0, None, transient=True) as (bar, task):

            def draw(done: int, total: int) -> None:
                nonlocal passes, last
                passes += done < last
                last = done
                which = f"{what}, pass {passes}" if in_passes else what
                bar.update(task, completed=done, total=total, description=which)

            self._draw = draw
            try:
                yield
            finally:
                self._draw = None


@contextmanager
def _bar(
    output: Output, what: str, done: int, total: int | None, *, transient: bool = False
) -> Iterator[tuple[Progress, TaskID]]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    with Progress(
        *columns, console=output.errors, transient=transient, redirect_stdout=False
    ) as bar:
        yield bar, bar.add_task(what, completed=done, total=total, pace="")
