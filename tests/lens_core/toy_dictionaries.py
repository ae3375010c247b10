"""Random SAELens dictionaries on disk, and a model that they belong to."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sae_lens
import torch
from torch import Tensor

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import FeatureDictionary
from lens_core.dictionaries.load import load_dictionary
from lens_core.errors import DictionaryError
from lens_core.model import MLPWeights

D, N = 12, 20
RESID = "blocks.1.hook_resid_post"
TRANSCODER = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}


@dataclass
class StandInModel:
    """A model of four layers as far as a dictionary can see."""

    name: str = "openai-community/gpt2"
    n_layers: int = 4
    d_model: int = D
    post_norm: bool = False
    uses_rms_norm: bool = False
    eps: float = 1e-5
    bridge: Any = field(init=False)

    def __post_init__(self) -> None:
        component = SimpleNamespace(eps=self.eps)
        ln2 = SimpleNamespace(uses_rms_norm=self.uses_rms_norm, original_component=component)
        self.bridge = SimpleNamespace(blocks=[SimpleNamespace(ln2=ln2)] * self.n_layers)

    def mlp_norm(self, layer: int) -> Callable[[Tensor], Tensor]:
        return lambda h: torch.nn.functional.layer_norm(h, (D,)) * (layer + 2)

    def mlp_post_norm(self, layer: int) -> Callable[[Tensor], Tensor] | None:
        return torch.tanh if self.post_norm else None

    def mlp_weights(self, layer: int) -> MLPWeights:
        raise NotImplementedError


MODEL = StandInModel()


def some_stream() -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(2, 5, D, generator=generator, dtype=torch.float64) * 3 + 1


def randomized(sae: Any) -> Any:
    """Every parameter random, biases and norms included; thresholds positive."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in sae.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if name == "threshold":
            parameter.data.abs_()
    return sae


def metadata(**changes: Any) -> sae_lens.saes.sae.SAEMetadata:
    return sae_lens.saes.sae.SAEMetadata(
        **({"model_name": "gpt2-small", "hook_name": RESID} | changes)
    )


def autoencoder(architecture: str = "standard", hook: str = RESID, **options: Any) -> Any:
    """A random SAE in the form of a loaded SAELens SAE, ready to be saved."""
    config_class = {
        "standard": sae_lens.StandardSAEConfig,
        "topk": sae_lens.TopKSAEConfig,
        "jumprelu": sae_lens.JumpReLUSAEConfig,
        "gated": sae_lens.GatedSAEConfig,
    }[architecture]
    told = options.pop("metadata", {})
    options = {"d_in": D, "d_sae": N, "dtype": "float64"} | options
    config = config_class(metadata=metadata(hook_name=hook, **told), **options)
    return randomized(sae_lens.registry.get_sae_class(architecture)[0](config))


def transcoder(architecture: str = "transcoder", **options: Any) -> Any:
    sae_class, config_class = sae_lens.registry.get_sae_class(architecture)
    told = options.pop("metadata", TRANSCODER)
    options = {"d_in": D, "d_out": D, "d_sae": N, "dtype": "float64"} | options
    config = config_class(metadata=metadata(**told), apply_b_dec_to_input=False, **options)
    return randomized(sae_class(config))


def saved(sae: Any, folder: Path) -> Path:
    sae.save_model(folder)
    return folder


def at(folder: Path, kind: str = "sae", **options: Any) -> DictionaryConfig:
    return DictionaryConfig(kind=kind, path=folder, **options)  # type: ignore[arg-type]


def load(folder: Path, kind: str = "sae", model: Any = MODEL, **options: Any) -> FeatureDictionary:
    return load_dictionary(at(folder, kind, **options), 1, model, dtype=torch.float64)


def edit_cfg(folder: Path, **changes: Any) -> None:
    file = folder / "cfg.json"
    cfg = json.loads(file.read_text())
    for name, value in changes.items():
        (cfg["metadata"] if name in cfg["metadata"] else cfg)[name] = value
    file.write_text(json.dumps(cfg))


def refused(folder: Path, kind: str = "sae", model: Any = MODEL, **options: Any) -> str:
    """The one line with which a dictionary is refused."""
    with pytest.raises(DictionaryError) as caught:
        load(folder, kind, model, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


class Bomb:
    """A pickle that runs code when it is opened."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)
