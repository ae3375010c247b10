"""Keys one after the other, also when they arrive together.

Textual hands a key to the widget that has the focus when the key is read. Over a slow line, or
from a paste, several keys are read at once: what the first one does (open a prompt, move the
focus) has not happened yet when the second is handed on, and that goes to the wrong place or to
none. Here a key waits until the one before it was dealt with: until the queues that it passes,
from the focused widget up to the app, and those of a screen that it opened, are empty.

Costs nothing for a key that comes alone: it is the next one that waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress

from textual import events
from textual.app import App
from textual.message_pump import MessagePump

_PATIENCE = 1.0  # seconds; whoever computes for longer is overtaken
_LOOK = 0.005


class KeysInOrder(App[None]):
    """An app whose keys, and pastes, are not overtaken by the next, for up to a second each."""

    def __init__(self, *, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self._waiting: deque[events.Key | events.Paste] = deque()
        self._handing_on: asyncio.Task[None] | None = None
        self._last: tuple[MessagePump, ...] = ()

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
            return
        self._waiting.append(event)
        if self.keys_done:
            self._handing_on = asyncio.create_task(self._hand_on())

    @property
    def keys_done(self) -> bool:
        """Whether every key so far was handed on."""
        return self._handing_on is None or self._handing_on.done()

    async def _hand_on(self) -> None:
        while self._waiting:
            try:
                await self._settled()
                self._last = self._way()
                await super().on_event(self._waiting.popleft())
            except Exception as error:  # this is no message pump, which would do the same
                self._handle_exception(error)
                return

    def _way(self) -> tuple[MessagePump, ...]:
        """Where a key goes now: the focused widget, what it is in, the screen, the app."""
        if not self.screen_stack:
            return (self,)
        return tuple((self.focused or self.screen).ancestors_with_self)

    async def _settled(self) -> None:
        """Wait until the last key was dealt with, and what it opened is there."""
        if not self._last:
            return
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            nodes = tuple(dict.fromkeys((*self._last, *self._way())))
            for node in nodes:
                await _passed(node)
            here = self._way()
            if not all(node.is_running for node in here):
                await asyncio.sleep(_LOOK)  # a screen that is being mounted
            elif set(here) <= set(nodes) and not any(node.message_queue_size for node in nodes):
                return


async def _passed(node: MessagePump) -> None:
    """Wait until a node has dealt with what is in its queue now, or has ended."""
    done = asyncio.Event()
    end = time.monotonic() + _PATIENCE
    if node.is_running and node.call_later(done.set):
        while not done.is_set() and node.is_running and time.monotonic() < end:
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), _LOOK)
