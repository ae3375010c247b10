"""What the engine does for each request: calls of `lens_core`, and their results as messages.

One session is open at a time, or was given back and is opened again by whoever needs it
(`engine_session`). Nothing here is cut into slices or cancelled: that happens in `tick`, which
long work calls with what it does, how much is done, and of how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import starmap
from typing import TYPE_CHECKING, cast

from lens_core.errors import LensError, UsageError
from qlens_tui.engine import messages as m
from qlens_tui.engine.session import Holding, Opened, Tick

if TYPE_CHECKING:
    from lens_core.carry import Settings
    from lens_core.lens import PathShare, QueryLens, SideSignature, TokenList
    from lens_core.session import Session

_BEFORE, _AFTER = 16, 8  # tokens of a context on either side
_TOKENS_AT_ONCE = 2048


class Answers:
    """Answers requests about one session."""

    def __init__(self, tell: Callable[[m.Event], None], tick: Tick) -> None:
        self._tell = tell
        self._tick = tick
        self._holding = Holding(tell, tick)

    @property
    def idle_seconds(self) -> float | None:
        """How long nobody must ask until the model is to be given back; `None`: for ever."""
        return self._holding.idle_seconds

    def release(self) -> m.Event:
        """Give the model back; whoever asks next waits for it again."""
        self._holding.give_back()
        return m.Released()

    def to(self, request: m.Request) -> m.Event:
        """The event that answers `request`.

        Raises:
            LensError: it cannot be answered; the message says why in one line.
        """
        if not isinstance(request, m.Open):
            self._holding.resume(request)
        match request:
            case m.Open():
                return self._open(request)
            case m.DescribeLayer():
                return self._layer(request.id, request.layer)
            case m.DescribeLayers():
                return self._layers(request)
            case m.ReadVocabulary():
                return m.Vocabulary(id=request.id, tokens=tuple(self._all_texts()))
            case m.Sign():
                return self._signature(request)
            case m.Split():
                return self._paths(request)
            case m.Favour():
                return self._favoured(request)
            case m.Examine():
                return self._evidence(request)
            case m.Search():
                return self._search(request)
            case m.Probe():
                return self._probed(request)
            case m.Tabulate():
                return self._atlas(request)
            case m.Build():
                return self._build(request)
            case _:
                raise UsageError(f"the engine has no answer to {type(request).__name__}")

    @property
    def _opened(self) -> Opened:
        return self._holding.opened

    @property
    def _session(self) -> Session:
        return self._opened.session

    def _open(self, request: m.Open) -> m.Event:
        session = self._holding.open(request).session
        from lens_core.terms import block_names

        model, reference = session.model, session.reference
        return m.Ready(
            id=request.id,
            config=str(session.config.path),
            model=model.name,
            model_fingerprint=model.fingerprint,
            n_layers=model.n_layers,
            d_model=model.d_model,
            d_vocab=model.d_vocab,
            k=session.lens.k,
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            blocks=tuple(block_names(range(model.n_blocks))),
            layers=session.lens.dictionaries.layers,
            dictionary_kind=session.config.dictionary.kind,
            operators=self._origin(),
            reference=m.Reference(
                samples=reference.samples,
                length=reference.length,
                n_tokens=reference.n_tokens,
                sha256=reference.sha256,
                origin=reference.origin,
                skip_first=reference.skip_first,
                skip_last=reference.skip_last,
            ),
            settings=_settings_message(session.settings),
            cache=str(session.cache),
        )

    def _origin(self, layer: int | None = None) -> m.OperatorsFrom:
        """Where the operators come from: of any dictionary, or those that answer for a layer's."""
        transport = self._session.lens.transport
        if transport.operators is None:
            return "none"
        if layer is not None and not transport.has_operators(self._session.lens.dictionary(layer)):
            return "none"
        return cast(m.OperatorsFrom, transport.operators.origin)

    def _layer(self, id: int, layer: int) -> m.Layer:
        from lens_core.atlas.atlas import atlas_fingerprint
        from lens_core.atlas.files import find_layer

        session = self._session
        lens = session.lens
        dictionary = lens.dictionary(layer)
        operators = self._origin(layer)
        atlas = None
        if operators != "none":
            atlas = find_layer(session.cache, atlas_fingerprint(lens, layer))
        ways = [lens.transport.path(side, dictionary) for side in ("value", "key")]
        self._opened.described.add(layer)
        return m.Layer(
            id=id,
            layer=layer,
            dictionary=dictionary.name,
            sha256=dictionary.sha256,
            n_features=dictionary.n_features,
            operators=operators,
            value_blocks=(ways[0].start, ways[0].stop),
            key_blocks=(ways[1].start, ways[1].stop),
            provenance={name: str(fact) for name, fact in dictionary.provenance.items()},
            atlas=None if atlas is None else str(atlas.directory),
        )

    def _layers(self, request: m.DescribeLayers) -> m.Event:
        layers = self._session.lens.dictionaries.layers
        for done, layer in enumerate(layers):
            self._tick("loading dictionaries", done, len(layers))
            if layer not in self._opened.described:
                try:
                    self._tell(self._layer(request.id, layer))
                except LensError as error:  # of one layer; the others may be fine
                    self._tell(m.Notice(id=request.id, text=f"layer {layer}: {error}"))
        return m.Done(id=request.id)

    def _lens(self, k: int | None) -> QueryLens:
        lens = self._session.lens
        if k is None or k == lens.k:
            return lens
        if k < 1:
            raise UsageError(f"lists of {k} tokens are none: ask for at least 1")
        return self._opened.lenses.setdefault(k, lens.with_k(k))

    def _signature(self, request: m.Sign) -> m.Event:
        lens = self._lens(request.k)
        settings = _settings(request.settings, self._session.model.n_blocks)
        found = lens.signature(request.layer, request.feature, settings, bottom=True)
        return m.Signature(
            id=request.id,
            layer=request.layer,
            feature=request.feature,
            method=found.method,
            operators=self._origin(request.layer),
            settings=request.settings,
            n_tokens=self._session.reference.n_tokens,
            value=_side(found.value),
            key=_side(found.key),
        )

    def _paths(self, request: m.Split) -> m.Event:
        lens = self._lens(request.k)
        settings = _settings(request.settings, self._session.model.n_blocks)
        split, rows = lens.paths(request.side, request.layer, request.feature, settings)
        return m.Paths(
            id=request.id,
            layer=request.layer,
            feature=request.feature,
            side=request.side,
            settings=request.settings,
            method=lens.transport.method(lens.dictionary(request.layer), settings),
            n_tokens=self._session.reference.n_tokens,
            split=split,
            rows=tuple(map(_path_row, rows)),
        )

    def _favoured(self, request: m.Favour) -> m.Event:
        side, layer, feature, block = request.side, request.layer, request.feature, request.block
        ids, tokens = self._session.lens.block_tokens(side, layer, feature, block)
        return m.Favoured(
            id=request.id, layer=layer, feature=feature, side=side, block=block, ids=ids,
            tokens=tokens,
        )  # fmt: skip

    def _evidence(self, request: m.Examine) -> m.Event:
        layer, feature, lens = request.layer, request.feature, self._session.lens
        dictionary = lens.dictionary(layer, feature)
        found = lens.activity(layer)
        places = zip(
            found.top_samples[feature].tolist(),
            found.top_positions[feature].tolist(),
            found.top_activations[feature].tolist(),
            strict=True,
        )
        contexts = [self._context(*place) for place in places if place[0] >= 0]
        from lens_core.neighbours import neighbours

        def nearest(side: m.Side) -> tuple[m.Neighbour, ...]:
            ids, cosines = neighbours(dictionary, feature, side, max(0, request.neighbours))
            pairs = zip(ids.tolist(), cosines.tolist(), strict=True)
            return tuple(m.Neighbour(layer, other, cosine) for other, cosine in pairs)

        density = float(found.density[feature])
        return m.Evidence(
            id=request.id,
            layer=layer,
            feature=feature,
            silent=density == 0,
            density=density,
            max_activation=float(found.max_activation[feature]),
            n_tokens=self._session.reference.n_tokens,
            contexts=tuple(contexts[: max(0, request.contexts)]),
            by_key=nearest("key"),
            by_value=nearest("value"),
        )

    def _context(self, sample: int, position: int, activation: float) -> m.Context:
        ids = self._session.reference.tokens[sample].tolist()
        first = max(0, position - _BEFORE)
        texts = self._session.lens.vocabulary.texts(ids[first : position + 1 + _AFTER])
        return m.Context(
            sample=sample,
            position=position,
            activation=activation,
            token_id=ids[position],
            before=tuple(texts[: position - first]),
            token=texts[position - first],
            after=tuple(texts[position - first + 1 :]),
        )

    def _search(self, request: m.Search) -> m.Event:
        lens = self._session.lens
        token = lens.vocabulary.text(lens.vocabulary.check(request.token_id))
        layers = lens.dictionaries.layers if request.layers is None else request.layers
        hits: list[m.Hit] = []
        n = max(1, request.n)
        for done, layer in enumerate(layers):
            self._tick("searching", done, len(layers))
            frame = lens.search(
                request.token_id,
                side=request.side,
                lens=request.lens,
                layers=[layer],
                n=n,
            )
            beside = self._query_scores(request, layer, frame["feature"].to_list())
            hits += map(m.Hit, *frame.get_columns(), beside)
        hits.sort(key=lambda hit: (-hit.score, hit.layer, hit.feature))
        hits = hits[:n]
        ranks = self._ranks(request, hits)
        return m.Found(
            id=request.id,
            token_id=request.token_id,
            token=token,
            side=request.side,
            lens=request.lens,
            hits=tuple(replace(hit, rank=ranks[hit.layer, hit.feature]) for hit in hits),
        )

    def _ranks(self, request: m.Search, hits: Sequence[m.Hit]) -> dict[tuple[int, int], int]:
        from lens_core.search import ranks_among

        lens = self._session.lens
        found: dict[tuple[int, int], int] = {}
        for layer in dict.fromkeys(hit.layer for hit in hits):
            features = [hit.feature for hit in hits if hit.layer == layer]
            dictionary = lens.dictionaries[layer]
            ranks = ranks_among(
                lens, dictionary, features, request.token_id, request.side, request.lens
            )
            found.update(zip(((layer, each) for each in features), ranks.tolist(), strict=True))
        return found

    def _query_scores(
        self, request: m.Search, layer: int, features: list[int]
    ) -> list[float | None]:
        """Query Lens's scores of what Logit Lens found, where operators are at hand."""
        from lens_core.search import scores_among

        lens = self._session.lens
        dictionary = lens.dictionaries[layer]
        if request.lens != "logit" or not lens.transport.has_operators(dictionary):
            return [None] * len(features)
        scores = scores_among(lens, dictionary, features, request.token_id, request.side, "query")
        return list(scores.tolist())

    def _probed(self, request: m.Probe) -> m.Event:
        from lens_core.firing import firing, prompt_tokens

        session, lens = self._session, self._session.lens
        bos = session.config.reference.prepend_bos
        found = firing(
            session.model,
            lens.dictionary(request.layer, request.feature or 0),
            tokens := prompt_tokens(request.text, session.model.tokenizer, prepend_bos=bos),
            top=max(1, request.n),
            feature=request.feature,
        )
        rows = zip(found.top_features.tolist(), found.top_activations.tolist(), strict=True)
        activations = found.activations
        ids = tokens.tolist()
        return m.Probed(
            id=request.id,
            layer=request.layer,
            text=request.text,
            feature=request.feature,
            bos=bos,
            ids=tuple(ids),
            tokens=tuple(lens.vocabulary.texts(ids)),
            strongest=tuple(starmap(_firing, rows)),
            activations=None if activations is None else tuple(activations.tolist()),
        )

    def _all_texts(self) -> list[str]:
        """Every token's string; what was read stays when this is stopped on the way."""
        vocabulary, texts = self._session.lens.vocabulary, self._opened.texts
        while (start := len(texts)) < vocabulary.d_vocab:
            stop = min(start + _TOKENS_AT_ONCE, vocabulary.d_vocab)
            texts += vocabulary.texts(list(range(start, stop)))
            self._tick("reading the vocabulary", stop, vocabulary.d_vocab)
        return texts

    def _atlas(self, request: m.Tabulate) -> m.Event:
        from lens_core.atlas.atlas import atlas_layer

        found = atlas_layer(
            self._session.lens,
            request.layer,
            self._session.cache,
            progress=lambda done, total: self._tick("tabulating", done, total),
        )
        return m.AtlasReady(id=request.id, layer=request.layer, directory=str(found.directory))

    def _build(self, request: m.Build) -> m.Event:
        from qlens_tui.engine.build import build

        directory = build(self._session, self._tick)
        self._opened.described.clear()  # other operators answer for every layer now
        return m.Built(id=request.id, directory=str(directory))


