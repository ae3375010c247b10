"""What the engine tells the app: progress, failures, and answers as the core gave them.

An answer carries the very object that `lens_core.report` returned (`lens_core.signature`), so
that nothing is restated between the core and the screen. As for `requests`: frozen, plain data,
checked by `wire`, cheap to import.
"""

from __future__ import annotations

from dataclasses import dataclass

from lens_core.signature import (
    BuildFacts,
    Evidence,
    Found,
    LayerFacts,
    Paths,
    PromptFirings,
    SessionFacts,
    Signature,
)
from lens_core.terms import Side


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something told about request `id` (0: about none)."""

    id: int = 0


@dataclass(frozen=True, kw_only=True)
class Status(Event):
    """What a request is doing. `total` 0: not known; `eta` in seconds, `None` at first."""

    text: str
    done: int = 0
    total: int = 0
    eta: float | None = None


@dataclass(frozen=True, kw_only=True)
class Done(Event):
    """A request that has nothing to say is finished."""


@dataclass(frozen=True, kw_only=True)
class Dropped(Event):
    """A newer request of the same place came before this one was begun, or while it ran."""


@dataclass(frozen=True, kw_only=True)
class Cancelled(Event):
    """`Cancel` reached the request; what it finished by then is kept."""


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The request failed; `text` is one line, raw. `defect`: our fault, the log has more."""

    text: str
    defect: bool = False


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """Something that may be wrong and that only the user can know; one line, raw."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Died(Event):
    """The engine process is gone; said by the client. `text` is one line, raw."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Released(Event):
    """Nobody asked for a while, and the model was given back: the next request loads it again.

    That request fails if what it would load is not what was open; a new `Open` loads it.
    """


@dataclass(frozen=True, kw_only=True)
class Ready(Event):
    """A configuration is open. Dictionaries are described layer by layer, as they are loaded."""

    session: SessionFacts


@dataclass(frozen=True, kw_only=True)
class LayerReady(Event):
    """One layer's dictionary is loaded."""

    layer: LayerFacts


@dataclass(frozen=True, kw_only=True)
class VocabularyReady(Event):
    """Every token's string, raw, in the order of ids."""

    tokens: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SignatureReady(Event):
    """What a feature promotes and what activates it."""

    signature: Signature


@dataclass(frozen=True, kw_only=True)
class PathsReady(Event):
    """How much of the score of one side's tokens goes through which block."""

    paths: Paths


@dataclass(frozen=True, kw_only=True)
class BlockTokensReady(Event):
    """The tokens that a block favours, best first."""

    layer: int
    feature: int
    side: Side
    block: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvidenceReady(Event):
    """Where a feature fires in the reference, and what is like it."""

    evidence: Evidence


@dataclass(frozen=True, kw_only=True)
class SearchReady(Event):
    """The best features for a token."""

    found: Found


@dataclass(frozen=True, kw_only=True)
class PromptReady(Event):
    """Which features fire on a text."""

    prompt: PromptFirings


@dataclass(frozen=True, kw_only=True)
class AtlasReady(Event):
    """The atlas of a layer lies in `directory`, for `lens_core.atlas.files`."""

    layer: int
    directory: str


@dataclass(frozen=True, kw_only=True)
class BuildPlanned(Event):
    """What building the operators takes."""

    plan: BuildFacts


@dataclass(frozen=True, kw_only=True)
class Built(Event):
    """The operators are finished and answer from now on."""

    directory: str
