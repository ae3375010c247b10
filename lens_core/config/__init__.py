"""TOML configurations, read into frozen dataclasses that are always valid.

`sections` defines the keys, `rules` the allowed values, and `file` reads the file. Importing
them is cheap (no torch).
"""

from lens_core.config.file import load_config, sample_names, with_overrides
from lens_core.config.sections import (
    ComputeConfig,
    Config,
    DictionaryConfig,
    ExplanationsConfig,
    LensConfig,
    ModelConfig,
    ReferenceConfig,
    ReferenceSource,
)

__all__ = [
    "ComputeConfig",
    "Config",
    "DictionaryConfig",
    "ExplanationsConfig",
    "LensConfig",
    "ModelConfig",
    "ReferenceConfig",
    "ReferenceSource",
    "load_config",
    "sample_names",
    "with_overrides",
]
