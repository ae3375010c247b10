"""The engine's session: opened, released when idle, and reopened unchanged.

On a shared server an idle model takes memory that others need. After a while without a request
the session is released; the next request loads the same configuration again. Weights,
reference and every dictionary that was read must then be unchanged, or the request fails:
otherwise the screen would mix answers from two models.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lens_core.errors import UsageError
from lens_core.hub import prepare_libraries
from lens_core.inputs import inputs_of
from lens_core.storage.disk_space import in_bytes
from qlens_tui.engine import messages as m
from qlens_tui.engine.kept_sessions import Keeping, configuration

if TYPE_CHECKING:
    from lens_core.config import Config
    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.recording import Recording
    from lens_core.session import Session

Tick = Callable[[str, int, int], None]
Say = Callable[[str], None]


@dataclass
class Opened:
    """A session, the request that opened it, and what the engine already read from it.

    `keeping` keeps its answers on disk.
    """

    session: Session
    request: m.Open
    keeping: Keeping
    texts: list[str] = field(default_factory=list)
    described: set[int] = field(default_factory=set)


@dataclass
class _Before:
    """A released session; `problem` is why it cannot be reopened, once that is known."""

    request: m.Open
    config: Config
    device: str
    content: dict[str, object]
    problem: str | None = None


class Holding:
    """The open session or, after its release, what is needed to reopen it."""

    def __init__(self, tell: Callable[[m.Event], None], tick: Tick) -> None:
        self._tell = tell
        self._tick = tick
        self._opened: Opened | None = None
        self._before: _Before | None = None
        self._read: dict[int, str] = {}  # sha256 of the dictionaries read, by layer

    @property
    def opened(self) -> Opened:
        """The open session.

        Raises:
            UsageError: none is open.
        """
        if self._opened is None:
            raise UsageError("no configuration is open: open one first")
        return self._opened

    @property
    def idle_seconds(self) -> float | None:
        """Seconds without a request after which to release the session; `None`: never."""
        if self._opened is None:
            return None
        session = self._opened.session
        return session.config.compute.idle_seconds(str(session.model.device))

    def open(self, request: m.Open) -> Opened:
        """Open what `request` names, in place of the open session."""
        say = self._saying(request)
        self._opened = self._before = None  # two models may not fit
        self._read = {}
        say("reading the configuration")
        config = configuration(request)
        prepare_libraries(offline=request.offline)
        say("importing torch and transformers")
        self._opened = self._load(request, config, say)
        return self._opened

    def give_back(self) -> None:
        """Release the session and its memory; `resume` reopens it."""
        session = self.opened.session
        device = session.model.device
        self._before = _Before(self.opened.request, session.config, str(device), _content(session))
        self._opened = None
        del session
        _free(device)

    def resume(self, request: m.Request) -> None:
        """If the session was released, reopen it for `request`.

        Raises:
            UsageError: the configuration, or what it names, has changed.
        """
        before = self._before
        if self._opened is not None or before is None:
            return
        if before.problem is not None:
            raise UsageError(before.problem)
        say = self._saying(request)
        say("loading the model again")
        config = configuration(before.request)
        for name in ("model", "dictionary", "reference"):
            if getattr(config, name) != getattr(before.config, name):
                raise UsageError(_changed(before, f"[{name}]"))
        opened = self._load(before.request, before.config, say)
        content, device = _content(opened.session), opened.session.model.device
        different = [name for name, what in before.content.items() if content[name] != what]
        if different:
            del opened
            _free(device)
            before.problem = _changed(before, different[0])
            raise UsageError(before.problem)
        self._opened, self._before = opened, None
        if str(device) != before.device:
            self._tell(m.Notice(text=f"the model is now on {device}, not on {before.device}"))

    def _load(self, request: m.Open, config: Config, say: Say) -> Opened:
        from lens_core.instruments import DictionaryShelf
        from lens_core.session import open_session

        before = inputs_of(config)
        recordings: list[Recording] = []

        def progress(done: int, total: int) -> None:
            self._tick(_reading(*recordings), done, total)

        session = open_session(config, offline=request.offline, say=say, progress=progress)
        recordings.append(session.lens.carrier.recording)
        say("preparing the readouts")
        lens = session.lens
        lens.prepare()
        shelf, read = lens.dictionaries, self._read

        def same(layer: int) -> FeatureDictionary:
            dictionary = shelf[layer]
            if read.setdefault(layer, dictionary.sha256) != dictionary.sha256:
                raise UsageError(
                    f"the dictionary of layer {layer} changed on disk since "
                    f"{config.path.name} was opened: restart qlens to use it"
                )
            return dictionary

        # Without a budget of its own: `shelf` keeps the dictionaries.
        lens.dictionaries = DictionaryShelf(shelf.layers, same, budget=0)
        return Opened(session, request, Keeping(session, before))

    def _saying(self, request: m.Request) -> Say:
        return lambda text: self._tell(m.Status(id=request.id, text=text))


def _content(session: Session) -> dict[str, object]:
    """The content that a session's answers depend on, by configuration section."""
    return {
        "model": session.model.fingerprint,
        "dictionary": session.lens.dictionaries.layers,
        "reference": session.reference.sha256,
    }


def _reading(*recordings: Recording) -> str:
    """What a pass does, and the memory that what stays recorded takes."""
    kept = sum(each.kept_bytes for each in recordings)
    return f"reading the reference{f' ({in_bytes(kept)} kept)' if kept else ''}"


def _changed(before: _Before, what: str) -> str:
    name = before.config.path.name
    return f"{what} of {name} changed on disk since it was opened: restart qlens to use it"


def _free(device: Any) -> None:
    from lens_core.memory import release

    gc.collect()  # a model holds reference cycles
    release(device)
