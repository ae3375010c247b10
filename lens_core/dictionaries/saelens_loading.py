"""SAELens dictionaries, from a release or a folder, as `FeatureDictionary`.

SAELens reads the file; whether it has a place here, which norm lies between it and
the stream, and whether it can belong to this model is settled on its configuration,
before any weight is fetched. What cannot be placed, or is proven to belong to
another model, is refused with its reason; nothing is ever loaded in its stead. The
linear bypass of a skip transcoder belongs to no feature and is left out, as in
SAELens's own `decode`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lens_core.config import DictionaryConfig
from lens_core.dictionaries.feature_dictionary import (
    DictionaryHost,
    FeatureDictionary,
    ReadNorm,
    affine,
    content_hash,
    ln2_module,
    refuse_non_finite,
)
from lens_core.dictionaries.formats import setting
from lens_core.dictionaries.hooks import Place, place
from lens_core.dictionaries.layers import at_layer
from lens_core.dictionaries.model_names import settle_model
from lens_core.dictionaries.releases import Release, release_info
from lens_core.dictionaries.saelens_cfg import WEIGHTS_FILE, read_cfg
from lens_core.dictionaries.saelens_readers import reading_folder, reading_release
from lens_core.dictionaries.weights import activation, folded
from lens_core.errors import DictionaryError, StoreError
from lens_core.storage.files import verify_checksums

Facts = dict[str, str | int | float | bool]

_AUTOENCODERS = ("standard", "topk", "jumprelu", "gated")
_TRANSCODERS = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
_FOR_TRAINING = ("batchtopk", "matryoshka_batchtopk")


@dataclass(frozen=True)
class _Source:
    """A dictionary's address: `folder` on disk, or in the repository of `release`."""

    name: str
    setting: str
    folder: str
    release: str | None = None
    sae_id: str = ""
    entry: Release | None = None

    @property
    def short_name(self) -> str:
        """For a screen: a folder by its last two parts (the provenance has all of it)."""
        return self.name if self.release else "/".join(Path(self.folder).parts[-2:])

    @property
    def repository(self) -> str:
        return self.entry.repository if self.entry else self.release or ""

    @contextmanager
    def open(self, offline: bool) -> Iterator[None]:
        """Around whatever SAELens does with the files: a failure is one `DictionaryError`."""
        if self.release is None:
            with reading_folder(self.folder):
                yield
        else:
            with reading_release(self.name, self.repository, self.folder, offline=offline):
                yield

    def configuration(self) -> dict[str, Any]:
        """As saved, before SAELens fills in or drops anything."""
        if self.release is None:
            try:
                verify_checksums(Path(self.folder))
            except StoreError as error:
                ours = Path(self.folder).is_relative_to(Path(__file__).parent.parent)
                mend = "install qlens again" if ours else "get the folder again"
                raise DictionaryError(f"{error}; {mend}") from error
            return read_cfg(Path(self.folder))
        from sae_lens.loading import pretrained_sae_loaders as readers

        reader = readers.NAMED_PRETRAINED_SAE_CONFIG_GETTERS[
            readers.get_conversion_loader_name(self.release)
        ]
        overrides = readers.get_config_overrides(self.release, self.sae_id)
        return dict(reader(self.repository, self.folder, "cpu", False, overrides))

    def weights(self, dtype: str) -> Any:
        """SAELens's own object, on the CPU."""
        from sae_lens import SAE

        if self.release is not None:
            return SAE.from_pretrained(self.release, self.sae_id, device="cpu", dtype=dtype)
        if not (Path(self.folder) / WEIGHTS_FILE).is_file():
            raise DictionaryError(
                f"{self.folder} holds no {WEIGHTS_FILE} (no other format is read)"
            )
        return SAE.load_from_disk(self.folder, device="cpu", dtype=dtype)


def load_sae(
    config: DictionaryConfig,
    layer: int,
    model: DictionaryHost,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    offline: bool,
) -> FeatureDictionary:
    """The SAE or transcoder of `config` at `layer`, after every refusal that applies."""
    source = _source(config, layer)
    _refuse_cross_layer(source)
    with source.open(offline):
        raw = source.configuration()
        _refuse_architecture(raw, source, config.kind)
        cfg = _parsed(raw)
    found = place(cfg, config.kind, source.name, model)
    _refuse_misfit(cfg, found, source, layer, model)
    found = found._replace(read_norm=_read_norm(cfg, found, source, model))
    named = (cfg.metadata.model_name, source.entry.model if source.entry else None)
    settle_model(
        [name for name in named if name], config.trained_on, model.name, source.name, source.setting
    )
    with source.open(offline):
        sae = source.weights("float64" if dtype == torch.float64 else "float32")
    if sae.cfg.normalize_activations == "expected_average_only_in":
        raise DictionaryError(_unfolded(source))
    return _assembled(sae, config.kind, found, source, dtype, device)


