"""The open configuration: its model, layers and vocabulary, as far as the engine has sent them.

Before that, this holds what the last visit saved, so that tables and lists are shown before the
model is loaded. Data only: no Textual, no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qlens_tui.app.last_visit import LastVisit
from qlens_tui.completion import Completion
from qlens_tui.engine import messages as m
from qlens_tui.table.known_layer import KnownLayer

if TYPE_CHECKING:
    from qlens_tui.engine.kept_sessions import KeptSession


class Opened:
    """What is known about the model and its dictionaries.

    `session` is `None` while the engine has no model; `phase` then says what the engine is doing.
    `kept` is an earlier session on the same files, if answers of one are on disk.
    `released`: the engine released the model and loads it again when needed. `described` are the
    layers as this session's engine described them, `known` these and those of the last visit.
    `no_columns` says, by layer, why its atlas neither exists nor is being made. `texts` are the
    strings of all token ids: those of the last visit until `has_own_texts`, the open session's.
    """

    def __init__(self, place: LastVisit) -> None:
        self.session: m.SessionFacts | None = None
        self.kept: KeptSession | None = None
        self.phase = "starting the engine"
        self.released = False
        self.known: dict[int, KnownLayer] = {each.layer: each for each in place.known}
        self.described: dict[int, m.LayerFacts] = {}
        self.no_columns: dict[int, str] = {}
        self.texts: list[str] | None = None
        self.has_own_texts = False
        self._completion: Completion | None = None
        self._remembered = place

    @property
    def choices(self) -> list[int | None]:
        """The layers, after `None` (all of them) if there are several."""
        layers = self.session.layers if self.session is not None else sorted(self.known)
        return [None, *layers] if len(layers) > 1 else list(layers)

    @property
    def layers(self) -> list[int]:
        """The layers there are."""
        return [layer for layer in self.choices if layer is not None]

    @property
    def n_tokens(self) -> int:
        """The number of reference tokens that count, if known."""
        facts = self._facts
        return self._remembered.tokens if facts is None else facts.reference.n_tokens

    @property
    def k(self) -> int | None:
        """The configuration's `k`, if known: how many tokens a list shows unless the user says."""
        return None if self._facts is None else self._facts.k

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of heads of each block; empty until it is known."""
        return () if self.session is None else self.session.heads

    @property
    def model_name(self) -> str:
        return self._remembered.model if self._facts is None else self._facts.model

    @property
    def completion(self) -> Completion | None:
        """The vocabulary, ready for searching; `None` until it has arrived."""
        if self._completion is None and self.texts is not None:
            self._completion = Completion(self.texts)
        return self._completion

    def read_vocabulary(self, texts: Sequence[str]) -> None:
        """Use these strings of all token ids."""
        self.texts, self._completion = list(texts), None

    def operators(self, layer: int) -> m.OperatorSource:
        """Which operators answer for a layer; until the engine says, those of the last visit."""
        found = self.described.get(layer) or self.known.get(layer)
        return "built" if found is None else found.operators

    def blocks(self, layer: int, side: m.Side) -> range | None:
        """The blocks on one side's path; `None` until the layer is described."""
        found = self._layer(layer)
        if found is None:
            return None
        return range(*(found.value_blocks if side == "value" else found.key_blocks))

    def which_key(self, layer: int) -> str:
        """For gated neurons, which have two keys: the projection that the key belongs to."""
        found = self._layer(layer)
        if found is None or found.provenance.get("gated") != "True":
            return ""
        return found.provenance.get("key", "").partition(" (")[0].partition(",")[0]

    def is_confirmed(self, layer: int) -> bool:
        """Whether answers about a layer are known to be of what the engine has open."""
        if self.session is None:
            return False
        return layer in self.described or self.kept is None or layer not in self.kept.layers

    @property
    def _facts(self) -> m.SessionFacts | None:
        """The open session or, until there is one, an earlier one on the same files."""
        return self.session or (None if self.kept is None else self.kept.facts)

    def _layer(self, layer: int) -> m.LayerFacts | None:
        """The same of a layer."""
        kept = None if self.kept is None else self.kept.layers.get(layer)
        return self.described.get(layer) or kept


def content_of(session: m.SessionFacts) -> tuple[object, ...]:
    """What all answers of a session depend on."""
    fingerprint, reference = session.model_fingerprint, session.reference.sha256
    return (
        session.content,
        fingerprint,
        reference,
        session.dtype,
        session.layers,
        session.settings,
        session.operators,
    )
