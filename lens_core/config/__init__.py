"""What a TOML configuration may say, read into frozen dataclasses that are always valid.

`sections` holds the keys, `rules` what a value may be, `file` the reading; importing any
of them is cheap (no torch).
"""

from lens_core.config.file import load_config, sample_names, with_overrides
from lens_core.config.sections import (
    ComputeConfig,
    Config,
    DictionaryConfig,
    LensConfig,
    ModelConfig,
    ReferenceConfig,
    ReferenceSource,
)

__all__ = [
    "ComputeConfig",
    "Config",
    "DictionaryConfig",
    "LensConfig",
    "ModelConfig",
    "ReferenceConfig",
    "ReferenceSource",
    "load_config",
    "sample_names",
    "with_overrides",
]