def _source(config: DictionaryConfig, layer: int) -> _Source:
    if config.path is not None:
        folder = at_layer(str(config.path), layer)
        return _Source(folder, setting(config), folder)
    assert config.release is not None, "a configuration without path has both"
    assert config.id is not None, "a configuration without path has both"
    sae_id = at_layer(config.id, layer)
    entry = release_info(config.release)
    if entry is not None and sae_id not in entry.folders:
        raise DictionaryError(f"release {config.release} has no {sae_id}: check [dictionary].id")
    folder = entry.folders[sae_id] if entry else sae_id
    name = f"{config.release}/{sae_id}"
    return _Source(name, setting(config), folder, config.release, sae_id, entry)


def _refuse_cross_layer(source: _Source) -> None:
    entry = source.entry
    if entry and (
        entry.format == "mntss_clt_layer_transcoder" or "clt" in re.split(r"[/_]", source.folder)
    ):
        raise DictionaryError(
            f"{source.name} is a cross-layer transcoder: its features write to many layers, and "
            "the sum that SAELens makes of them is written nowhere"
        )


def _refuse_architecture(raw: Mapping[str, Any], source: _Source, kind: str) -> None:
    architecture = str(raw.get("architecture") or "standard")
    if architecture in _FOR_TRAINING:
        raise DictionaryError(
            f"{source.name} was saved for training ({architecture}): save it for inference with "
            "SAELens's save_inference_model"
        )
    if architecture not in _AUTOENCODERS + _TRANSCODERS:
        raise DictionaryError(
            f"{source.name} has architecture {architecture}, which has no single key per "
            f"feature here: known are {', '.join(_AUTOENCODERS + _TRANSCODERS)}"
        )
    actual = "sae" if architecture in _AUTOENCODERS else "transcoder"
    if actual != kind:
        raise DictionaryError(
            f"{source.name} is of kind {actual} ({architecture}), not {kind}: "
            f'set [dictionary].kind = "{actual}"'
        )
    # Before its version 6 SAELens saved the activation function; now it takes all but TopK as ReLU.
    function = raw.get("activation_fn") or raw.get("activation_fn_str") or "relu"
    signed = bool((raw.get("activation_fn_kwargs") or {}).get("signed"))
    if function not in ("relu", "topk", "jumprelu") or signed:
        raise DictionaryError(
            f"{source.name} was trained with activation function {'signed ' * signed}{function}, "
            "which SAELens would read as another"
        )


def _parsed(raw: dict[str, Any]) -> Any:
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
    from sae_lens.registry import get_sae_class

    complete = handle_config_defaulting(dict(raw))
    return get_sae_class(complete["architecture"])[1].from_dict(complete)


def _refuse_misfit(
    cfg: Any, found: Place, source: _Source, layer: int, model: DictionaryHost
) -> None:
    noun = "SAE" if cfg.architecture() in _AUTOENCODERS else "transcoder"
    for width in (cfg.d_in, getattr(cfg, "d_out", cfg.d_in)):
        if width != model.d_model:
            raise DictionaryError(
                f"dictionary width {width} does not fit model width {model.d_model} "
                f"({noun} {source.name}, model {model.name}): check {source.setting}"
            )
    if found.layer >= model.n_layers:
        raise DictionaryError(
            f"{source.name} reads {found.reads}, but {model.name} has layers 0 to "
            f"{model.n_layers - 1}: check {source.setting}"
        )
    if found.layer != layer:
        raise DictionaryError(
            f"{source.name} is asked for as layer {layer} but reads {found.reads}: "
            f"check {source.setting}"
        )


