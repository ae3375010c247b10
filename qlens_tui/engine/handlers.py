"""What the engine does for each request: one call of the core, its result as an event.

One session is open at a time, or was released and is reopened by the next request
(`engine.session`). Interrupting and cancelling happen in `tick`, which long work calls with a
text, the amount done and the total. A new request is a class in `requests`, its answer a class
in `events`, and a method here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lens_core.errors import LensError, UsageError
from qlens_tui.engine import events, requests
from qlens_tui.engine.session import Holding, Opened, Tick

if TYPE_CHECKING:
    from lens_core.resemblance import PairCosines
    from lens_core.session import Session
    from lens_core.signature import Paths, Signature
    from lens_core.terms import Settings

LONGEST = 100
"""Tokens of a list that are sent, or `k` if that is more; how many are shown is up to the app."""
_TOKENS_AT_ONCE = 2048


class Answers:
    """Answers requests with the open session."""

    def __init__(self, tell: Callable[[events.Event], None], tick: Tick) -> None:
        self._tell = tell
        self._tick = tick
        self._holding = Holding(tell, tick)
        self._stage_before: Signature | None = None

    @property
    def idle_seconds(self) -> float | None:
        """Seconds without a request after which the model is released; `None`: never."""
        return self._holding.idle_seconds

    def release(self) -> events.Event:
        """Release the model; the next request loads it again."""
        self._holding.give_back()
        return events.Released()

    def keep(self, request: requests.Request, event: events.Event) -> None:
        """Keep what was answered on disk, for when the model is not there."""
        if isinstance(request, requests.OfFeature):
            self._opened.keeping.answered(request, event)

    def to(self, request: requests.Request) -> events.Event:
        """The event that answers `request`; of one in stages, its `stage`.

        Raises:
            LensError: it cannot be answered; the message is one line that says why.
        """
        if isinstance(request, requests.Open):
            return self._open(request)
        self._holding.resume(request)
        match request:
            case requests.DescribeLayer():
                return self._layer(request.id, request.layer)
            case requests.DescribeLayers():
                return self._layers(request)
            case requests.ReadVocabulary():
                return self._vocabulary(request)
            case requests.ComputeSignature():
                return self._signature(request)
            case requests.ComputeCosines():
                return self._cosines(request)
            case requests.ComputeComparison():
                return self._comparison(request)
            case requests.ComputePaths():
                return self._paths(request)
            case requests.ComputeBlockTokens():
                return self._block_tokens(request)
            case requests.ComputeEvidence():
                return self._evidence(request)
            case requests.ReadSample():
                return self._sample(request)
            case requests.Search():
                return self._search(request)
            case requests.ReadPrompt():
                return self._prompt(request)
            case requests.FindResembling():
                return self._resembling(request)
            case requests.Steer():
                return self._steered(request)
            case requests.Tabulate():
                return self._atlas(request)
            case requests.PlanBuild():
                return self._plan(request.id)
            case requests.Build():
                return self._build(request)
            case _:
                raise UsageError(f"the engine does not know {type(request).__name__}")

    @property
    def _opened(self) -> Opened:
        return self._holding.opened

    @property
    def _session(self) -> Session:
        return self._opened.session

    def _open(self, request: requests.Open) -> events.Event:
        self._holding.open(request)
        return self._ready(request.id)

    def _ready(self, id: int) -> events.Ready:
        from lens_core.report import session_facts

        ready = events.Ready(id=id, session=session_facts(self._session))
        self._opened.keeping.opened(ready)
        return ready

    def _layer(self, id: int, layer: int) -> events.LayerReady:
        from lens_core.report import layer_facts

        facts = layer_facts(self._session, layer)
        self._opened.described.add(layer)
        described = events.LayerReady(id=id, layer=facts)
        self._opened.keeping.described(described)
        return described

    def _layers(self, request: requests.DescribeLayers) -> events.Event:
        layers = self._session.lens.dictionaries.layers
        for done, layer in enumerate(layers):
            self._tick("loading dictionaries", done, len(layers))
            if layer not in self._opened.described:
                try:
                    self._tell(self._layer(request.id, layer))
                except LensError as error:  # the other layers may load
                    self._tell(events.Notice(id=request.id, text=f"layer {layer}: {error}"))
        return events.Done(id=request.id)

    def _vocabulary(self, request: requests.ReadVocabulary) -> events.Event:
        """Every token's string; what was read is kept if this is interrupted."""
        vocabulary, texts = self._session.lens.vocabulary, self._opened.texts
        while (start := len(texts)) < vocabulary.d_vocab:
            stop = min(start + _TOKENS_AT_ONCE, vocabulary.d_vocab)
            texts += vocabulary.texts(list(range(start, stop)))
            self._tick("reading the vocabulary", stop, vocabulary.d_vocab)
        return events.VocabularyReady(id=request.id, tokens=tuple(texts))

    def _signature(self, request: requests.ComputeSignature) -> events.Event:
        from lens_core.report import signature
        from lens_core.stages import at_stage, with_overlap

        session, layer, feature = self._session, request.layer, request.feature
        length = max(LONGEST, session.lens.k)

        def answer(settings: Settings) -> Signature:
            return signature(session, layer, feature, settings, length=length, bottom=True)

        found = at_stage(answer, request.settings, session, request.stage)
        found = with_overlap(found, self._stage_before, session.lens.k)
        self._stage_before = found
        return events.SignatureReady(id=request.id, signature=found, is_last=self._is_whole(found))

    def _cosines(self, request: requests.ComputeCosines) -> events.Event:
        from lens_core.report import cosines
        from lens_core.stages import at_stage

        session, one = self._session, (request.layer, request.feature)
        other = request.other_layer, request.other_feature

        def answer(settings: Settings) -> PairCosines:
            return cosines(session, one, other, settings)

        found = at_stage(answer, request.settings, session, request.stage)
        return events.CosinesReady(id=request.id, cosines=found, is_last=self._is_whole(found))

    def _comparison(self, request: requests.ComputeComparison) -> events.Event:
        from lens_core.report import comparison

        length = max(LONGEST, self._session.lens.k)
        found = comparison(
            self._session, request.layer, request.feature, request.settings, length=length
        )
        return events.ComparisonReady(id=request.id, comparison=found)

    def _paths(self, request: requests.ComputePaths) -> events.Event:
        from lens_core.report import paths
        from lens_core.stages import at_stage

        session, layer, feature = self._session, request.layer, request.feature

        def answer(settings: Settings) -> Paths:
            return paths(
                session, layer, feature, request.side, settings, split=request.split,
                block=request.block,
            )  # fmt: skip

        found = at_stage(answer, request.settings, session, request.stage)
        return events.PathsReady(id=request.id, paths=found, is_last=self._is_whole(found))

    def _is_whole(self, found: Signature | Paths | PairCosines) -> bool:
        """Whether this is over the whole reference, so that no further stage follows."""
        return found.n_tokens >= self._session.reference.n_tokens

    def _block_tokens(self, request: requests.ComputeBlockTokens) -> events.Event:
        side, layer, feature, block = request.side, request.layer, request.feature, request.block
        ids, tokens = self._session.lens.block_tokens(side, layer, feature, block)
        return events.BlockTokensReady(
            id=request.id, layer=layer, feature=feature, side=side, block=block, ids=ids,
            tokens=tokens,
        )  # fmt: skip

    def _evidence(self, request: requests.ComputeEvidence) -> events.Event:
        from lens_core.evidence_report import evidence, with_activations

        found = evidence(
            self._session,
            request.layer,
            request.feature,
            contexts=request.contexts,
            nearest=request.neighbours,
        )
        if request.stage:
            tick = self._tick
            found = with_activations(
                self._session, found, lambda: tick("reading the contexts", 0, 0)
            )
        return events.EvidenceReady(id=request.id, evidence=found, is_last=found.is_whole)

    def _sample(self, request: requests.ReadSample) -> events.Event:
        from lens_core.evidence_report import sample

        layer, feature, text = request.layer, request.feature, request.text
        found = sample(self._session, layer, feature, text, request.sample)
        return events.SampleReady(id=request.id, sample=found)

    def _search(self, request: requests.Search) -> events.Event:
        from lens_core.search_report import search

        found = search(
            self._session,
            request.query,
            side=request.side,
            lens=request.lens,
            layers=request.layers,
            n=request.n,
            by=request.by,
            tick=self._tick,
        )
        return events.SearchReady(id=request.id, found=found)

    def _prompt(self, request: requests.ReadPrompt) -> events.Event:
        from lens_core.report import prompt

        found = prompt(
            self._session, request.layer, request.text, feature=request.feature, n=request.n
        )
        return events.PromptReady(id=request.id, prompt=found)

    def _resembling(self, request: requests.FindResembling) -> events.Event:
        from lens_core.report import resembling

        found = resembling(
            self._session, request.layer, request.feature, request.likeness, n=request.n,
            tick=self._tick,
        )  # fmt: skip
        return events.ResemblingReady(id=request.id, found=found)

    def _steered(self, request: requests.Steer) -> events.Event:
        from lens_core.report import signature
        from lens_core.steered_report import steered

        found = signature(self._session, request.layer, request.feature, self._session.settings)
        tick = self._tick
        raised = steered(self._session, found, lambda: tick("steering", 0, 0))
        return events.SteeredReady(id=request.id, found=raised)

    def _atlas(self, request: requests.Tabulate) -> events.Event:
        from lens_core.atlas.atlas import atlas_layer

        found = atlas_layer(
            self._session.lens,
            request.layer,
            self._session.cache,
            progress=lambda done, total: self._tick("tabulating", done, total),
        )
        return events.AtlasReady(id=request.id, layer=request.layer, directory=str(found.directory))

    def _plan(self, id: int) -> events.Event:
        from lens_core.building import begin_build, build_facts

        facts = build_facts(self._session, begin_build(self._session))
        return events.BuildPlanned(id=id, plan=facts)

    def _build(self, request: requests.Build) -> events.Event:
        from lens_core.building import begin_build, compute, join

        session, tick = self._session, self._tick
        compute(session, begin_build(session), progress=lambda *of: tick("building operators", *of))
        join(session, lambda done, total: tick("writing operators", done, total))
        self._opened.described.clear()  # the layers' operators changed
        self._ready(request.id)  # and so did the session's content
        return events.Built(id=request.id, directory=str(self._session.operators_directory))
