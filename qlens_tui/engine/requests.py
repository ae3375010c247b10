"""What the app asks of its engine, as plain data, and how urgent it is.

Every message is a frozen dataclass of numbers, strings and tuples, so that nothing is pickled
and either side may be written anew without the other; `wire` makes bytes of them and checks what
arrives against the types here. Settings are those of the core (`lens_core.terms`); blocks are
indices (2l: attention, 2l+1: MLP of layer l).

A request belongs to a *place*: of the requests that wait for one place only the newest is
answered. `id`s are given by the client and name the request in every event about it.

Importing this must stay cheap: the app imports it before its first paint, and never torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from lens_core.terms import Settings, Side, Split

SESSION, AT_ONCE, SOON, NEXT, IN_SIGHT, WHEN_IDLE, BACKGROUND = range(7)
"""In this order requests are taken. A request that runs gives way at its ticks to those up to
`SOON` and to more urgent ones than itself; a session is opened when nothing runs."""


_DEFAULTS = Settings()


@dataclass(frozen=True, kw_only=True)
class Request:
    """Something asked of the engine."""

    id: int = 0
    pane: ClassVar[str] = ""
    usual_urgency: ClassVar[int] = SOON

    @property
    def place(self) -> str:
        """Of the requests that wait for one place the newest is kept."""
        return self.pane

    @property
    def urgency(self) -> int:
        """When it is taken, from `SESSION`, the first, to `BACKGROUND`."""
        return self.usual_urgency

    def keeps(self, running: Request) -> bool:
        """Whether `running`, of the same place, does work that this request needs too."""
        return False


@dataclass(frozen=True, kw_only=True)
class Open(Request):
    """Load what a configuration (a path, or a bundled name) describes; answered by `Ready`.

    `overrides` are keyword arguments of `lens_core.config.with_overrides`.
    """

    pane: ClassVar[str] = "session"
    usual_urgency: ClassVar[int] = SESSION
    config: str
    overrides: Mapping[str, str | int | tuple[int, ...] | None] = field(default_factory=dict)
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class DescribeLayer(Request):
    """Load a layer's dictionary; answered by `LayerReady`."""

    pane: ClassVar[str] = "layer"
    layer: int


@dataclass(frozen=True, kw_only=True)
class DescribeLayers(Request):
    """The same for every layer that was not described yet, one `LayerReady` each, then `Done`."""

    pane: ClassVar[str] = "layers"
    usual_urgency: ClassVar[int] = BACKGROUND


@dataclass(frozen=True, kw_only=True)
class ReadVocabulary(Request):
    """All token strings, in the order of ids; answered by `VocabularyReady`.

    The table writes its lists with them, so that they come before an atlas does.
    """

    pane: ClassVar[str] = "vocabulary"
    usual_urgency: ClassVar[int] = NEXT


@dataclass(frozen=True, kw_only=True)
class ComputeSignature(Request):
    """Both sides of a feature under every lens; answered by `SignatureReady`."""

    pane: ClassVar[str] = "signature"
    usual_urgency: ClassVar[int] = AT_ONCE
    layer: int
    feature: int
    settings: Settings = _DEFAULTS
    k: int | None = None


@dataclass(frozen=True, kw_only=True)
class ComputePaths(Request):
    """The shares of one side's blocks; answered by `PathsReady`."""

    pane: ClassVar[str] = "paths"
    usual_urgency: ClassVar[int] = WHEN_IDLE
    layer: int
    feature: int
    side: Side
    settings: Settings = _DEFAULTS
    split: Split | None = None
    k: int | None = None

    @property
    def place(self) -> str:
        return f"{self.pane}-{self.side}"


@dataclass(frozen=True, kw_only=True)
class ComputeBlockTokens(Request):
    """The tokens that a block favours, where paths have its share alone: `BlockTokensReady`.

    First-reader split, all blocks on: two passes over the reference.
    """

    pane: ClassVar[str] = "block tokens"
    usual_urgency: ClassVar[int] = WHEN_IDLE
    layer: int
    feature: int
    side: Side
    block: int


@dataclass(frozen=True, kw_only=True)
class ComputeEvidence(Request):
    """Contexts, density and nearest features; answered by `EvidenceReady`.

    Its long part, one pass over the reference, serves a whole layer, so that paths, which take
    some for every feature, wait for it.
    """

    pane: ClassVar[str] = "evidence"
    usual_urgency: ClassVar[int] = NEXT
    layer: int
    feature: int
    contexts: int = 20
    neighbours: int = 10

    def keeps(self, running: Request) -> bool:
        return isinstance(running, ComputeEvidence) and running.layer == self.layer


@dataclass(frozen=True, kw_only=True)
class Search(Request):
    """Features that promote a token or fire on it; answered by `SearchReady`.

    `lens` is a name of `lens_core.lenses`; `layers` `None`: all.
    """

    pane: ClassVar[str] = "search"
    token_id: int
    side: Side = "value"
    lens: str = "query"
    layers: tuple[int, ...] | None = None
    n: int = 100


@dataclass(frozen=True, kw_only=True)
class ReadPrompt(Request):
    """Which features of a layer fire on `text`, token by token; answered by `PromptReady`.

    `n` of each token's features at most; `feature` is wanted at every token.
    """

    pane: ClassVar[str] = "prompt"
    layer: int
    text: str
    feature: int | None = None
    n: int = 30


@dataclass(frozen=True, kw_only=True)
class Tabulate(Request):
    """Bring the atlas of a layer into the cache; answered by `AtlasReady`.

    That of the layer `in_sight`, whose columns are blank until then, comes before the paths of
    its features, but after their contexts; any other when nothing else is to do. What is asked
    again for the other reason goes on from the pieces that are done.
    """

    layer: int
    in_sight: bool = False

    @property
    def place(self) -> str:
        return f"atlas-{self.layer}"

    @property
    def urgency(self) -> int:
        return IN_SIGHT if self.in_sight else BACKGROUND

    def keeps(self, running: Request) -> bool:
        return running.urgency == self.urgency


@dataclass(frozen=True, kw_only=True)
class PlanBuild(Request):
    """Say what building the operators takes; answered by `BuildPlanned`."""

    pane: ClassVar[str] = "plan"
    usual_urgency: ClassVar[int] = AT_ONCE


@dataclass(frozen=True, kw_only=True)
class Build(Request):
    """Build the operators, or go on with them; answered by `Built`."""

    pane: ClassVar[str] = "build"
    usual_urgency: ClassVar[int] = BACKGROUND

    def keeps(self, running: Request) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Cancel(Request):
    """Drop the request `target`, or stop it at its next tick; that one gets `Cancelled`."""

    target: int


@dataclass(frozen=True, kw_only=True)
class Shutdown(Request):
    """End the engine, as closing its input does."""