def _read_norm(cfg: Any, found: Place, source: _Source, model: DictionaryHost) -> ReadNorm:
    """The one norm between the stream and the encoder, or a refusal."""
    normalization = cfg.normalize_activations
    if normalization == "covariance_whitening":
        raise DictionaryError(
            f"{source.name} expects whitened input (covariance_whitening) and does not hold the "
            "whitening: fold it with SAELens's fold_activation_whitening and save it again"
        )
    if normalization == "expected_average_only_in":
        from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

        # SAELens folds the factor of a release when it loads; without one it only warns.
        if source.release is None or not get_norm_scaling_factor(source.release, source.sae_id):
            raise DictionaryError(_unfolded(source))
    own: dict[str, ReadNorm] = {"layer_norm": "layer_norm", "constant_norm_rescale": "rescale"}
    norm = own.get(normalization, "none")
    site_norm = found.read_norm
    trained_with = cfg.metadata.model_from_pretrained_kwargs or {}
    centered = bool(trained_with.get("center_writing_weights"))
    # TransformerLens centres only in front of a LayerNorm; SAELens's layer_norm centres itself.
    if centered and site_norm == "none" and norm != "layer_norm":
        site_norm = "none" if ln2_module(model, 0).uses_rms_norm else "center"
    if norm != "none" and site_norm != "none":
        raise DictionaryError(
            f"{source.name} normalises its input ({normalization}) behind another norm "
            f"({site_norm} at {found.reads}): only one of the two can be undone here"
        )
    return norm if site_norm == "none" else site_norm


def _unfolded(source: _Source) -> str:
    return (
        f"{source.name} expects input of a certain average length (expected_average_only_in) and "
        "does not hold the factor: fold it with SAELens's fold_activation_norm_scaling_factor "
        "and save it again"
    )


def _assembled(
    sae: Any,
    kind: str,
    found: Place,
    source: _Source,
    dtype: torch.dtype,
    device: torch.device | str,
) -> FeatureDictionary:
    parameters = {name: tensor.detach() for name, tensor in sae.named_parameters()}
    refuse_non_finite(source.name, parameters)
    architecture = sae.cfg.architecture()
    facts: Facts = {
        "kind": kind, "architecture": architecture,
        "read_site": found.read_site, "write_site": found.write_site,
        "read_norm": found.read_norm, "write_norm": found.write_norm,
    }  # fmt: skip
    if architecture == "topk":
        facts["k"] = int(sae.cfg.k)
    tensors = folded(sae.cfg, parameters)
    if architecture == "topk" and sae.cfg.k > tensors["keys"].shape[0]:
        raise DictionaryError(
            f"{source.name} keeps k = {sae.cfg.k} of only {tensors['keys'].shape[0]} features"
        )
    sha256 = content_hash(tensors, facts)
    placed = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    keys, bias = placed["keys"], placed["encoder_bias"]
    activate = activation(placed, int(sae.cfg.k) if architecture == "topk" else None)
    return FeatureDictionary(
        name=source.short_name,
        kind="sae" if kind == "sae" else "transcoder",
        layer=found.layer,
        keys=keys,
        values=placed["values"],
        read_site=found.read_site,
        write_site=found.write_site,
        encoder_bias=bias,
        decoder_bias=placed["decoder_bias"],
        read_norm=found.read_norm,
        write_norm=found.write_norm,
        provenance=_provenance(sae.cfg, found, source, facts),
        sha256=sha256,
        encode=lambda x: activate(affine(x, keys, bias)),
    )


def _provenance(cfg: Any, found: Place, source: _Source, facts: Facts) -> Facts:
    architecture = cfg.architecture()
    if architecture == "gated":
        key = "columns of W_enc: the gate's; the magnitude path reads them times exp(r_mag)"
    elif getattr(cfg, "rescale_acts_by_decoder_norm", False):
        key = "columns of W_enc times the decoder norms, which encode applies"
    else:
        key = "columns of W_enc"
    if facts["kind"] == "sae":
        side = "the stream"
    elif found.write_norm == "ln2_post":
        side = "in front of the MLP's post-norm"
    else:
        side = "what the MLP adds to the stream, behind a post-norm if there is one"
    told: Facts = {
        "source": "folder" if source.release is None else "release",
        "folder": source.folder,
        "hook_read": found.reads,
        "hook_write": found.writes,
        "write_side": side,
        "key": key,
        "normalize_activations": cfg.normalize_activations,
        "skip": "skip" in architecture,
        "sae_lens": version("sae-lens"),
    }
    if source.release is not None:
        told |= {"release": source.release, "id": source.sae_id, "repository": source.repository}
    for name in ("model_name", "training_architecture", "sae_lens_training_version"):
        if isinstance(cfg.metadata[name], str):
            told[name] = cfg.metadata[name]
    return facts | told
