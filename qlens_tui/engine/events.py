"""What the engine sends the app: progress, failures, and the core's answers.

An answer carries the object that `lens_core.report` returned (`lens_core.signature`) unchanged.
Like `requests`: frozen, plain data, checked by `wire`, cheap to import.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lens_core.comparison import Comparison
from lens_core.evidence import Evidence, SampleActivations
from lens_core.resemblance import PairCosines, Resembling
from lens_core.signature import (
    BuildFacts,
    Found,
    LayerFacts,
    Paths,
    PromptFirings,
    SessionFacts,
    Signature,
)
from lens_core.steered import Steered
from lens_core.terms import Side
from qlens_tui.engine.requests import (
    ComputeCosines,
    ComputeEvidence,
    ComputePaths,
    ComputeSignature,
    Request,
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event about request `id` (0: about none)."""

    id: int = 0


@dataclass(frozen=True, kw_only=True)
class Status(Event):
    """Progress of a request. `total` is 0 if unknown; `eta` is in seconds, `None` at first."""

    text: str
    done: int = 0
    total: int = 0
    eta: float | None = None


@dataclass(frozen=True, kw_only=True)
class Done(Event):
    """A request without an answer of its own is finished."""


@dataclass(frozen=True, kw_only=True)
class Dropped(Event):
    """A newer request with the same place replaced this one."""


@dataclass(frozen=True, kw_only=True)
class Cancelled(Event):
    """The request was cancelled; parts that were finished are kept."""


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The request failed; `text` is one line, raw. `defect`: a bug in qlens; see the log."""

    text: str
    defect: bool = False


@dataclass(frozen=True, kw_only=True)
class Notice(Event):
    """A possible problem that only the user can judge; `text` is one line, raw."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Died(Event):
    """The engine process ended; sent by the client. `text` is one line, raw."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Released(Event):
    """The model was released after a while without requests; the next request loads it again.

    That request fails if the files have changed since; a new `Open` loads them.
    """


@dataclass(frozen=True, kw_only=True)
class Ready(Event):
    """A configuration is open. Its dictionaries are loaded and described layer by layer."""

    session: SessionFacts


@dataclass(frozen=True, kw_only=True)
class LayerReady(Event):
    """One layer's dictionary is loaded."""

    layer: LayerFacts


@dataclass(frozen=True, kw_only=True)
class VocabularyReady(Event):
    """Every token's string, raw, in order of their ids."""

    tokens: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SignatureReady(Event):
    """What a feature promotes and what activates it; more follows unless `is_last`."""

    signature: Signature
    is_last: bool = True


@dataclass(frozen=True, kw_only=True)
class CosinesReady(Event):
    """How alike two features are; more follows unless `is_last`."""

    cosines: PairCosines
    is_last: bool = True


@dataclass(frozen=True, kw_only=True)
class ComparisonReady(Event):
    """What switches changed in a feature's lists, against all blocks on."""

    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class PathsReady(Event):
    """How much of the score of one side's tokens goes through each block; more may follow."""

    paths: Paths
    is_last: bool = True


@dataclass(frozen=True, kw_only=True)
class BlockTokensReady(Event):
    """The tokens that a block raises most, best first."""

    layer: int
    feature: int
    side: Side
    block: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvidenceReady(Event):
    """Where a feature fires, and its nearest features; the activations around may follow."""

    evidence: Evidence
    is_last: bool = True


@dataclass(frozen=True, kw_only=True)
class SearchReady(Event):
    """The best features for a token."""

    found: Found


@dataclass(frozen=True, kw_only=True)
class PromptReady(Event):
    """Which features fire on a text."""

    prompt: PromptFirings


@dataclass(frozen=True, kw_only=True)
class ResemblingReady(Event):
    """The features most like one."""

    found: Resembling


@dataclass(frozen=True, kw_only=True)
class SteeredReady(Event):
    """What setting a feature to a strength raises."""

    found: Steered


@dataclass(frozen=True, kw_only=True)
class SampleReady(Event):
    """A sample of a text, and a feature's activations in it."""

    sample: SampleActivations


@dataclass(frozen=True, kw_only=True)
class AtlasReady(Event):
    """The atlas of a layer is in `directory`; `lens_core.atlas.files` reads it."""

    layer: int
    directory: str


@dataclass(frozen=True, kw_only=True)
class BuildPlanned(Event):
    """What building the operators takes."""

    plan: BuildFacts


@dataclass(frozen=True, kw_only=True)
class Built(Event):
    """The operators are finished and used from now on."""

    directory: str


def next_stage(request: Request, event: Event) -> Request | None:
    """The request for the stage that follows `event`, if it answered one before the last.

    `None` too for what was asked ahead, which is the first stage alone.
    """
    match request, event:
        case ComputeSignature() as lists, SignatureReady(is_last=False):
            return replace(lists, stage=lists.stage + 1)
        case ComputeEvidence() as contexts, EvidenceReady(is_last=False):
            return replace(contexts, stage=contexts.stage + 1)
        case ComputeCosines() as cosines, CosinesReady(is_last=False):
            return replace(cosines, stage=cosines.stage + 1)
        case ComputePaths(ahead=False) as shares, PathsReady(is_last=False):
            return replace(shares, stage=shares.stage + 1)
    return None
