"""Dictionary formats: which one a configuration uses, and its layers.

A format is a module of this package with the functions of `DictionaryFormat` and an entry in
`FORMATS`. It imports torch and its reader only in `load`: layers and widths are checked before
a model is loaded, so that a mistake is reported at once and not after a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.layers import ranges
from lens_core.errors import ConfigError, DictionaryError

if TYPE_CHECKING:
    import torch

    from lens_core.dictionaries.feature_dictionary import DictionaryHost, FeatureDictionary


@runtime_checkable
class DictionaryFormat(Protocol):
    """The functions that a format's module must have."""

    def layers(self, config: DictionaryConfig, n_layers: int | None) -> tuple[int, ...] | None:
        """The layers that exist, ascending, without torch and network; `None`: unknown.

        `n_layers` is the model's number of layers, once known.
        """

    def n_features(self, config: DictionaryConfig, layer: int) -> int | None:
        """The number of features of `layer`, without torch; `None`: unknown until it is loaded."""

    def folders(self, config: DictionaryConfig) -> Sequence[Path]:
        """The folders on this machine whose files `load` reads, without torch and network."""

    def repository(self, config: DictionaryConfig) -> str | None:
        """The repository of the hub that `load` reads, if it does."""

    def check(self, config: DictionaryConfig, layer: int, model: str, d_model: int) -> None:
        """Raise the errors that the files of `layer` on this machine show, as `load` would.

        `model` is the model's name and `d_model` its width.
        """

    def load(
        self,
        config: DictionaryConfig,
        layer: int,
        model: DictionaryHost,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        offline: bool,
    ) -> FeatureDictionary:
        """The dictionary of `layer`; raises a `DictionaryError` if it cannot be loaded."""


FORMATS: Mapping[str, Callable[[DictionaryConfig], bool]] = {
    "neurons": lambda config: config.kind == "neurons",
    "saelens": lambda config: config.kind != "neurons",
}
"""Module names, each with a test whether it reads a configuration; the first match is used."""


def format_of(config: DictionaryConfig) -> DictionaryFormat:
    """The module that reads the dictionary of `config`."""
    name = next(name for name, reads in FORMATS.items() if reads(config))
    return cast(DictionaryFormat, import_module(f"lens_core.dictionaries.{name}"))


def available_layers(config: DictionaryConfig, n_layers: int) -> tuple[int, ...]:
    """The layers that `config` asks for, in ascending order; all of them exist.

    Raises:
        ConfigError: the configuration names a release, an id or a layer that does not exist.
        DictionaryError: the dictionary has more layers than the model (`n_layers`), or there
            is nothing at `config.path`.
    """
    chosen = _chosen(config, format_of(config).layers(config, n_layers)) or ()
    beyond = [layer for layer in chosen if layer >= n_layers]
    if beyond:
        raise DictionaryError(
            f"{source_pattern(config)} has layer {beyond[0]}, but the model has layers 0 to "
            f"{n_layers - 1}: check {setting(config)} and [model].name"
        )
    return chosen


def layers_without_model(config: DictionaryConfig) -> tuple[int, ...] | None:
    """`available_layers` before the model is loaded; `None`: they depend on the model.

    Raises:
        ConfigError, DictionaryError: as `available_layers`.
    """
    return _chosen(config, format_of(config).layers(config, None))


def check_files(config: DictionaryConfig, layer: int, model: str, d_model: int) -> None:
    """Raise the errors that the files of `layer` on this machine show, without a model.

    Raises:
        DictionaryError: as `load_dictionary`.
    """
    format_of(config).check(config, layer, model, d_model)


def features_without_loading(config: DictionaryConfig, layer: int) -> int | None:
    """How many features the files of `layer` say it has; `None`: unknown until it is loaded."""
    return format_of(config).n_features(config, layer)


def source_pattern(config: DictionaryConfig) -> str:
    """The dictionary as the configuration names it, for messages."""
    if config.kind == "neurons":
        return "the MLP"
    return str(config.path) if config.path else f"{config.release}/{config.id}"


def setting(config: DictionaryConfig) -> str:
    """The configuration key that names the dictionary's source."""
    return "[dictionary].path" if config.path else "[dictionary].release"


def _chosen(config: DictionaryConfig, known: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if config.layers == "all":
        return known
    chosen = tuple(sorted(config.layers))
    missing = [layer for layer in chosen if known is not None and layer not in known]
    if missing:
        raise ConfigError(
            f"[dictionary].layers names {ranges(missing)}, "
            f"but {source_pattern(config)} exists for layers {ranges(known or ())}"
        )
    return chosen
