"""What a pane is given to draw: whose numbers, whether they are the asked ones, what is awaited.

Frozen, and complete: a pane that draws its view and keeps nothing but its scroll and cursor
cannot show one feature's numbers as another's. `state` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from qlens_tui.engine import messages as m

Feature = tuple[int, int]
"""Layer, and number within the layer."""

SIDES: tuple[m.Side, m.Side] = ("value", "key")

End = Literal["top", "bottom"]

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Shown(Generic[Answer]):
    """An answer, and how it stands to the question.

    `asked` is the feature under the cursor (`None`: there is none), `of` the one that `answer`
    is of. `late`: they, or the settings, differ, and have for so long that the answer is to be
    grey. `awaits` is what is being done for the asked answer, empty where none is to come;
    `problem` is why there is none.
    """

    asked: Feature | None = None
    of: Feature | None = None
    answer: Answer | None = None
    late: bool = False
    awaits: str = ""
    problem: str = ""


@dataclass(frozen=True)
class TokenLook:
    """How lists are shown; the same for both sides, and kept between sessions.

    `lenses` are fields of `lens_core.lenses`, `None` for Logit Lens and Query Lens, with the
    others where there is room; `length` is the most tokens of a list, `None` for all there are.
    """

    end: End = "top"
    ids: bool = False
    lenses: tuple[str, ...] | None = None
    length: int | None = None


@dataclass(frozen=True)
class ListsView:
    """One side's token lists.

    `blocks` are those on its way, `None` where that is not known; `note` is what else is to be
    said of the vector, such as which of two keys it is.
    """

    shown: Shown[m.Signature] = Shown()
    look: TokenLook = TokenLook()
    blocks: range | None = None
    note: str = ""


@dataclass(frozen=True)
class SideShares:
    """One side's shares as far as they are there; `late` as in `Shown`, `awaits` and `problem` too.

    Of a feature's own shares by other switches `late` is true at once: a switch shows at once.
    """

    paths: m.Paths | None = None
    late: bool = False
    awaits: str = ""
    problem: str = ""


@dataclass(frozen=True)
class BlockTokens:
    """The tokens of one block of the asked feature, where they did not come with its share."""

    block: int
    tokens: tuple[str, ...] = ()
    awaits: str = ""
    problem: str = ""


@dataclass(frozen=True)
class PathsView:
    """Both sides' shares, all of one feature; `off` and `transition` are what is asked for."""

    shown: Shown[Mapping[m.Side, m.Paths]] = Shown()
    sides: Mapping[m.Side, SideShares] = field(default_factory=dict)
    n_layers: int = 0
    off: frozenset[int] = frozenset()
    transition: m.Transition = "full"
    block: BlockTokens | None = None


@dataclass(frozen=True)
class EvidenceView:
    """A feature's contexts and neighbours, with what the app knows of it beside.

    `labels` are tokens that tell neighbours apart, by layer and feature; `provenance` are
    lines of a label and a text; `atlas_stability` is that of the table's lists, in words.
    """

    shown: Shown[m.Evidence] = Shown()
    signature: m.Signature | None = None
    labels: Mapping[Feature, tuple[str, ...]] = field(default_factory=dict)
    provenance: tuple[tuple[str, str], ...] = ()
    atlas_stability: str = ""
