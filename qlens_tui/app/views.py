"""What a pane draws: which feature's numbers, whether they are current, what is still to come.

Views are frozen and complete. A pane draws its view and keeps only its scroll and cursor, so it
cannot show one feature's numbers as another's. `state` makes the views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from qlens_tui.engine import messages as m
from qlens_tui.triage.marks import Mark

Feature = tuple[int, int]
"""Layer, and number within the layer."""


@dataclass(frozen=True)
class Listed:
    """Features that a search found, best first, and what they are, raw."""

    words: str
    features: tuple[Feature, ...]


SIDES: tuple[m.Side, m.Side] = ("value", "key")

End = Literal["top", "bottom"]

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Shown(Generic[Answer]):
    """An answer, and whether it is the requested one.

    `asked` is the feature under the cursor (`None`: there is none), `of` the feature that
    `answer` belongs to. `late`: feature or settings have differed for so long that the answer
    is to be grey. `awaits` is the progress of the requested answer, empty if none is to come;
    `problem` is why there is none. `is_kept`: the answer was there before the model is, which has
    not confirmed yet that it is of the same content.
    """

    asked: Feature | None = None
    of: Feature | None = None
    answer: Answer | None = None
    late: bool = False
    awaits: str = ""
    problem: str = ""
    is_kept: bool = False


@dataclass(frozen=True)
class TokenLook:
    """How lists are shown; the same for both sides, and kept between sessions.

    `lenses` are names of `lens_core.lenses`; `None`: Logit Lens and Query Lens, and the others
    where there is room. `length` is the most tokens to show of a list; `None`: the
    configuration's `k`. With blocks off, lists are compared `against_all_on`, or else Logit Lens.
    """

    end: End = "top"
    ids: bool = False
    lenses: tuple[str, ...] | None = None
    length: int | None = None
    against_all_on: bool = True


@dataclass(frozen=True)
class AgainstAllOn:
    """What switches changed in one side's lists; or `awaits` its progress, or the `problem`.

    All are empty where the lists are those of other switches than the asked ones.
    """

    change: m.SideComparison | None = None
    awaits: str = ""
    problem: str = ""


@dataclass(frozen=True)
class ListsView:
    """One side's token lists.

    `blocks` are those on its path, `None` if unknown; `note` is a remark on the vector, such as
    which of two keys it is. `n_tokens` is the size of the reference: a result may be over a part.
    `k` is the configuration's, `None` if unknown. `against` is `None` unless the lists drawn have
    blocks of their path off, and are to be compared with all of them on.
    """

    shown: Shown[m.Signature] = Shown()
    look: TokenLook = TokenLook()
    blocks: range | None = None
    note: str = ""
    n_tokens: int = 0
    k: int | None = None
    against: AgainstAllOn | None = None


@dataclass(frozen=True)
class SideShares:
    """One side's shares, if they arrived; `late`, `awaits` and `problem` as in `Shown`.

    Shares of the same feature with other switches are `late` at once, without a grace period.
    """

    paths: m.Paths | None = None
    late: bool = False
    awaits: str = ""
    problem: str = ""


@dataclass(frozen=True)
class BlockTokens:
    """The tokens of one block of the asked feature, if they did not come with its share."""

    block: int
    tokens: tuple[str, ...] = ()
    awaits: str = ""
    problem: str = ""


@dataclass(frozen=True)
class HeadShares:
    """The heads of an attention block of the asked feature, as far as they are there."""

    block: int
    shares: SideShares


@dataclass(frozen=True)
class PathsView:
    """Both sides' shares of one feature; `off`, `transition` and `split` are those requested.

    `heads` are those of the block that was opened; `n_heads` is the number that each block has.
    `n_tokens` is the size of the reference: shares may be over a part of it. `at` is the block that
    the cursor was on last.
    """

    shown: Shown[Mapping[m.Side, m.Paths]] = Shown()
    sides: Mapping[m.Side, SideShares] = field(default_factory=dict)
    n_layers: int = 0
    off: frozenset[m.Switch] = frozenset()
    transition: m.Transition = "full"
    block: BlockTokens | None = None
    n_tokens: int = 0
    split: m.Split | None = None
    heads: HeadShares | None = None
    n_heads: tuple[int, ...] = ()
    at: int | None = None


@dataclass(frozen=True)
class EvidenceView:
    """A feature's contexts and neighbours, and what else the app knows about it.

    `labels` are tokens that identify neighbours, by layer and feature; `atlas_stability` is the
    stability of the table's lists, in words; `explanation` is what others say about the feature,
    raw.
    """

    shown: Shown[m.Evidence] = Shown()
    signature: m.Signature | None = None
    labels: Mapping[Feature, tuple[str, ...]] = field(default_factory=dict)
    atlas_stability: str = ""
    explanation: str = ""


@dataclass(frozen=True)
class Compared:
    """One of two features that are compared; empty or `None` for what is not there yet.

    `gains` are by side, if the layer's atlas is in memory; `explanation` is what others say, raw.
    """

    feature: Feature
    signature: m.Signature | None = None
    paths: Mapping[m.Side, m.Paths] = field(default_factory=dict)
    evidence: m.Evidence | None = None
    gains: Mapping[m.Side, float] = field(default_factory=dict)
    explanation: str = ""


@dataclass(frozen=True)
class CompareView:
    """The pinned feature, and that of the lists shown, which may be the previous one.

    `there` and `here` are the two, `None` without a pinned feature or without lists. `awaits` and
    `problem` are about the pinned feature's lists and the cosines. The rest is as in `ListsView`.
    """

    shown: Shown[m.Signature] = Shown()
    pinned: Feature | None = None
    there: Compared | None = None
    here: Compared | None = None
    cosines: m.PairCosines | None = None
    awaits: str = ""
    problem: str = ""
    look: TokenLook = TokenLook()
    k: int | None = None
    n_tokens: int = 0


@dataclass(frozen=True)
class HeadView:
    """The feature under the cursor, its marks, and its values in the table as the table says them.

    `feature` is `None` if there is none; `values` are by columns of the table's frame.
    """

    feature: Feature | None = None
    mark: Mark = field(default_factory=Mark)
    values: Mapping[str, str] = field(default_factory=dict)
