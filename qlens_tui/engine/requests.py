"""What the app asks of its engine, as plain data, and how urgent it is.

Every message is a frozen dataclass of numbers, strings and tuples, so that nothing is pickled
and either side can be replaced without the other; `wire` encodes messages and checks what
arrives against the types here. Settings are those of the core (`lens_core.terms`); blocks are
indices (2l: attention, 2l+1: MLP of layer l).

Each request has a *place*: of the requests waiting with the same place only the newest is
answered. The client assigns each `id`, which every event about the request repeats.

Importing this must stay cheap: the app imports it before its first paint, and never torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from lens_core.resemblance import Likeness
from lens_core.terms import Settings, Side, Split
from lens_core.token_query import By, TokenQuery

SESSION, AT_ONCE, SOON, NEXT, AFTER_PATHS, IN_SIGHT, LATER_STAGE, BACKGROUND = range(8)
"""The order in which requests are taken. A running request gives way at its ticks to requests up
to `SOON` and to those more urgent than itself, later stages to first ones; a session is opened when
nothing runs."""


_PINNED = "-pinned"
_DEFAULTS = Settings()


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to the engine."""

    id: int = 0
    pane: ClassVar[str] = ""
    usual_urgency: ClassVar[int] = SOON

    @property
    def place(self) -> str:
        """Of the waiting requests with the same place only the newest is kept."""
        return self.pane

    @property
    def urgency(self) -> int:
        """From `SESSION`, taken first, to `BACKGROUND`, taken last."""
        return self.usual_urgency

    def keeps(self, running: Request) -> bool:
        """Whether `running`, with the same place, does work that this request also needs."""
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
    """Load every layer not described yet; answered by one `LayerReady` each, then `Done`."""

    pane: ClassVar[str] = "layers"
    usual_urgency: ClassVar[int] = BACKGROUND


@dataclass(frozen=True, kw_only=True)
class ReadVocabulary(Request):
    """All token strings, in order of their ids; answered by `VocabularyReady`.

    The table needs them to show lists, so they are read before an atlas is made.
    """

    pane: ClassVar[str] = "vocabulary"
    usual_urgency: ClassVar[int] = NEXT


