"""Results about a feature as plain data: lists, shares of blocks, contexts, search results.

The core returns these classes, the engine sends them to the app and the command line prints
them, all without conversion. They are frozen and hold only numbers, strings and tuples; no torch.
Token strings are raw: a front end must make them printable first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lens_core.comparison import Comparison
from lens_core.evidence import Evidence
from lens_core.resemblance import Resembling
from lens_core.steered import Steered
from lens_core.terms import Method, OperatorSource, Settings, Side, Split, Switch
from lens_core.token_query import By, TokenQuery

NO_DIRECTION = "the vector has length zero: it has no direction"


@dataclass(frozen=True)
class TokenList:
    """The best tokens of a ranking, best first, or the worst, worst first.

    `scores` are the readout's. `unit_scores` are those of a vector of length one, if only these
    can be compared across features (keys; else `None`). `measure` names the one of the two that
    is shown. `moved` is how many ranks each token rose against Logit Lens, empty if unknown.
    An empty list gives the reason in `reason`. `n_tokens` is how many reference tokens a baseline
    was averaged over (`None`: as many as its side, or it needs none).
    """

    readout: str
    measure: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    unit_scores: tuple[float, ...] | None
    moved: tuple[int, ...]
    reason: str = ""
    n_tokens: int | None = None

    @property
    def shown_scores(self) -> tuple[float, ...]:
        """The scores that `measure` names."""
        return self.scores if self.unit_scores is None else self.unit_scores


@dataclass(frozen=True)
class Lists(Mapping[str, TokenList]):
    """One list for each lens, by the lens's name (`lens_core.lenses`)."""

    by_lens: Mapping[str, TokenList]

    def __getitem__(self, lens: str) -> TokenList:
        return self.by_lens[lens]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_lens)

    def __len__(self) -> int:
        return len(self.by_lens)

    @property
    def logit_lens(self) -> TokenList:
        """The list of Logit Lens."""
        return self.by_lens["logit"]

    @property
    def query_lens(self) -> TokenList:
        """The list of the settings' transition (Query Lens for the full transition)."""
        return self.by_lens["query"]

    @property
    def first_order(self) -> TokenList:
        """The list of first order."""
        return self.by_lens["first-order"]


@dataclass(frozen=True)
class SideSignature:
    """One side of a feature under every lens; `bottom` is `None` unless it was asked for.

    `norm` is the length of the feature's own vector, `transported_norm` that of the carried
    vector. `stability` is the Jaccard similarity of Query Lens's lists from the two halves of the
    reference (0 to 1; `None` without operators, or if these cannot answer). `relative_variance`
    is that of the transported vector over tokens (0 to 1; `None` if operators answered). All
    means are over the first `n_tokens` tokens of the reference. `operators` are those that answered
    (`none` after walks, or where nothing is carried). `overlap` is the Jaccard similarity
    of Query Lens's list with that of the stage before, over fewer tokens (`None` if there is none).
    """

    top: Lists
    bottom: Lists | None
    norm: float
    transported_norm: float
    stability: float | None
    relative_variance: float | None
    n_tokens: int
    operators: OperatorSource = "none"
    overlap: float | None = None

    @property
    def logit_lens(self) -> TokenList:
        """The top list of Logit Lens."""
        return self.top.logit_lens

    @property
    def query_lens(self) -> TokenList:
        """The top list of the settings' transition."""
        return self.top.query_lens

    @property
    def first_order(self) -> TokenList:
        """The top list of first order."""
        return self.top.first_order


@dataclass(frozen=True)
class Signature:
    """What a feature promotes and what activates it, on at least `n_tokens` of the reference.

    `operators` says which operators answered; `none` for direct passes.
    """

    layer: int
    feature: int
    method: Method
    operators: OperatorSource
    settings: Settings
    n_tokens: int
    value: SideSignature
    key: SideSignature

    def side(self, side: Side) -> SideSignature:
        """The signature of one side."""
        return self.value if side == "value" else self.key


@dataclass(frozen=True)
class PathShare:
    """A block's share of the score of the signature's tokens, or a head's.

    `block` is the name of a block or head, `direct` for the feature's own vector, or `bias` for
    the biases, which belong to no path. All shares except `bias` sum to one and may be negative;
    NaN for a vector of length zero. `tokens` are those that the block's own contribution raises
    most, empty if only the share is known.

    In the ablation split `share` is what the score of those tokens loses with this block off,
    `overlap` the Jaccard overlap of the two lists. There are only blocks, and no sum.
    """

    block: str
    share: float
    on: bool
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    overlap: float | None = None


