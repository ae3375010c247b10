"""What engines answered, kept on disk, so that it is shown before a model is loaded again.

In the result cache, as the wire encodes it:

    files of a configuration -> what its session was     (`lens_core.inputs`)
    that session's content, dictionary, request -> answer

An answer is found by content alone. Only which content a configuration has, that is found by the
state of its files, since reading it takes as long as loading the model. An entry that is damaged
or does not decode counts as missing. No torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lens_core.config import Config, load_config, with_overrides
from lens_core.directories import cache_dir, results_dir
from lens_core.errors import LensError
from lens_core.inputs import Inputs, inputs_of
from lens_core.signature import LayerFacts, SessionFacts
from lens_core.storage.fingerprint import fingerprint
from lens_core.storage.results import ResultCache
from qlens_tui.engine.events import (
    CosinesReady,
    Event,
    EvidenceReady,
    LayerReady,
    PathsReady,
    Ready,
    SignatureReady,
)
from qlens_tui.engine.requests import (
    ComputeCosines,
    ComputeEvidence,
    ComputePaths,
    ComputeSignature,
    DescribeLayer,
    OfFeature,
    Open,
    Request,
)
from qlens_tui.engine.wire import WireError, decode, encode

if TYPE_CHECKING:
    from lens_core.session import Session

# Raise this when an answer changes for the same inputs: older ones are then not found.
_FORMAT = 2


class KeptEvents:
    """Answers in a result cache."""

    def __init__(self, results: ResultCache) -> None:
        self._results = results

    def session(self, inputs: str) -> SessionFacts | None:
        """The last session of these inputs."""
        found = self._get(_key(Open(config=""), inputs=inputs))
        return found.session if isinstance(found, Ready) else None

    def layer(self, inputs: str, layer: int) -> LayerFacts | None:
        """What a layer's dictionary was in the last session of these inputs."""
        found = self._get(_key(DescribeLayer(layer=layer), inputs=inputs))
        return found.layer if isinstance(found, LayerReady) else None

    def answer(self, question: Request, content: str, dictionary: str) -> Event | None:
        """What was answered in a session of this content; perhaps over a part of the reference."""
        return self._get(_key(question, content=content, dictionary=dictionary))

    def note(self, inputs: str, event: Ready | LayerReady) -> None:
        """Keep what the session of these inputs is, or a layer's dictionary in it."""
        asked: Request = Open(config="")
        if isinstance(event, LayerReady):
            asked = DescribeLayer(layer=event.layer.layer)
        self._put(_key(asked, inputs=inputs), event)

    def keep_answer(self, question: Request, content: str, dictionary: str, event: Event) -> None:
        """Keep an answer, unless one over as many tokens of the reference is there already."""
        key = _key(question, content=content, dictionary=dictionary)
        found = self._results.get(key)
        if found is None or found["tokens"] < _tokens(event):
            self._put(key, event)

    def _put(self, key: str, event: Event) -> None:
        content = zlib.compress(encode(replace(event, id=0)))
        self._results.put(
            key, {"event": np.frombuffer(content, np.uint8), "tokens": _tokens(event)}
        )

    def _get(self, key: str) -> Event | None:
        found = self._results.get(key)
        if found is None:
            return None
        try:
            event: Event = decode(zlib.decompress(found["event"].tobytes()), Event)
        except (WireError, zlib.error, KeyError):
            return None
        return event


def _tokens(event: Event) -> int:
    """Over how many tokens an answer is that comes in stages, or twice that; 0 for others."""
    match event:
        case (
            SignatureReady(signature=found) | PathsReady(paths=found) | CosinesReady(cosines=found)
        ):
            return found.n_tokens
        case EvidenceReady(evidence=evidence):
            return 2 * evidence.n_tokens + evidence.is_whole
    return 0


def _key(question: Request, **of: str) -> str:
    asked = replace(question, id=0)
    # When something is asked is no part of what is asked.
    if isinstance(asked, OfFeature):
        asked = replace(asked, pinned=False)
    if isinstance(asked, ComputePaths):
        asked = replace(asked, ahead=False, stage=0)
    elif isinstance(asked, ComputeSignature | ComputeEvidence | ComputeCosines):
        asked = replace(asked, stage=0)
    return fingerprint({"kind": "answer", "format": _FORMAT, "asked": encode(asked).decode()} | of)


class Keeping:
    """Keeps what one open session is and answers."""

    def __init__(self, session: Session, before: Inputs) -> None:
        """`before`: the inputs as they were before the session read them."""
        self._session = session
        self._before = before
        self._hub: dict[str, str] = {}
        self._noted = ""
        self._ready: Ready | None = None
        self._described: dict[int, LayerReady] = {}
        self._events = KeptEvents(ResultCache(results_dir(session.cache)))

    def opened(self, ready: Ready) -> None:
        """Note what the session is, for as long as its inputs stay as they are."""
        self._ready = ready
        self._note(ready)

    def described(self, layer: LayerReady) -> None:
        """Note what a layer's dictionary is."""
        self._described[layer.layer.layer] = layer
        self._note(layer)

    def answered(self, question: Request, event: Event) -> None:
        """Keep the answer to a question of the panes; of others nothing is kept."""
        if isinstance(question, OfFeature):
            shelf = self._session.lens.dictionaries
            dictionaries = " ".join(shelf[layer].sha256 for layer in question.layers)
            self._events.keep_answer(question, self._session.content, dictionaries, event)

    def _note(self, event: Ready | LayerReady) -> None:
        now = inputs_of(self._session.config)
        if not self._before.still_hold(now) or not self._hub.items() <= now.hub.items():
            return  # something was changed, and it cannot be told whether before it was read
        inputs, self._hub = now.sha256, now.hub
        told: list[Ready | LayerReady] = [event]
        if inputs != self._noted and self._ready is not None:
            # The hub's cache got what a layer needed.
            told = [self._ready, *self._described.values()]
        self._noted = inputs
        for each in told:
            self._events.note(inputs, each)


@dataclass(frozen=True)
class KeptSession:
    """The last session of a configuration, and what was answered about its features."""

    facts: SessionFacts
    layers: Mapping[int, LayerFacts]
    events: KeptEvents

    def answer(self, question: Request) -> Event | None:
        """What was answered to a question about features whose dictionaries are known."""
        layers = question.layers if isinstance(question, OfFeature) else ()
        known = [self.layers[layer].sha256 for layer in layers if layer in self.layers]
        if not layers or len(known) < len(layers):
            return None
        return self.events.answer(question, self.facts.content, " ".join(known))


def configuration(request: Open) -> Config:
    """The configuration that `request` names.

    Raises:
        ConfigError: it cannot be read, or says what is not allowed.
    """
    overrides: dict[str, Any] = dict(request.overrides)
    if overrides.get("reference_tokens") is not None:
        overrides["reference_tokens"] = Path(overrides["reference_tokens"])
    return with_overrides(load_config(request.config), **overrides)


def kept_session(request: Open) -> KeptSession | None:
    """The last session of what `request` opens; `None` where its files are not as they were."""
    try:
        inputs = inputs_of(configuration(request)).sha256
        events = KeptEvents(ResultCache(results_dir(cache_dir())))
        facts = events.session(inputs)
        if facts is None:
            return None
        layers = {layer: events.layer(inputs, layer) for layer in facts.layers}
    except (LensError, OSError):
        return None  # opening the session reports it
    known = {layer: found for layer, found in layers.items() if found is not None}
    return KeptSession(facts, known, events)
