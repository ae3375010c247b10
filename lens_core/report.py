"""Answers about a session, a layer, a feature and a prompt, for both front ends.

The command line and the app's engine get all answers from these functions; the results are
the plain data of `lens_core.signature`. Long work reports progress to `tick`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import starmap

from lens_core.atlas.atlas import atlas_fingerprint
from lens_core.atlas.files import find_layer
from lens_core.comparison import Comparison
from lens_core.evidence_report import evidence, text_sha256, with_activations
from lens_core.firing import firing, prompt_tokens
from lens_core.head_shares import check_switch, head_shares
from lens_core.lenses import LENSES, QUERY, Lens
from lens_core.near_duplicates import near_duplicates
from lens_core.pair_cosines import pair_cosines
from lens_core.paths import paths as shares
from lens_core.resemblance import Likeness, PairCosines, Resembling
from lens_core.session import Session
from lens_core.signature import (
    NO_DIRECTION,
    FeatureReport,
    FiringFeatures,
    LayerFacts,
    OperatorFacts,
    Paths,
    PromptFirings,
    ReferenceFacts,
    SessionFacts,
    Signature,
)
from lens_core.steered_report import steered
from lens_core.switches import against_all_on
from lens_core.terms import SIDES, Settings, Side, Split, Tick, block_name, in_order

_OF_SIMILAR = 6
"""Tokens of each list of a near-duplicate."""


def session_facts(session: Session) -> SessionFacts:
    """Facts about the session: model, device, reference, settings."""
    model, lens = session.model, session.lens
    operators = lens.carrier.operators
    return SessionFacts(
        config=str(session.config.path),
        content=session.content,
        model=model.name,
        model_fingerprint=model.fingerprint,
        n_layers=model.n_layers,
        d_model=model.d_model,
        d_vocab=model.d_vocab,
        k=lens.k,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        blocks=tuple(map(block_name, range(model.n_blocks))),
        layers=lens.dictionaries.layers,
        dictionary_kind=session.config.dictionary.kind,
        operators="none" if operators is None else operators.origin,
        reference=reference_facts(session),
        settings=lens.settings,
        cache=str(session.cache),
        heads=tuple(map(model.n_heads, range(model.n_blocks))),
    )


def reference_facts(session: Session) -> ReferenceFacts:
    """What the averages are taken over."""
    reference = session.reference
    return ReferenceFacts(
        samples=reference.samples,
        length=reference.length,
        n_tokens=reference.n_tokens,
        sha256=reference.sha256,
        origin=reference.origin,
        skip_first=reference.skip_first,
        skip_last=reference.skip_last,
        are_texts=reference.ends is not None,
    )


def layer_facts(session: Session, layer: int) -> LayerFacts:
    """Load a layer's dictionary; returns facts about it and the path of its atlas.

    Raises:
        DictionaryError: it cannot be loaded.
    """
    facts = _dictionary_facts(session, layer)
    if facts.operators == "none":
        return facts
    atlas = find_layer(session.cache, atlas_fingerprint(session.lens, layer))
    return replace(facts, atlas=None if atlas is None else str(atlas.directory))


def _dictionary_facts(session: Session, layer: int) -> LayerFacts:
    lens = session.lens
    dictionary = lens.dictionary(layer)
    value, key = (lens.carrier.path(side, dictionary) for side in SIDES)
    return LayerFacts(
        layer=layer,
        dictionary=dictionary.name,
        sha256=dictionary.sha256,
        n_features=dictionary.n_features,
        operators=lens.carrier.source(dictionary),
        value_blocks=(value.start, value.stop),
        key_blocks=(key.start, key.stop),
        provenance={name: str(fact) for name, fact in dictionary.provenance.items()},
        atlas=None,
        text=text_sha256(session, layer),
    )


def feature_report(
    session: Session,
    layer: int,
    feature: int,
    settings: Settings,
    *,
    split: Split | None = None,
    with_paths: bool = True,
    heads: Sequence[int] = (),
    contexts: int = 20,
    also: Sequence[Lens] = (),
    observed: bool = False,
    similar: int = 0,
) -> FeatureReport:
    """Everything about one feature; paths cost passes if there are no operators.

    `also` are lenses on request whose lists are made too (`lens_core.lenses.ON_REQUEST`), `heads`
    attention blocks whose shares are split among their heads too. `observed`: also steer the
    feature; `similar`: how many near-duplicates to find.

    Raises:
        UsageError: there is no such layer, feature or block, or the settings contradict.
        OperatorError: operators or near-duplicates are asked for and there are no operators.
    """
    alike = resembling(session, layer, feature, n=similar) if similar else None
    lists = tuple(
        signature(session, layer, each, Settings(), length=_OF_SIMILAR)
        for each in (() if alike is None else alike.features)
    )
    found = signature(session, layer, feature, settings, also=also)
    ways = tuple(
        paths(session, layer, feature, side, settings, split=split)
        for side in (SIDES if with_paths else ())
    )
    split_up = tuple(
        paths(
            session,
            layer,
            feature,
            _side_of(session, layer, block),
            settings,
            split=split,
            block=block,
        )
        for block in heads
    )
    return FeatureReport(
        session=session_facts(session),
        layer=_dictionary_facts(session, layer),
        operators=_operator_facts(session, found),
        signature=found,
        comparison=comparison(session, layer, feature, settings, lenses=(QUERY,)),
        paths=ways,
        evidence=with_activations(session, evidence(session, layer, feature, contexts=contexts)),
        heads=split_up,
        steered=steered(session, found) if observed else None,
        similar=alike,
        similar_lists=lists,
    )


def _side_of(session: Session, layer: int, block: int) -> Side:
    """The side whose path a block is on; `value` if it is on neither."""
    dictionary = session.lens.dictionary(layer)
    return "key" if block in session.lens.carrier.path("key", dictionary) else "value"


def _operator_facts(session: Session, found: Signature) -> OperatorFacts | None:
    operators = session.lens.carrier.operators
    if found.method == "direct" or operators is None:
        return None
    stored = str(operators.stored_dtype).removeprefix("torch.")
    return OperatorFacts(operators.origin, stored, operators.fingerprint)


def signature(
    session: Session,
    layer: int,
    feature: int,
    settings: Settings,
    *,
    length: int | None = None,
    bottom: bool = False,
    also: Sequence[Lens] = (),
) -> Signature:
    """Both sides of a feature under every lens, in lists of `length` tokens (`None`: `k`).

    `also` are lenses on request whose lists are made too.

    Raises:
        UsageError: there is no such layer, feature or block, or the settings contradict.
        OperatorError: operators are asked for and there are none.
    """
    _check_switches(session, settings)
    return session.lens.signature(layer, feature, settings, length=length, bottom=bottom, also=also)


def comparison(
    session: Session,
    layer: int,
    feature: int,
    settings: Settings,
    *,
    length: int | None = None,
    lenses: Sequence[Lens] = LENSES,
) -> Comparison:
    """What the switches of `settings` changed in lists of `length` tokens (`None`: `k`).

    Raises:
        UsageError: as `signature`.
    """
    _check_switches(session, settings)
    lens = session.lens
    dictionary = lens.dictionary(layer, feature)
    value, key = (
        against_all_on(lens, side, dictionary, feature, settings, length=length, lenses=lenses)
        for side in SIDES
    )
    return Comparison(layer, feature, settings, value, key)


def paths(
    session: Session,
    layer: int,
    feature: int,
    side: Side,
    settings: Settings,
    *,
    split: Split | None = None,
    block: int | None = None,
) -> Paths:
    """Each block's share of the score of one side's `k` tokens, or those of one block's heads.

    Raises:
        UsageError: as `signature`; or `split` is not exact with these settings; or `block` has no
            heads that can be told apart, or is not on the side's path.
    """
    _check_switches(session, settings)
    lens = session.lens
    dictionary = lens.dictionary(layer, feature)
    asked = lens, side, dictionary, feature, settings, split
    chosen, rows, n_tokens = shares(*asked) if block is None else head_shares(*asked, block)
    return Paths(
        layer=layer,
        feature=feature,
        side=side,
        settings=settings,
        method=lens.carrier.method(dictionary, settings, side),
        n_tokens=n_tokens,
        split=chosen,
        rows=tuple(rows),
        block=None if block is None else block_name(block),
        reason=NO_DIRECTION if all(math.isnan(row.share) for row in rows) else "",
    )


def resembling(
    session: Session,
    layer: int,
    feature: int,
    likeness: Likeness = "both",
    *,
    n: int = 100,
    tick: Tick | None = None,
) -> Resembling:
    """The `n` features of a layer most like one of them; see `lens_core.near_duplicates`.

    Raises:
        UsageError: there is no such layer or feature.
        OperatorError: there are no operators for this layer.
    """
    dictionary = session.lens.dictionary(layer, feature)

    def progress(done: int, total: int) -> None:
        if tick is not None:
            tick("comparing features", done, total)

    found = near_duplicates(session.lens, dictionary, feature, likeness, max(0, n), progress)
    value, key = (
        tuple(None if math.isnan(each) else each for each in found.cosines[side].tolist())
        for side in SIDES
    )
    reason = "" if found.has_direction else NO_DIRECTION
    features = tuple(found.features.tolist())
    return Resembling(layer, feature, likeness, features, value, key, found.of, reason)


def cosines(
    session: Session, one: tuple[int, int], other: tuple[int, int], settings: Settings
) -> PairCosines:
    """How alike two features are, by layer and number; see `lens_core.pair_cosines`.

    Raises:
        UsageError: as `signature`.
    """
    _check_switches(session, settings)
    lens = session.lens
    first, second = ((lens.dictionary(*feature), feature[1]) for feature in (one, other))
    found, n_tokens = pair_cosines(lens, first, second, settings)
    return PairCosines(*one, *other, settings, n_tokens, found["value"], found["key"])


def prompt(
    session: Session, layer: int, text: str, *, feature: int | None = None, n: int = 30
) -> PromptFirings:
    """Which features of a layer fire on `text`, token by token, `n` of each at most.

    Raises:
        UsageError: the text has no tokens, too many, or there is no such feature.
    """
    lens = session.lens
    bos = session.config.reference.prepend_bos
    dictionary = lens.dictionary(layer, feature or 0)
    tokens = prompt_tokens(text, session.model.tokenizer, prepend_bos=bos)
    found = firing(session.model, dictionary, tokens, top=max(1, n), feature=feature)
    rows = zip(found.top_features.tolist(), found.top_activations.tolist(), strict=True)
    ids = tokens.tolist()
    return PromptFirings(
        layer=layer,
        text=text,
        feature=feature,
        bos=bos,
        ids=tuple(ids),
        tokens=tuple(lens.vocabulary.texts(ids)),
        strongest=tuple(starmap(_firing_features, rows)),
        activations=None if found.activations is None else tuple(found.activations.tolist()),
    )


def _firing_features(features: list[int], activations: list[float]) -> FiringFeatures:
    fired = sum(activation > 0 for activation in activations)
    return FiringFeatures(tuple(features[:fired]), tuple(activations[:fired]))


def _check_switches(session: Session, settings: Settings) -> None:
    for switch in in_order(settings.off):
        check_switch(session.model, switch)
