"""SAELens dictionaries, from a release or a folder, as `FeatureDictionary`.

SAELens reads the file. Which sites and norms it uses, and whether it can belong to
this model, is checked on its configuration before any weights are fetched. What is
not supported, or is proven to belong to another model, is refused with the reason;
nothing else is ever loaded instead. The linear bypass of a skip transcoder belongs to
no feature and is left out, as in SAELens's own `decode`.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    refuse_unsound,
)
from lens_core.dictionaries.formats import setting
from lens_core.dictionaries.hooks import Place, place, refuse_hooks
from lens_core.dictionaries.layers import at_layer
from lens_core.dictionaries.model_names import settle_model
from lens_core.dictionaries.releases import NOT_A_FOLDER, Release, release_info
from lens_core.dictionaries.saelens_cfg import SaeCfg, read_cfg
from lens_core.dictionaries.saelens_checks import (
    refuse_architecture,
    refuse_cross_layer,
    refuse_layer,
    refuse_normalization,
    refuse_weights,
    refuse_widths,
)
from lens_core.dictionaries.saelens_readers import reading_folder, reading_release
from lens_core.dictionaries.weights import activation, folded
from lens_core.errors import DictionaryError, StoreError
from lens_core.storage.checksum_lists import verify_checksums

Facts = dict[str, str | int | float | bool]


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
        """The name to show; only the last two parts of a folder (the provenance has all)."""
        return self.name if self.release else "/".join(Path(self.folder).parts[-2:])

    @property
    def repository(self) -> str:
        return self.entry.repository if self.entry else self.release or ""

    @contextmanager
    def open(self, offline: bool) -> Iterator[None]:
        """Turn failures of SAELens inside the block into one `DictionaryError`."""
        if self.release is None:
            with reading_folder(self.folder):
                yield
        else:
            with reading_release(
                self.name,
                self.repository,
                self.folder,
                offline=offline,
                advice="" if self.entry else NOT_A_FOLDER,
            ):
                yield

    def configuration(self) -> dict[str, Any]:
        """The configuration as saved, before SAELens adds or drops keys."""
        if self.release is None:
            cfg = read_cfg(Path(self.folder))
            try:
                verify_checksums(Path(self.folder))
            except StoreError as error:
                ours = Path(self.folder).is_relative_to(Path(__file__).parent.parent)
                fix = "install qlens again" if ours else "get the folder again"
                raise DictionaryError(f"{error}; {fix}") from error
            return cfg
        from sae_lens.loading import pretrained_sae_loaders as readers

        reader = readers.NAMED_PRETRAINED_SAE_CONFIG_GETTERS[
            readers.get_conversion_loader_name(self.release)
        ]
        overrides = readers.get_config_overrides(self.release, self.sae_id)
        return dict(reader(self.repository, self.folder, "cpu", False, overrides))

    def has_factor(self) -> bool:
        """Whether SAELens has the factor that a release's input is scaled by."""
        from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor

        return self.release is not None and bool(get_norm_scaling_factor(self.release, self.sae_id))

    def weights(self, dtype: str) -> Any:
        """SAELens's own object, on the CPU."""
        from sae_lens import SAE

        if self.release is not None:
            return SAE.from_pretrained(self.release, self.sae_id, device="cpu", dtype=dtype)
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
    """The SAE or transcoder of `config` at `layer`, after all checks."""
    source = _source(config, layer)
    refuse_cross_layer(source.entry, source.name, source.folder)
    with source.open(offline):
        raw = source.configuration()
        said = SaeCfg.of(raw)
        refuse_architecture(said, source.name, config.kind)
        refuse_hooks(said, config.kind, source.name)
        _parse(raw)
    found = place(said, config.kind, source.name, model)
    _refuse_misfit(said, found, source, layer, model)
    if source.release is None:
        refuse_weights(Path(source.folder))
    found = found._replace(read_norm=_read_norm(said, found, source, model))
    named = (said.model, source.entry.model if source.entry else None)
    settle_model(
        [name for name in named if name], config.trained_on, model.name, source.name, source.setting
    )
    with source.open(offline):
        sae = source.weights("float64" if dtype == torch.float64 else "float32")
    # SAELens folds in a release's factor when it loads; without a factor it only warns.
    refuse_normalization(sae.cfg.normalize_activations, source.name, has_factor=False)
    return _assembled(sae, said, config.kind, found, source, dtype, device)


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


def _parse(raw: dict[str, Any]) -> None:
    """Let SAELens check its configuration before weights are fetched."""
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
    from sae_lens.registry import get_sae_class

    complete = handle_config_defaulting(dict(raw))
    get_sae_class(complete["architecture"])[1].from_dict(complete)


def _refuse_misfit(
    said: SaeCfg, found: Place, source: _Source, layer: int, model: DictionaryHost
) -> None:
    refuse_widths(said, model.d_model, source.name, model.name, source.setting)
    if found.layer >= model.n_layers:
        raise DictionaryError(
            f"{source.name} reads {found.reads}, but {model.name} has layers 0 to "
            f"{model.n_layers - 1}: check {source.setting}"
        )
    refuse_layer(found.layer, layer, found.reads, source.name)


def _read_norm(said: SaeCfg, found: Place, source: _Source, model: DictionaryHost) -> ReadNorm:
    """The norm between the stream and the encoder; two of them are refused."""
    normalization = said.normalization
    refuse_normalization(normalization, source.name, has_factor=source.has_factor())
    own: dict[str, ReadNorm] = {"layer_norm": "layer_norm", "constant_norm_rescale": "rescale"}
    norm = own.get(normalization, "none")
    site_norm = found.read_norm
    # TransformerLens centres only before a LayerNorm; SAELens's layer_norm does its own centring.
    if said.centers and site_norm == "none" and norm != "layer_norm":
        site_norm = "none" if ln2_module(model, 0).uses_rms_norm else "center"
    if norm != "none" and site_norm != "none":
        raise DictionaryError(
            f"{source.name} normalises its input ({normalization}) after another norm "
            f"({site_norm} at {found.reads}): qlens supports only one of the two"
        )
    return norm if site_norm == "none" else site_norm


def _assembled(
    sae: Any,
    said: SaeCfg,
    kind: str,
    found: Place,
    source: _Source,
    dtype: torch.dtype,
    device: torch.device | str,
) -> FeatureDictionary:
    parameters = {name: tensor.detach() for name, tensor in sae.named_parameters()}
    refuse_unsound(source.name, parameters)
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
            f"{source.name} has k = {sae.cfg.k} but only {tensors['keys'].shape[0]} features"
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
        provenance=_provenance(sae.cfg, said, found, source, facts),
        sha256=sha256,
        encode=lambda x: activate(affine(x, keys, bias)),
    )


def _provenance(cfg: Any, said: SaeCfg, found: Place, source: _Source, facts: Facts) -> Facts:
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
    if said.model is not None:
        told["model_name"] = said.model
    if said.neuronpedia is not None:
        told["neuronpedia"] = said.neuronpedia
    told |= said.training
    return facts | told
