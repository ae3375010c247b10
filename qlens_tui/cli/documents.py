"""A feature as data: everything `qlens show` knows, gathered once for JSON and for tables.

The keys of `as_document` are read by scripts; they are the ones of product.md
("Command line") and more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lens_core.faces import joined

if TYPE_CHECKING:
    from lens_core.carry import Settings, Side
    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.lens import PathShare, SideSignature, Signature, Split, TokenList
    from lens_core.session import Session

CONTEXTS = 5
_BEFORE, _AFTER = 16, 8  # tokens of a context on either side


@dataclass(frozen=True)
class Paths:
    """The shares of one side's blocks."""

    split: Split
    rows: list[PathShare]


@dataclass(frozen=True)
class Context:
    """A place in the reference where the feature fires; the text is not made printable."""

    sample: int
    position: int
    activation: float
    token: str
    before: str
    after: str


@dataclass(frozen=True)
class Activity:
    """How the feature fires on the reference."""

    density: float
    max_activation: float
    contexts: list[Context]

    @property
    def silent(self) -> bool:
        return self.density == 0


@dataclass(frozen=True)
class FeatureReport:
    """One feature with everything that is shown of it."""

    session: Session
    dictionary: FeatureDictionary
    signature: Signature
    paths: dict[Side, Paths] | None
    activity: Activity


def report_on(
    session: Session,
    layer: int,
    feature: int,
    settings: Settings,
    *,
    split: Split | None,
    with_paths: bool,
) -> FeatureReport:
    """Ask the lens for everything about one feature."""
    lens = session.lens
    sides: tuple[Side, Side] = ("value", "key")
    signature = lens.signature(layer, feature, settings)
    paths = None
    if with_paths:
        paths = {side: Paths(*lens.paths(side, layer, feature, settings, split)) for side in sides}
    return FeatureReport(
        session, lens.dictionary(layer), signature, paths, _activity(session, layer, feature)
    )


def _activity(session: Session, layer: int, feature: int) -> Activity:
    found = session.lens.activity(layer)
    places = zip(
        found.top_samples[feature].tolist(),
        found.top_positions[feature].tolist(),
        found.top_activations[feature].tolist(),
        strict=True,
    )
    return Activity(
        density=float(found.density[feature]),
        max_activation=float(found.max_activation[feature]),
        contexts=[
            _context(session, sample, position, activation)
            for sample, position, activation in places
            if sample >= 0
        ][:CONTEXTS],
    )


def _context(session: Session, sample: int, position: int, activation: float) -> Context:
    tokens = session.lens.vocabulary.texts(session.reference.tokens[sample].tolist())
    return Context(
        sample=sample,
        position=position,
        activation=activation,
        token=tokens[position],
        before=joined(tokens[max(0, position - _BEFORE) : position]),
        after=joined(tokens[position + 1 : position + 1 + _AFTER]),
    )


def reference_document(session: Session) -> dict[str, Any]:
    """What the averages are taken over."""
    reference = session.reference
    return {
        "samples": reference.samples,
        "length": reference.length,
        "sha256": reference.sha256,
        "origin": reference.origin,
        "skip_first": reference.skip_first,
        "skip_last": reference.skip_last,
    }


def computed_on(session: Session) -> dict[str, str]:
    """The device and the precision of everything that was computed."""
    model = session.model
    return {"device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}


def operators_document(report: FeatureReport) -> dict[str, str] | None:
    """Which operators answered, and in how many bits they are stored; `None`: a direct pass."""
    operators = report.session.lens.transport.operators
    if report.signature.method == "direct" or operators is None:
        return None
    dtype = str(operators.stored_dtype).removeprefix("torch.")
    return {"origin": operators.origin, "stored": dtype, "fingerprint": operators.fingerprint}


def as_document(report: FeatureReport) -> dict[str, Any]:
    """The JSON document of `qlens show`."""
    from lens_core.storage.fingerprint import versions
    from lens_core.terms import block_names

    session, signature, activity = report.session, report.signature, report.activity
    settings = signature.settings
    document = {
        "model": session.model.name,
        "model_fingerprint": session.model.fingerprint,
        "dictionary": report.dictionary.name,
        "dictionary_sha256": report.dictionary.sha256,
        "layer": signature.layer,
        "feature": signature.feature,
        "reference": reference_document(session),
        **computed_on(session),
        "method": signature.method,
        "operators": operators_document(report),
        "transition": settings.transition,
        "blocks_off": block_names(settings.off),
        "settings": {"convention": settings.convention, "final_norm": settings.final_norm},
        "value": _side(signature.value),
        "key": _side(signature.key),
        "activity": {"silent": activity.silent, **asdict(activity)},
        "versions": versions(),
    }
    if report.paths is not None:
        document["paths"] = _paths_document(report.paths)
    return document


def _side(side: SideSignature) -> dict[str, Any]:
    return {
        "logit_lens": _tokens(side.logit_lens),
        "query_lens": _tokens(side.query_lens),
        "first_order": _tokens(side.first_order),
        "norm": side.norm,
        "transported_norm": side.transported_norm,
        "stability": side.stability,
        "relative_variance": side.relative_variance,
    }


def _tokens(tokens: TokenList) -> dict[str, Any]:
    document = asdict(tokens)
    if tokens.unit_scores is None:
        del document["unit_scores"]
    return document


def _paths_document(paths: dict[Side, Paths]) -> dict[str, Any]:
    document: dict[str, Any] = {"split": paths["value"].split}
    for side, of_side in paths.items():
        document[f"split_{side}"] = of_side.split
        document[side] = [asdict(row) for row in of_side.rows]
    return document