@dataclass(frozen=True)
class Paths:
    """How much of the score of one side's tokens goes through each block, and the split used.

    `block` is a block's name if these are its heads; else `None`.

    If there is no score to share, `reason` says why.
    """

    layer: int
    feature: int
    side: Side
    settings: Settings
    method: Method
    n_tokens: int
    split: Split
    rows: tuple[PathShare, ...]
    block: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Hit:
    """A feature that a search found, with its best tokens.

    `rank` is the token's rank among all tokens of the feature under the lens that searched (1 is
    best), `score` its score; with several tokens the worst rank and lowest score of those wanted.
    `ranks` are those of all tokens of the query, wanted ones first. `ids` and `tokens` are the
    feature's best ones. The score under Logit Lens is given as well and, if Logit Lens searched
    and there are operators, under Query Lens.
    """

    layer: int
    feature: int
    rank: int
    score: float
    logit_score: float
    query_score: float | None
    ranks: tuple[int, ...]
    ids: tuple[int, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The best features for a query, best first; `tokens` are its texts, wanted ones first."""

    query: TokenQuery
    tokens: tuple[str, ...]
    side: Side
    lens: str
    by: By
    layers: tuple[int, ...]
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class FiringFeatures:
    """The features that fire on one token, strongest first, and their activations."""

    features: tuple[int, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class PromptFirings:
    """A text's tokens and which features of a layer fire on each.

    `bos`: a beginning-of-sequence token was prepended. `activations` are those of `feature`
    at every token, `None` if none was given.
    """

    layer: int
    text: str
    feature: int | None
    bos: bool
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    strongest: tuple[FiringFeatures, ...]
    activations: tuple[float, ...] | None


@dataclass(frozen=True)
class ReferenceFacts:
    """What the averages are taken over; `n_tokens` of its tokens count.

    `are_texts`: of texts of at most `length` tokens, the last one.
    """

    samples: int
    length: int
    n_tokens: int
    sha256: str
    origin: str
    skip_first: int
    skip_last: int
    are_texts: bool = False


@dataclass(frozen=True)
class SessionFacts:
    """Facts about a session: model, device, reference, settings; `blocks` in the model's order.

    `operators` are the best that any of its dictionaries has. `content` is a checksum of all that
    answers depend on besides dictionary, feature and settings. `heads` is the number of heads of
    each block, 0 where there are none that can be told apart.
    """

    config: str
    content: str
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
    operators: OperatorSource
    reference: ReferenceFacts
    settings: Settings
    cache: str
    heads: tuple[int, ...] = ()

    def has_switch(self, switch: Switch) -> bool:
        """Whether there is such a block or head."""
        if isinstance(switch, int):
            return switch < len(self.blocks)
        block, head = switch
        return block < len(self.heads) and head < self.heads[block]


@dataclass(frozen=True)
class BuildFacts:
    """What building the operators takes.

    `passes` is the number of passes over the reference for all units, `passes_done` for those that
    exist; a batch is `micro_batch` x `length` tokens. `seconds` is an estimate of the time left;
    `None` if unknown. `bytes_on_disk` is the size when finished, `bytes_while_building` the peak.
    """

    directory: str
    device: str
    passes: int
    passes_done: int
    micro_batch: int
    length: int
    bytes_on_disk: int
    bytes_while_building: int
    seconds: float | None


@dataclass(frozen=True)
class OperatorFacts:
    """The operators that answered: origin, dtype on disk, fingerprint."""

    origin: OperatorSource
    stored: str
    fingerprint: str


@dataclass(frozen=True)
class LayerFacts:
    """One layer's dictionary, by its content.

    `value_blocks` and `key_blocks` are the range of blocks (start, stop) on each side's path.
    `atlas` is the directory of its finished atlas, `None` if there is none; `operators` says
    which operators answer for this dictionary. `text` identifies the text in which contexts are
    looked for (`TextFacts.sha256`; empty: not known).
    """

    layer: int
    dictionary: str
    sha256: str
    n_features: int
    operators: OperatorSource
    value_blocks: tuple[int, int]
    key_blocks: tuple[int, int]
    provenance: Mapping[str, str]
    atlas: str | None
    text: str = ""


@dataclass(frozen=True)
class FeatureReport:
    """Everything about one feature, and what it was computed on.

    `operators` is `None` for direct passes; `paths` is empty if not asked for, as are `heads`, the
    paths of the heads of some blocks. `comparison` is of Query Lens's lists. `steered` and
    `similar` are `None` if not asked for; `similar_lists` are of the features in `similar`.
    """

    session: SessionFacts
    layer: LayerFacts
    operators: OperatorFacts | None
    signature: Signature
    comparison: Comparison
    paths: tuple[Paths, ...]
    evidence: Evidence
    heads: tuple[Paths, ...] = ()
    steered: Steered | None = None
    similar: Resembling | None = None
    similar_lists: tuple[Signature, ...] = ()
