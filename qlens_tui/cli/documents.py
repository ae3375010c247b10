"""Answers of the core as JSON documents.

Scripts read these keys, so they are never renamed.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lens_core.comparison import SideComparison
from lens_core.evidence import Context, Evidence
from lens_core.faces import joined
from lens_core.lenses import LENSES, ON_REQUEST, QUERY
from lens_core.resemblance import Resembling
from lens_core.signature import (
    FeatureReport,
    Found,
    Lists,
    Paths,
    ReferenceFacts,
    SessionFacts,
    SideSignature,
    Signature,
    TokenList,
)
from lens_core.terms import switch_names
from qlens_tui.table.known_layer import KnownLayer
from qlens_tui.triage.marks import Mark


def feature_document(report: FeatureReport, explanation: str, mark: Mark | None) -> dict[str, Any]:
    """The document of `qlens show`.

    `explanation`: what others say about it, "" if nothing; `mark`: the user's marks, `None` if they
    cannot be read.
    """
    from lens_core.storage.fingerprint import versions

    session, layer, signature = report.session, report.layer, report.signature
    settings = signature.settings
    document: dict[str, Any] = {
        "model": session.model,
        "model_fingerprint": session.model_fingerprint,
        "dictionary": layer.dictionary,
        "dictionary_sha256": layer.sha256,
        "dictionary_key": layer.provenance["key"],
        "layer": signature.layer,
        "feature": signature.feature,
        "explanation": explanation,
        "marks": None if mark is None else asdict(mark),
        "neuronpedia": KnownLayer.of(layer).address(signature.feature),
        "reference": reference_document(session.reference),
        **computed_on(session),
        "method": signature.method,
        "operators": None if report.operators is None else asdict(report.operators),
        "transition": settings.transition,
        "positions": settings.positions,
        "blocks_off": switch_names(settings.off),
        "settings": {"convention": settings.convention, "final_norm": settings.final_norm},
        "value": _side(signature.value, report.comparison.value),
        "key": _side(signature.key, report.comparison.key),
        "activity": _activity(report.evidence),
        "versions": versions(),
    }
    if report.paths:
        document["paths"] = _paths(report.paths)
    if report.steered is not None:
        document["observed"] = asdict(report.steered)
    if report.similar is not None:
        document["similar"] = _similar(report.similar, report.similar_lists)
    if report.heads:
        document["heads"] = [_heads(each) for each in report.heads]
    return document


def search_document(session: SessionFacts, found: Found) -> dict[str, Any]:
    """The document of `qlens search`."""
    n_wanted = len(found.query.wanted)
    tokens = [
        {"id": token, "text": text}
        for token, text in zip(found.query.ids, found.tokens, strict=True)
    ]
    return {
        "model": session.model,
        "model_fingerprint": session.model_fingerprint,
        "reference": reference_document(session.reference),
        **computed_on(session),
        "convention": "paper",
        "final_norm": "apply",
        "token": tokens[0],
        "tokens": tokens[:n_wanted],
        "without": tokens[n_wanted:],
        "side": found.side,
        "lens": found.lens,
        "by": found.by,
        "layers": found.layers,
        "results": [asdict(hit) for hit in found.hits],
    }


def reference_document(reference: ReferenceFacts) -> dict[str, Any]:
    """The reference that the averages are taken over."""
    return asdict(reference)


def computed_on(session: SessionFacts) -> dict[str, str]:
    """The device and dtype of the computation."""
    return {"device": session.device, "dtype": session.dtype}


def _side(side: SideSignature, comparison: SideComparison | None) -> dict[str, Any]:
    document = {
        **_lists(side.top),
        "norm": side.norm,
        "transported_norm": side.transported_norm,
        "stability": side.stability,
        "relative_variance": side.relative_variance,
        "n_tokens": side.n_tokens,
    }
    if comparison is not None:
        document["against_all_on"] = _against_all_on(comparison)
    return document


def _against_all_on(comparison: SideComparison) -> dict[str, Any]:
    """What switches changed in Query Lens's list; `reason` alone if it cannot be compared."""
    if comparison.reason:
        return {"reason": comparison.reason}
    change = comparison.top[QUERY.name]
    return {
        "k": comparison.k,
        "n_tokens": comparison.n_tokens,
        "all_on_method": "direct" if comparison.operators == "none" else "operator",
        "all_on_score": change.all_on_score,
        "score": change.score,
        "score_lost": change.lost,
        "moved": change.moved,
        "tokens_in": [asdict(token) for token in change.came_in],
        "tokens_out": [asdict(token) for token in change.left],
    }


def _lists(lists: Lists) -> dict[str, Any]:
    every = (*LENSES, *ON_REQUEST)
    return {lens.field: _tokens(lists[lens.name]) for lens in every if lens.name in lists}


def _tokens(tokens: TokenList) -> dict[str, Any]:
    document = asdict(tokens)
    if tokens.unit_scores is None:
        del document["unit_scores"]
    if not tokens.reason:
        del document["reason"]
    if tokens.n_tokens is None:
        del document["n_tokens"]
    return document


def _activity(evidence: Evidence) -> dict[str, Any]:
    return {
        "silent": evidence.silent,
        "density": evidence.density,
        "max_activation": evidence.max_activation,
        "text": asdict(evidence.text),
        "histogram": {"bin_width": evidence.bin_width, "counts": evidence.histogram},
        "contexts": [_context(context) for context in evidence.contexts],
        "quarters": [[_context(context) for context in part] for part in evidence.quarters],
    }


def _context(context: Context) -> dict[str, Any]:
    return {
        "sample": context.sample,
        "position": context.position,
        "activation": context.activation,
        "token": context.token,
        "before": joined(context.before),
        "after": joined(context.after),
        "tokens": context.tokens,
        "activations": context.activations,
    }


def _similar(found: Resembling, lists: tuple[Signature, ...]) -> dict[str, Any]:
    """Near-duplicates; `reason` alone if the feature has no direction to compare."""
    if found.reason:
        return {"reason": found.reason}
    rows = zip(found.features, found.cosines, found.value, found.key, lists, strict=True)
    return {
        "of": found.of,
        "features": [
            {
                "feature": feature,
                "cosine": cosine,
                "value": value,
                "key": key,
                "value_tokens": its.value.top[QUERY.name].tokens,
                "key_tokens": its.key.top[QUERY.name].tokens,
            }
            for feature, cosine, value, key, its in rows
        ],
    }


def _paths(paths: tuple[Paths, ...]) -> dict[str, Any]:
    document: dict[str, Any] = {"split": paths[0].split}
    for of_side in paths:
        document[f"split_{of_side.side}"] = of_side.split
        document[f"n_tokens_{of_side.side}"] = of_side.n_tokens
        document[of_side.side] = [asdict(row) for row in of_side.rows]
    return document


def _heads(paths: Paths) -> dict[str, Any]:
    return {
        "block": paths.block,
        "side": paths.side,
        "split": paths.split,
        "n_tokens": paths.n_tokens,
        "rows": [asdict(row) for row in paths.rows],
    }