def _settings(asked: m.Settings, n_blocks: int) -> Settings:
    from lens_core.carry import Settings

    wrong = [block for block in asked.off if not 0 <= block < n_blocks]
    if wrong:
        raise UsageError(f"there is no block {wrong[0]}: the model has blocks 0 to {n_blocks - 1}")
    return Settings(
        transition=asked.transition,
        convention=asked.convention,
        final_norm=asked.final_norm,
        off=frozenset(asked.off),
        method=asked.method,
    )


def _settings_message(settings: Settings) -> m.Settings:
    return m.Settings(
        transition=settings.transition,
        convention=settings.convention,
        final_norm=settings.final_norm,
        off=tuple(sorted(settings.off)),
        method=settings.method,
    )


def _firing(features: list[int], activations: list[float]) -> m.Firing:
    fired = sum(activation > 0 for activation in activations)
    return m.Firing(tuple(features[:fired]), tuple(activations[:fired]))


def _side(side: SideSignature) -> m.OneSide:
    assert side.bottom is not None
    return m.OneSide(
        top=_lists(side.logit_lens, side.query_lens, side.first_order),
        bottom=_lists(*vars(side.bottom).values()),
        norm=side.norm,
        transported_norm=side.transported_norm,
        stability=side.stability,
        relative_variance=side.relative_variance,
    )


def _lists(logit: TokenList, query: TokenList, first: TokenList) -> m.Lists:
    return m.Lists(*(m.Tokens(**vars(each)) for each in (logit, query, first)))


def _path_row(row: PathShare) -> m.PathRow:
    return m.PathRow(**vars(row))
