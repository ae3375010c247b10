"""Made-up features in the engine's form, and an app to show panes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

from textual import on
from textual.app import App, ComposeResult
from textual.message import Message
from textual.widget import Widget

from lens_core.terms import MEASURES, Switch, block_of, in_order, on_path, splits
from qlens_tui.app.views import (
    SIDES,
    AgainstAllOn,
    BlockTokens,
    EvidenceView,
    HeadShares,
    ListsView,
    PathsView,
    Shown,
    SideShares,
    TokenLook,
)
from qlens_tui.app.widgets.evidence_pane import EvidencePane
from qlens_tui.app.widgets.paths_grid import PathsGrid
from qlens_tui.app.widgets.token_pane import TokenPane
from qlens_tui.engine import messages as m
from qlens_tui.engine.messages import (
    Comparison,
    Context,
    Evidence,
    ListChange,
    Lists,
    Neighbour,
    Paths,
    PathShare,
    RankedToken,
    Settings,
    Side,
    SideComparison,
    SideSignature,
    Signature,
    Split,
    TextFacts,
    TokenList,
    Transition,
)
from tests.qlens_tui.app.terminal import Terminal, leaks

SIZES = [(80, 24), (160, 48)]
LAYERS = 30
HEADS = 3
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
    words: Sequence[str] | None = None,
    *,
    k: int = 25,
    unit: bool = False,
    operators: m.OperatorSource = "shipped",
) -> SideSignature:
    def lists(base: float) -> Lists:
        return Lists(
            {
                "logit": tokens(words or LOGIT, k, base=base, unit=unit),
                "query": tokens(words or QUERY, k, base=base + 10, unit=unit, moved=311),
                "first-order": tokens(words or FIRST, k, base=base + 1, unit=unit, moved=-7),
            }
        )

    return SideSignature(lists(5), lists(-50), 4.25, 9.5, 0.86, None, 512, operators)


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
        value=one_side(words, k=k, operators="none" if off else "shipped"),
        key=one_side(words, k=k, operators="none" if off else "shipped", unit=True),
    )


def name_of(block: int) -> str:
    return f"{'mlp' if block % 2 else 'attn'}.{block // 2}"


def paths(
    side: Side,
    layer: int = 6,
    feature: int = 35,
    *,
    layers: int = LAYERS,
    off: Iterable[Switch] = (),
    transition: Transition = "full",
    words: Sequence[str] = QUERY,
    split: Split | None = None,
    block: int | None = None,
) -> Paths:
    """Of an MLP neuron: into the key up to the layer's attention, out of the value after its MLP.

    Block `k` has a share of `(-1)**k * k / 100`, head `i` of `block` one of `i / 100`.
    """
    way = range(2 * layer + 2, 2 * layers) if side == "value" else range(2 * layer + 1)
    ids = tuple(range(len(words)))
    overlap = 0.5 if split == "ablation" else None
    rows = [
        PathShare(name_of(k), (-1) ** k * k / 100, k not in off, ids, tuple(words), overlap)
        for k in way
    ]
    if block is not None:
        rows = [
            PathShare(
                f"{name_of(block)}.h{i}", i / 100, (block, i) not in off, ids, tuple(words), overlap
            )
            for i in range(HEADS)
        ]
    elif split != "ablation":
        rows.insert(0, PathShare("direct", 0.125, True, ids, tuple(words)))
    if side == "value" and split != "ablation" and block is None:
        rows.append(PathShare("bias", -0.01, True, (), ()))
    return Paths(
        layer=layer,
        feature=feature,
        side=side,
        settings=Settings(off=frozenset(off), transition=transition),
        method="operator",
        n_tokens=512,
        split=split or splits(transition, any_off=bool(off))[0],
        rows=tuple(rows),
        block=None if block is None else name_of(block),
    )


def comparison(
    layer: int = 6,
    feature: int = 35,
    *,
    settings: Settings = Settings(off=frozenset({20})),  # noqa: B008
    layers: int = LAYERS,
    k: int = 5,
    words: Sequence[str] = QUERY,
) -> Comparison:
    """Of an MLP neuron: every token rose by its rank, the second came in, and the last left.

    The score with all on is that of no other feature.
    """

    def change(words: Sequence[str], moved: int) -> ListChange:
        ids = tokens(words, 25, base=0, unit=False).ids
        moves = tuple(moved * (i + 1) for i in range(25))
        came_in = (RankedToken(ids[1], words[1], 2, 2 + moves[1]),)
        left = tuple(RankedToken(i, word, 30, 3) for i, word in zip(ids, words, strict=False))
        score = 1000.0 * layer + feature + 1
        return ListChange(ids, moves, came_in, left, score * 0.75, score)

    def side(way: range) -> SideComparison | None:
        off = tuple(in_order(on_path(settings.off, way)))
        lists = {"query": change(words, 1), "first-order": change(FIRST, -1)}
        return SideComparison(off, k, 512, "shipped", lists, lists) if off else None

    value, key = range(2 * layer + 2, 2 * layers), range(2 * layer + 1)
    return Comparison(layer, feature, settings, side(value), side(key))


def context(number: int, activation: float, words: Sequence[str]) -> Context:
    token = words[number % len(words)]
    around = (0.0, 0.4 * activation, activation, None)
    return Context(number, 3, activation, 7, (words[0], words[1]), token, (words[2],), around)


def found(
    layer: int = 6, feature: int = 35, *, silent: bool = False, words: Sequence[str] = QUERY
) -> Evidence:
    contexts = tuple(context(i, 8.0 - i / 2, words) for i in range(0 if silent else 12))
    quarters = tuple(() if silent else (context(20 + i, 2.0 * i + 1.5, words),) for i in range(4))
    return Evidence(
        layer=layer,
        feature=feature,
        text=TextFacts(True, "made up", 16, 32, 512, "0" * 64),
        density=0.0 if silent else 0.25,
        max_activation=0.0 if silent else 8.0,
        contexts=contexts,
        quarters=quarters,
        histogram=() if silent else (64, 32, 16, 8, 4, 2, 1, 1),
        bin_width=1.0,
        by_key=tuple(Neighbour(layer, 100 + i, 0.9 - i / 10) for i in range(3)),
        by_value=tuple(Neighbour(layer, 200 + i, 0.8 - i / 10) for i in range(3)),
    )


def evidence(
    layer: int = 6, feature: int = 35, *, silent: bool = False, words: Sequence[str] = QUERY
) -> EvidenceView:
    """Evidence that is asked for."""
    return EvidenceView(
        Shown(
            (layer, feature), (layer, feature), found(layer, feature, silent=silent, words=words)
        ),
        signature(layer, feature),
        {(layer, 100): tuple(words[:3])},
    )


class Stage(App[None]):
    """Shows some panes, records their messages, and gives them what they ask for."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, *panes: Widget) -> None:
        super().__init__()
        self.panes = panes
        self.heard: list[Message] = []

    def compose(self) -> ComposeResult:
        yield from self.panes

    @on(TokenPane.LookChanged)
    def look(self, message: TokenPane.LookChanged) -> None:
        self.heard.append(message)
        message.pane.draw(replace(message.pane.view, look=message.look))

    @on(EvidencePane.ContextChosen)
    def context(self, message: EvidencePane.ContextChosen) -> None:
        self.heard.append(message)

    @on(PathsGrid.BlocksToggled)
    def toggle(self, message: PathsGrid.BlocksToggled) -> None:
        self.heard.append(message)
        view = message.grid.view
        shown = shares_view(*of(view), off=message.off, transition=view.transition)
        message.grid.draw(replace(shown, heads=view.heads))

    @on(PathsGrid.TransitionChosen)
    def carry(self, message: PathsGrid.TransitionChosen) -> None:
        self.heard.append(message)
        view = message.grid.view
        message.grid.draw(shares_view(*of(view), off=view.off, transition=message.transition))

    @on(PathsGrid.SharesChosen)
    def shares(self, message: PathsGrid.SharesChosen) -> None:
        self.heard.append(message)
        view, block = message.grid.view, message.heads
        there = tuple(paths(each.side, split=message.split) for each in of(view))
        shown = shares_view(*there, off=view.off, transition=view.transition)
        heads = None
        if block is not None:
            found = paths("value", split=message.split, block=block, off=tuple(view.off))
            heads = HeadShares(block, SideShares(found))
        message.grid.draw(replace(shown, split=message.split, heads=heads))

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


