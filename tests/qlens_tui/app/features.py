"""Features that never were, as the engine would tell of them, and a stage to show panes on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from textual import on
from textual.app import App, ComposeResult
from textual.message import Message
from textual.widget import Widget

from lens_core.terms import MEASURES
from qlens_tui.app.widgets.evidence_pane import EvidencePane, WhatIsKnown
from qlens_tui.app.widgets.paths_grid import PathsGrid
from qlens_tui.app.widgets.token_pane import TokenPane
from qlens_tui.engine.messages import (
    Context,
    Evidence,
    Lists,
    Neighbour,
    Paths,
    PathShare,
    Settings,
    Side,
    SideSignature,
    Signature,
    TokenList,
    Transition,
)
from tests.qlens_tui.app.terminal import Terminal, leaks

SIZES = [(80, 24), (160, 48)]
LAYERS = 30
LOGIT = ("thood", "ondyl", " ometown", "tertiary", " dry")
QUERY = (" dry", "Dry", " wildflowers", " dried", "\n")
FIRST = ("lyn", " dry", "ymour", "qq", "\t")


def tokens(words: Sequence[str], k: int, *, base: float, unit: bool, moved: int = 0) -> TokenList:
    """`k` tokens of these words in turn; the same word has the same id in every list."""
    known = [*LOGIT, *QUERY, *FIRST]
    ids = [known.index(w) if w in known else 1000 + i for i, w in enumerate(words)]
    scores = tuple(base - i / 8 for i in range(k))
    readout = ("embed_centered_cosine" if moved else "embed") if unit else "unembed"
    return TokenList(
        readout,
        MEASURES[readout],
        tuple(i + 100 * turn for turn in range(k) for i in ids)[:k],
        tuple(islice(cycle(words), k)),
        scores,
        tuple(score / 100 for score in scores) if unit else None,
        tuple(moved * (i + 1) for i in range(k)),
    )


def one_side(
    words: Sequence[str] | None = None, *, k: int = 25, unit: bool = False
) -> SideSignature:
    def lists(base: float) -> Lists:
        return Lists(
            {
                "logit": tokens(words or LOGIT, k, base=base, unit=unit),
                "query": tokens(words or QUERY, k, base=base + 10, unit=unit, moved=311),
                "first-order": tokens(words or FIRST, k, base=base + 1, unit=unit, moved=-7),
            }
        )

    return SideSignature(lists(5), lists(-50), 4.25, 9.5, 0.86, None)


def signature(
    layer: int = 6,
    feature: int = 35,
    *,
    words: Sequence[str] | None = None,
    k: int = 25,
    off: tuple[int, ...] = (),
) -> Signature:
    return Signature(
        layer=layer,
        feature=feature,
        method="direct" if off else "operator",
        operators="shipped",
        settings=Settings(off=frozenset(off)),
        n_tokens=512,
        value=one_side(words, k=k),
        key=one_side(words, k=k, unit=True),
    )


def name_of(block: int) -> str:
    return f"{'mlp' if block % 2 else 'attn'}.{block // 2}"


def paths(
    side: Side,
    layer: int = 6,
    feature: int = 35,
    *,
    layers: int = LAYERS,
    off: tuple[int, ...] = (),
    transition: Transition = "full",
    words: Sequence[str] = QUERY,
) -> Paths:
    """Of an MLP neuron: into the key up to the layer's attention, out of the value after its MLP.

    Block `k` has a share of `(-1)**k * k / 100`.
    """
    way = range(2 * layer + 2, 2 * layers) if side == "value" else range(2 * layer + 1)
    ids = tuple(range(len(words)))
    rows = [PathShare("direct", 0.125, True, ids, tuple(words))]
    rows += [
        PathShare(name_of(k), (-1) ** k * k / 100, k not in off, ids, tuple(words)) for k in way
    ]
    if side == "value":
        rows.append(PathShare("bias", -0.01, True, (), ()))
    return Paths(
        layer=layer,
        feature=feature,
        side=side,
        settings=Settings(off=frozenset(off), transition=transition),
        method="operator",
        n_tokens=512,
        split="last-writer" if off else "first-reader",
        rows=tuple(rows),
    )


def evidence(
    layer: int = 6, feature: int = 35, *, silent: bool = False, words: Sequence[str] = QUERY
) -> WhatIsKnown:
    contexts = tuple(
        Context(i, 3 * i, 8.0 - i, 7, (words[0], words[1]), words[i % len(words)], (words[2],))
        for i in range(0 if silent else 12)
    )
    return WhatIsKnown(
        Evidence(
            layer=layer,
            feature=feature,
            density=0.0 if silent else 0.25,
            max_activation=0.0 if silent else 8.0,
            n_tokens=512,
            contexts=contexts,
            by_key=tuple(Neighbour(layer, 100 + i, 0.9 - i / 10) for i in range(3)),
            by_value=tuple(Neighbour(layer, 200 + i, 0.8 - i / 10) for i in range(3)),
        ),
        signature(layer, feature),
        {(layer, 100): tuple(words[:3])},
        (("model", words[0]), ("reference", "16 x 32 tokens")),
    )


class Stage(App[None]):
    """Shows some panes and hears what they say."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, *panes: Widget) -> None:
        super().__init__()
        self.panes = panes
        self.heard: list[Message] = []

    def compose(self) -> ComposeResult:
        yield from self.panes

    @on(TokenPane.LookChanged)
    @on(PathsGrid.BlocksToggled)
    @on(PathsGrid.TransitionChosen)
    @on(PathsGrid.BlockFocused)
    @on(EvidencePane.FeatureChosen)
    def hear(self, message: Message) -> None:
        self.heard.append(message)

    @property
    def painted(self) -> list[str]:
        """The lines on the screen, as they were last rendered: what was not repainted is old."""
        return [
            "".join(segment.text for segment in strip)
            for strip in self.screen._compositor.render_strips()
        ]


def leaked(terminal: Terminal) -> set[str]:
    """What no text may bring to a terminal, Textual's own choice of a mouse pointer left out."""
    return leaks(terminal.written.replace("\x1b]22;default\x07", ""))