@dataclass(frozen=True, kw_only=True)
class OfFeature(Request):
    """A question about a feature, whose answer is kept on disk.

    `pinned`: it is asked of the feature that another one is compared with, which does not replace
    the same question about the feature under the cursor.
    """

    layer: int
    feature: int
    pinned: bool = field(default=False, compare=False)

    @property
    def place(self) -> str:
        return f"{self.pane}{_PINNED if self.pinned else ''}"

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose dictionaries the answer depends on."""
        return (self.layer,)


@dataclass(frozen=True, kw_only=True)
class ComputeSignature(OfFeature):
    """Both sides of a feature under every lens; answered by `SignatureReady`, in stages."""

    pane: ClassVar[str] = "signature"
    usual_urgency: ClassVar[int] = AT_ONCE
    settings: Settings = _DEFAULTS
    stage: int = field(default=0, compare=False)

    @property
    def urgency(self) -> int:
        if self.pinned and not self.stage:
            return SOON
        return LATER_STAGE if self.stage else self.usual_urgency


@dataclass(frozen=True, kw_only=True)
class ComputeCosines(OfFeature):
    """How alike a feature and another are; answered by `CosinesReady`, in stages.

    Ask after both features' lists, which take the same walks.
    """

    pane: ClassVar[str] = "cosines"
    other_layer: int
    other_feature: int
    settings: Settings = _DEFAULTS
    stage: int = field(default=0, compare=False)

    @property
    def urgency(self) -> int:
        return LATER_STAGE if self.stage else self.usual_urgency

    @property
    def layers(self) -> tuple[int, ...]:
        return (self.layer, self.other_layer)


@dataclass(frozen=True, kw_only=True)
class ComputeComparison(OfFeature):
    """What the switches of `settings` changed in all lists; answered by `ComparisonReady`.

    Over the whole reference: ask once the lists are. With all blocks on, operators answer at once,
    else a walk that is kept.
    """

    pane: ClassVar[str] = "comparison"
    settings: Settings = _DEFAULTS


@dataclass(frozen=True, kw_only=True)
class ComputePaths(OfFeature):
    """The shares of one side's blocks, or of the heads of one `block`.

    Answered by `PathsReady`, in stages, the first of which takes half a pass: it comes before the
    layer's contexts and columns. `ahead`: for a feature that the user may come to; over the first
    samples, when nothing else is asked.
    """

    pane: ClassVar[str] = "paths"
    usual_urgency: ClassVar[int] = NEXT
    side: Side
    settings: Settings = _DEFAULTS
    split: Split | None = None
    block: int | None = None
    ahead: bool = field(default=False, compare=False)
    stage: int = field(default=0, compare=False)

    @property
    def place(self) -> str:
        what = "-ahead" if self.ahead else "" if self.block is None else "-heads"
        return f"{super().place}-{self.side}{what}"

    @property
    def urgency(self) -> int:
        if self.ahead:
            return BACKGROUND
        return LATER_STAGE if self.stage else self.usual_urgency


@dataclass(frozen=True, kw_only=True)
class ComputeBlockTokens(OfFeature):
    """The tokens that a block raises most; answered by `BlockTokensReady`.

    For paths that came without tokens. First-reader split with all blocks on; takes two passes
    over the reference, so that first stages come before it.
    """

    pane: ClassVar[str] = "block tokens"
    usual_urgency: ClassVar[int] = LATER_STAGE
    side: Side
    block: int


@dataclass(frozen=True, kw_only=True)
class ComputeEvidence(OfFeature):
    """Contexts, density and nearest features; answered by `EvidenceReady`, in two stages.

    The one pass over the reference that the first may take serves the whole layer, so it comes
    before all but the first stage of paths, which take passes for every feature. The second reads
    the contexts of this feature, for the activations around them.
    """

    pane: ClassVar[str] = "evidence"
    usual_urgency: ClassVar[int] = AFTER_PATHS
    contexts: int = 12
    neighbours: int = 10
    stage: int = field(default=0, compare=False)

    @property
    def urgency(self) -> int:
        return LATER_STAGE if self.stage else self.usual_urgency

    def keeps(self, running: Request) -> bool:
        return (
            isinstance(running, ComputeEvidence)
            and running.layer == self.layer
            and not running.stage
        )


@dataclass(frozen=True, kw_only=True)
class Search(Request):
    """Features that promote tokens or fire on them; answered by `SearchReady`.

    `lens` is a name of `lens_core.lenses`; `layers` is `None` for all layers.
    """

    pane: ClassVar[str] = "search"
    query: TokenQuery
    side: Side = "value"
    lens: str = "query"
    layers: tuple[int, ...] | None = None
    n: int = 100
    by: By = "rank"


@dataclass(frozen=True, kw_only=True)
class ReadPrompt(Request):
    """Which features of a layer fire on `text`, token by token; answered by `PromptReady`.

    At most `n` features per token; `feature` is reported at every token.
    """

    pane: ClassVar[str] = "prompt"
    layer: int
    text: str
    feature: int | None = None
    n: int = 30


@dataclass(frozen=True, kw_only=True)
class FindResembling(Request):
    """The `n` features of a layer most like one of them; answered by `ResemblingReady`."""

    pane: ClassVar[str] = "resembling"
    layer: int
    feature: int
    likeness: Likeness = "both"
    n: int = 5000


@dataclass(frozen=True, kw_only=True)
class Steer(Request):
    """What setting a feature to a strength raises; answered by `SteeredReady`."""

    pane: ClassVar[str] = "steered"
    layer: int
    feature: int


@dataclass(frozen=True, kw_only=True)
class ReadSample(Request):
    """A whole sample with a feature's activation at each token; answered by `SampleReady`.

    `text` is the `sha256` of the text in which the sample is.
    """

    pane: ClassVar[str] = "sample"
    layer: int
    feature: int
    text: str
    sample: int


@dataclass(frozen=True, kw_only=True)
class Tabulate(Request):
    """Compute the atlas of a layer into the cache; answered by `AtlasReady`.

    The layer `in_sight`, whose columns are blank until then, comes after what the panes show
    first; other layers come last. Asking again with another
    `in_sight` continues from the finished pieces.
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
    """Report what building the operators takes; answered by `BuildPlanned`."""

    pane: ClassVar[str] = "plan"
    usual_urgency: ClassVar[int] = AT_ONCE


@dataclass(frozen=True, kw_only=True)
class Build(Request):
    """Build the operators, or resume the build; answered by `Built`."""

    pane: ClassVar[str] = "build"
    usual_urgency: ClassVar[int] = BACKGROUND

    def keeps(self, running: Request) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class Cancel(Request):
    """Drop the request `target`, or stop it at its next tick; `target` gets `Cancelled`."""

    target: int


@dataclass(frozen=True, kw_only=True)
class Shutdown(Request):
    """End the engine; closing its input does the same."""
