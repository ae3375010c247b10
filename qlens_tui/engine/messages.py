"""What flows between the app and its engine: requests and events, as plain data.

Every message is a frozen dataclass of numbers, strings and tuples, so that nothing is
pickled and either side may be written anew without the other; `wire` makes bytes of them
and checks what arrives against the types here. Token strings are raw, whatever a vocabulary
holds; blocks are indices (2l: attention, 2l+1: MLP of layer l).

A request belongs to a *pane*: of the requests that wait for one pane only the newest is
answered. `id`s are given by the client and name the request in every event about it.

Importing this must stay cheap: the app imports it before its first paint, and never torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Side = Literal["value", "key"]
Transition = Literal["identity", "first-order", "full"]
Method = Literal["operator", "direct"]
SearchLens = Literal["query", "logit", "first-order"]
OperatorsFrom = Literal["built", "shipped", "none"]

SESSION, AT_ONCE, SOON, NEXT, IN_SIGHT, WHEN_IDLE, BACKGROUND = range(7)
"""In this order requests are taken. A request that runs gives way at its ticks to those up to
`SOON` and to more urgent ones than itself; a session is opened when nothing runs."""


@dataclass(frozen=True)
class Settings:
    """How a feature is carried; `off` are blocks, `method` `None` is operators if they answer."""

    transition: Transition = "full"
    convention: Literal["paper", "exact"] = "paper"
    final_norm: Literal["apply", "linearize"] = "apply"
    off: tuple[int, ...] = ()
    method: Method | None = None


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
    """Load a layer's dictionary; answered by `Layer`."""

    pane: ClassVar[str] = "layer"
    layer: int


@dataclass(frozen=True, kw_only=True)
class DescribeLayers(Request):
    """The same for every layer that was not described yet, one `Layer` each, then `Done`."""

    pane: ClassVar[str] = "layers"
    usual_urgency: ClassVar[int] = BACKGROUND


@dataclass(frozen=True, kw_only=True)
class ReadVocabulary(Request):
    """All token strings, in the order of ids; answered by `Vocabulary`.

    The table writes its lists with them, so that they come before an atlas does.
    """

    pane: ClassVar[str] = "vocabulary"
    usual_urgency: ClassVar[int] = NEXT


@dataclass(frozen=True, kw_only=True)
class Sign(Request):
    """Both sides of a feature under the three lenses; answered by `Signature`."""

    pane: ClassVar[str] = "signature"
    usual_urgency: ClassVar[int] = AT_ONCE
    layer: int
    feature: int
    settings: Settings = Settings()
    k: int | None = None


@dataclass(frozen=True, kw_only=True)
class Split(Request):
    """The shares of one side's blocks; answered by `Paths`."""

    pane: ClassVar[str] = "paths"
    usual_urgency: ClassVar[int] = WHEN_IDLE
    layer: int
    feature: int
    side: Side
    settings: Settings = Settings()
    k: int | None = None

    @property
    def place(self) -> str:
        return f"{self.pane}-{self.side}"


@dataclass(frozen=True, kw_only=True)
class Favour(Request):
    """The tokens that a block favours, where `Split` gave its share alone; answered by `Favoured`.

    First-reader split, all blocks on: two passes over the reference.
    """

    pane: ClassVar[str] = "favoured"
    usual_urgency: ClassVar[int] = WHEN_IDLE
    layer: int
    feature: int
    side: Side
    block: int


@dataclass(frozen=True, kw_only=True)
class Examine(Request):
    """Contexts, density and nearest features; answered by `Evidence`.

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
        return isinstance(running, Examine) and running.layer == self.layer


@dataclass(frozen=True, kw_only=True)
class Search(Request):
    """Features that promote a token or fire on it; answered by `Found`. `layers` `None`: all."""

    pane: ClassVar[str] = "search"
    token_id: int
    side: Side = "value"
    lens: SearchLens = "query"
    layers: tuple[int, ...] | None = None
    n: int = 100


@dataclass(frozen=True, kw_only=True)
class Probe(Request):
    """Which features of a layer fire on `text`, token by token; answered by `Probed`.

    `n` of each token's features at most; `feature` is wanted at every token.
    """

    pane: ClassVar[str] = "probe"
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


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something told about request `id` (0: about none)."""

    id: int = 0


@dataclass(frozen=True, kw_only=True)
class Status(Event):
    """What a request is doing. `total` 0: nobody knows; `eta` in seconds, `None` at first."""

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


@dataclass(frozen=True)
class Reference:
    """What the averages are taken over; `n_tokens` of them count."""

    samples: int
    length: int
    n_tokens: int
    sha256: str
    origin: str
    skip_first: int
    skip_last: int


