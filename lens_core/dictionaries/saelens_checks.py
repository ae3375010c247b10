"""Checks of a SAELens dictionary by its configuration and the header of its weights.

Without torch and network, so that `qlens doctor` uses them too. Checks that need the model
(widths, norms, which model the dictionary belongs to) are made when it is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from lens_core.dictionaries.releases import Release
from lens_core.dictionaries.saelens_cfg import WEIGHTS_FILE, SaeCfg
from lens_core.errors import DictionaryError
from lens_core.foreign import in_plain_words

AUTOENCODERS = ("standard", "topk", "jumprelu", "gated")
TRANSCODERS = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
_READ = 1 << 30  # bytes; larger weights are not read to look for NaN
_FOR_TRAINING = ("batchtopk", "matryoshka_batchtopk")


def refuse_architecture(cfg: SaeCfg, name: str, kind: str) -> None:
    """Refuse an architecture without a single key per feature, or of another kind than `kind`."""
    architecture = cfg.architecture
    if architecture in _FOR_TRAINING:
        raise DictionaryError(
            f"{name} was saved for training ({architecture}): save it for inference with "
            "SAELens's save_inference_model"
        )
    if architecture not in AUTOENCODERS + TRANSCODERS:
        raise DictionaryError(
            f"{name} has architecture {architecture}, which has no single key per "
            f"feature here: known are {', '.join(AUTOENCODERS + TRANSCODERS)}"
        )
    actual = "sae" if architecture in AUTOENCODERS else "transcoder"
    if actual != kind:
        raise DictionaryError(
            f"{name} is of kind {actual} ({architecture}), not {kind}: "
            f'set [dictionary].kind = "{actual}"'
        )
    # Before version 6 SAELens saved the activation function; now it reads all but TopK as ReLU.
    if cfg.function not in ("relu", "topk", "jumprelu"):
        raise DictionaryError(
            f"{name} was trained with activation function {cfg.function}, which SAELens would "
            "read as another: qlens reads relu, topk and jumprelu"
        )


def refuse_cross_layer(entry: Release | None, name: str, folder: str) -> None:
    """Refuse a release whose features write to many layers."""
    if entry and (
        entry.format == "mntss_clt_layer_transcoder" or "clt" in re.split(r"[/_]", folder)
    ):
        raise DictionaryError(
            f"{name} is a cross-layer transcoder, whose features write to many layers: qlens "
            "does not read these"
        )


def refuse_widths(cfg: SaeCfg, d_model: int, name: str, model: str, setting: str) -> None:
    """Refuse a dictionary that does not fit the width of the model."""
    noun = "SAE" if cfg.architecture in AUTOENCODERS else "transcoder"
    for width in cfg.widths:
        if width != d_model:
            raise DictionaryError(
                f"dictionary width {width} does not fit model width {d_model} "
                f"({noun} {name}, model {model}): check {setting}"
            )


def refuse_layer(actual: int, asked: int, reads: str | None, name: str) -> None:
    """Refuse a dictionary that reads another layer than the one asked for."""
    if actual != asked:
        raise DictionaryError(
            f"{name} is asked for as layer {asked} but reads {reads}: check [dictionary] and its "
            "cfg.json"
        )


def refuse_numbers(folder: Path) -> None:
    """Refuse weights with unusable values; large files are not read."""
    from safetensors import safe_open

    from lens_core.soundness import unsound

    file = folder / WEIGHTS_FILE
    if file.stat().st_size > _READ:
        return
    with safe_open(file, "pt") as tensors:
        named = ((name, tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
        if wrong := unsound(named):
            raise DictionaryError(
                f"{folder} holds {wrong}: get it again, or check how it was saved"
            )


def refuse_weights(folder: Path) -> None:
    """Refuse a folder's weights if missing, damaged, or scaled in a way SAELens dropped."""
    from safetensors import SafetensorError, safe_open

    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise DictionaryError(
            f"{folder} holds no {WEIGHTS_FILE}: [dictionary].path takes a folder that SAELens saved"
        )
    try:
        with safe_open(file, "np") as tensors:
            scaled = "scaling_factor" in tensors.keys()  # noqa: SIM118
            factors = tensors.get_tensor("scaling_factor") if scaled else None
    except (SafetensorError, OSError) as error:
        raise DictionaryError(f"{folder} cannot be read: {in_plain_words(error)}") from error
    if factors is not None and not bool(abs(factors - 1).max() < 1e-5):
        raise DictionaryError(
            f"{folder} holds a scaling_factor, which SAELens no longer applies: multiply each row "
            f"of W_dec by it, remove it from {WEIGHTS_FILE} and set finetuning_scaling_factor to "
            "false in cfg.json"
        )


def refuse_normalization(normalization: str, name: str, *, has_factor: bool) -> None:
    """Refuse a dictionary whose input needs a normalisation that was not saved with it."""
    if normalization == "covariance_whitening":
        raise DictionaryError(
            f"{name} expects whitened input (covariance_whitening) and does not hold the "
            "whitening: fold it with SAELens's fold_activation_whitening and save it again"
        )
    if normalization == "expected_average_only_in" and not has_factor:
        raise DictionaryError(
            f"{name} expects input of a certain average length (expected_average_only_in) and "
            "does not hold the factor: fold it with SAELens's fold_activation_norm_scaling_factor "
            "and save it again"
        )
