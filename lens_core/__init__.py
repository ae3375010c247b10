"""Query Lens on sparse features: the method, usable from a notebook.

    session = open_session(load_config("smollm2-neurons"))
    session.lens.signature(6, 35)

Names are imported on first use, so that `import lens_core` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_core.atlas.files import read_atlas
    from lens_core.config import load_config
    from lens_core.dictionaries.feature_dictionary import FeatureDictionary
    from lens_core.dictionaries.load import load_dictionary
    from lens_core.direct import key_transition, value_transition
    from lens_core.errors import LensError
    from lens_core.lens import QueryLens
    from lens_core.model import ResidualModel
    from lens_core.operators.files import Operators
    from lens_core.reference import ReferenceSample
    from lens_core.session import open_session
    from lens_core.terms import Settings

_HOME = {
    "FeatureDictionary": "dictionaries.feature_dictionary",
    "LensError": "errors",
    "Operators": "operators.files",
    "QueryLens": "lens",
    "ReferenceSample": "reference",
    "ResidualModel": "model",
    "Settings": "terms",
    "key_transition": "direct",
    "load_config": "config",
    "load_dictionary": "dictionaries.load",
    "open_session": "session",
    "read_atlas": "atlas.files",
    "value_transition": "direct",
}

__all__ = [
    "FeatureDictionary",
    "LensError",
    "Operators",
    "QueryLens",
    "ReferenceSample",
    "ResidualModel",
    "Settings",
    "key_transition",
    "load_config",
    "load_dictionary",
    "open_session",
    "read_atlas",
    "value_transition",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lens_core' has no attribute {name!r}")
    return getattr(import_module(f"lens_core.{_HOME[name]}"), name)