def of(view: PathsView) -> tuple[Paths, ...]:
    """The shares that a view is of."""
    return tuple(each.paths for each in view.sides.values() if each.paths is not None)


def lists_view(
    of: Signature | None = None,
    *,
    asked: tuple[int, int] | None = None,
    late: bool = False,
    awaits: str = "",
    problem: str = "",
    look: TokenLook | None = None,
    against: AgainstAllOn | None = None,
) -> ListsView:
    """These lists, by default those that are asked for."""
    feature = None if of is None else (of.layer, of.feature)
    shown = Shown(asked or feature, feature, of, late, awaits, problem)
    return ListsView(shown, look or TokenLook(), range(14, 60), against=against)


def shares_view(
    *of: Paths,
    asked: tuple[int, int] | None = None,
    off: Iterable[Switch] = (),
    transition: Transition = "full",
    late: bool = False,
    awaits: str = "computing",
    problems: Mapping[Side, str] | None = None,
    layers: int = LAYERS,
    block: BlockTokens | None = None,
) -> PathsView:
    """These shares, where `off` and `transition` are asked for; `late`: of another feature."""
    feature = (of[0].layer, of[0].feature) if of else None
    there = {each.side: each for each in of}
    failed = problems or {}

    def side_of(side: Side) -> SideShares:
        paths, problem = there.get(side), failed.get(side, "")
        blocks = {row.block for row in paths.rows} if paths is not None else set()
        own = {each for each in off if name_of(block_of(each)) in blocks}
        is_asked = (
            paths is not None
            and (asked is None or asked == feature)
            and (paths.settings.transition, {*paths.settings.off}) == (transition, own)
        )
        waits = "" if is_asked or problem else awaits
        is_late = late or (not is_asked and asked in (None, feature))
        return SideShares(paths, is_late, waits, problem)

    sides: dict[Side, SideShares] = {side: side_of(side) for side in SIDES}
    waits = next((each.awaits for each in sides.values() if each.awaits), "")
    problem = failed.get("value", "") if len(failed) == 2 else ""
    shown = Shown(asked or feature, feature, there or None, late, waits, problem)
    n_heads = (HEADS, 0) * layers
    return PathsView(shown, sides, layers, frozenset(off), transition, block, n_heads=n_heads)


