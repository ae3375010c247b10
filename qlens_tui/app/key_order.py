"""Handle keys one after another, even if they arrive together.

Textual sends a key to the widget that has the focus when the key is read. Over a slow connection,
or from a paste, several keys are read at once. The first one's effect (opening a prompt, moving
the focus) has then not happened yet when the second one is sent, and the second goes to the wrong
widget. Here a key waits until the previous one was handled: until the message queues from the
focused widget up to the app, and those of a screen that it opened, are empty, and until what it
asked for is on the screen, if the app says so (`is_early`).

A key that arrives alone does not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress

from textual import events
from textual.app import App
from textual.message_pump import MessagePump

_PATIENCE = 1.0  # seconds to wait at most until a key was handled
_UNTIL_SHOWN = 1.0  # seconds to wait at most for what it asked for
_LOOK = 0.005


class KeysInOrder(App[None]):
    """An app that handles each key and paste before the next one, waiting up to a second."""

    def __init__(self, *, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self._waiting: deque[events.Key | events.Paste] = deque()
        self._handing_on: asyncio.Task[None] | None = None
        self._last: tuple[MessagePump, ...] = ()
        self.holds_keys = False
        """Whether one screen is being replaced by another, for which the next keys are meant."""

    async def on_event(self, event: events.Event) -> None:
        if not isinstance(event, events.Key | events.Paste) or event.is_forwarded:
            await super().on_event(event)
            return
        self._waiting += _unjoined(event)
        if self.keys_done:
            self._handing_on = asyncio.create_task(self._hand_on())

    @property
    def keys_done(self) -> bool:
        """Whether every key so far was sent on."""
        return self._handing_on is None or self._handing_on.done()

    def is_early(self, event: events.Key | events.Paste) -> bool:
        """Whether a key is for something that the one before it asked for and that is not there."""
        return False

    async def _hand_on(self) -> None:
        while self._waiting:
            try:
                await self._settled()
                end = time.monotonic() + _UNTIL_SHOWN
                if self._is_held:
                    while self._is_held and time.monotonic() < end:
                        await asyncio.sleep(_LOOK)
                    await self._settled()
                self._last = self._way()
                await super().on_event(self._waiting.popleft())
            except Exception as error:  # called from outside the message pump
                self._handle_exception(error)
                return

    @property
    def _is_held(self) -> bool:
        return self.holds_keys or self.is_early(self._waiting[0])

    def _way(self) -> tuple[MessagePump, ...]:
        """The nodes that a key passes: the focused widget, its parents, the screen, the app."""
        if not self.screen_stack:
            return (self,)
        return tuple((self.focused or self.screen).ancestors_with_self)

    async def _settled(self) -> None:
        """Wait until the last key was handled and the screen that it opened is mounted."""
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


def _unjoined(event: events.Key | events.Paste) -> list[events.Key | events.Paste]:
    """Escape and a letter typed soon after it: terminals send the two as they send alt and it."""
    if isinstance(event, events.Key) and event.key.startswith("alt+") and event.character:
        return [events.Key("escape", "\x1b"), events.Key(event.character, event.character)]
    return [event]


async def _passed(node: MessagePump) -> None:
    """Wait until a node has handled the messages now in its queue, or has ended."""
    done = asyncio.Event()
    end = time.monotonic() + _PATIENCE
    if node.is_running and node.call_later(done.set):
        while not done.is_set() and node.is_running and time.monotonic() < end:
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), _LOOK)