@dataclass(frozen=True, kw_only=True)
class Ready(Event):
    """A configuration is open. Dictionaries are described layer by layer, as they are loaded."""

    config: str
    model: str
    model_fingerprint: str
    n_layers: int
    d_model: int
    d_vocab: int
    k: int
    device: str
    dtype: str
    blocks: tuple[str, ...]
    layers: tuple[int, ...]
    dictionary_kind: str
    operators: OperatorsFrom
    reference: Reference
    settings: Settings
    cache: str


@dataclass(frozen=True, kw_only=True)
class Layer(Event):
    """One layer's dictionary. `value_blocks`, `key_blocks`: first and end of the way to each end.

    `atlas` is the directory of its finished atlas, `None` where there is none; `operators`
    those that answer for this dictionary.
    """

    layer: int
    dictionary: str
    sha256: str
    n_features: int
    operators: OperatorsFrom
    value_blocks: tuple[int, int]
    key_blocks: tuple[int, int]
    provenance: Mapping[str, str]
    atlas: str | None


@dataclass(frozen=True, kw_only=True)
class Vocabulary(Event):
    """Every token's string, raw."""

    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Tokens:
    """One end of one ranking; fields as in `lens_core.lens.TokenList`.

    `moved` is empty where nobody knows: an atlas has it for Query Lens alone.
    """

    readout: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    unit_scores: tuple[float, ...] | None
    moved: tuple[int, ...]


@dataclass(frozen=True)
class Lists:
    """The three lenses."""

    logit_lens: Tokens
    query_lens: Tokens
    first_order: Tokens


@dataclass(frozen=True)
class OneSide:
    """One side of a feature; fields as in `lens_core.lens.SideSignature`."""

    top: Lists
    bottom: Lists
    norm: float
    transported_norm: float
    stability: float | None
    relative_variance: float | None


@dataclass(frozen=True, kw_only=True)
class Signature(Event):
    """What a feature promotes and what activates it, on `n_tokens` reference tokens."""

    layer: int
    feature: int
    method: Method
    operators: OperatorsFrom
    settings: Settings
    n_tokens: int
    value: OneSide
    key: OneSide


@dataclass(frozen=True)
class PathRow:
    """A block's share (NaN for a vector of length zero); `block` may be `direct` or `bias`."""

    block: str
    share: float
    on: bool
    ids: tuple[int, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Paths(Event):
    """How much of the score of the signature's tokens goes through which block."""

    layer: int
    feature: int
    side: Side
    settings: Settings
    method: Method
    n_tokens: int
    split: Literal["first-reader", "last-writer", "first-order"]
    rows: tuple[PathRow, ...]


@dataclass(frozen=True, kw_only=True)
class Favoured(Event):
    """The tokens that a block favours, best first."""

    layer: int
    feature: int
    side: Side
    block: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Context:
    """A place in the reference where a feature fires; token strings raw."""

    sample: int
    position: int
    activation: float
    token_id: int
    before: tuple[str, ...]
    token: str
    after: tuple[str, ...]


@dataclass(frozen=True)
class Neighbour:
    """A feature of the same layer and its cosine."""

    layer: int
    feature: int
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Evidence(Event):
    """Where a feature fires in the reference, strongest first, and what is like it."""

    layer: int
    feature: int
    silent: bool
    density: float
    max_activation: float
    n_tokens: int
    contexts: tuple[Context, ...]
    by_key: tuple[Neighbour, ...]
    by_value: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Hit:
    """A feature and the token's score under the lens that was asked for, and under Logit Lens.

    `rank` is the token's among all tokens of the feature under the lens asked for, 1 the best.
    `query_score`, Query Lens's, stands beside what Logit Lens found; `None` without operators,
    or where another lens was asked for.
    """

    layer: int
    feature: int
    score: float
    logit_score: float
    query_score: float | None = None
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class Found(Event):
    """The best features for a token, best first."""

    token_id: int
    token: str
    side: Side
    lens: SearchLens
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Firing:
    """The strongest features of one token, strongest first, and their activations."""

    features: tuple[int, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Probed(Event):
    """A text's tokens (strings raw, `bos`: one was put in front) and what fires on each.

    `activations` are those of `feature` at every token, `None` if none was asked for.
    """

    layer: int
    text: str
    feature: int | None
    bos: bool
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    strongest: tuple[Firing, ...]
    activations: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True)
class AtlasReady(Event):
    """The atlas of a layer lies in `directory`, for `lens_core.atlas.files`."""

    layer: int
    directory: str


@dataclass(frozen=True, kw_only=True)
class Built(Event):
    """The operators are finished and answer from now on."""

    directory: str