def leaked(terminal: Terminal) -> set[str]:
    """Sequences that text must not send to a terminal, except Textual's mouse pointer."""
    return leaks(terminal.written.replace("\x1b]22;default\x07", ""))


def ready(layers: tuple[int, ...], n_layers: int, **facts: Any) -> m.SessionFacts:
    """A session on a model of so many layers, with dictionaries at some."""
    found = m.SessionFacts(
        config="c", content="c", model="tiny", model_fingerprint="f", n_layers=n_layers,
        d_model=8, d_vocab=10, k=5, device="cpu", dtype="float32",
        blocks=tuple(map(name_of, range(2 * n_layers))),
        layers=layers, dictionary_kind="sae", operators="built", heads=(HEADS, 0) * n_layers,
        reference=m.ReferenceFacts(1, 1, 512, "s", "o", 0, 0), settings=Settings(), cache="x",
    )  # fmt: skip
    return replace(found, **facts)


def layer_of(layer: int, n_layers: int, **facts: Any) -> m.LayerFacts:
    """The dictionary of a layer, of an MLP's neurons."""
    found = m.LayerFacts(
        layer=layer, dictionary=f"d{layer}", sha256=f"s{layer}", n_features=20, operators="built",
        value_blocks=(2 * layer + 2, 2 * n_layers), key_blocks=(0, 2 * layer + 1), provenance={},
        atlas=None,
    )  # fmt: skip
    return replace(found, **facts)


def answer_to(
    request: m.Request, number: int = 0, n_layers: int = LAYERS, n_tokens: int = 512
) -> m.Event:
    """A possible answer of the engine; shares come without tokens, which are then asked for."""
    match request:
        case m.ComputeSignature(layer=layer, feature=feature, settings=settings):
            of = replace(signature(layer, feature), settings=settings)
            return m.SignatureReady(id=number, signature=replace(of, n_tokens=n_tokens))
        case m.ComputeCosines(layer=layer, feature=feature, settings=settings):
            alike = m.SideCosines(layer / 8, feature / 64)
            other = request.other_layer, request.other_feature
            pair = m.PairCosines(layer, feature, *other, settings, n_tokens, alike, alike)
            return m.CosinesReady(id=number, cosines=pair)
        case m.ComputeComparison(layer=layer, feature=feature, settings=settings):
            of_switches = comparison(layer, feature, settings=settings, layers=n_layers, k=n_tokens)
            return m.ComparisonReady(id=number, comparison=of_switches)
        case m.ComputePaths(layer=layer, feature=feature, side=side, settings=settings):
            off, transition, split = settings.off, settings.transition, request.split
            shares = paths(
                side, layer, feature, layers=n_layers, words=(), off=off, transition=transition,
                split=split, block=request.block,
            )  # fmt: skip
            shares = replace(shares, settings=settings, n_tokens=n_tokens)
            return m.PathsReady(id=number, paths=shares, is_last=not request.ahead)
        case m.ComputeBlockTokens(layer=layer, feature=feature, side=side, block=block):
            return m.BlockTokensReady(
                id=number, layer=layer, feature=feature, side=side, block=block, ids=(1,),
                tokens=(f"{layer}:{feature} {block}",),
            )  # fmt: skip
        case m.ComputeEvidence(layer=layer, feature=feature):
            of_feature = found(layer, feature)
            text = replace(of_feature.text, n_tokens=n_tokens)
            return m.EvidenceReady(id=number, evidence=replace(of_feature, text=text))
        case _:
            raise AssertionError(f"no answer to {request}")
