"""Tiny real Hugging Face models of every architecture that qlens claims."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

ARCHITECTURES = ("gpt2", "llama", "gemma3", "qwen3")
D_VOCAB = 101


def tiny_hf(architecture: str, *, seed: int = 0) -> transformers.PreTrainedModel:
    """A random float64 model whose norm gains and biases are not the identity's."""
    torch.manual_seed(seed)
    common = {
        "vocab_size": D_VOCAB,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    }
    if architecture == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=D_VOCAB, n_positions=64, n_embd=24, n_layer=3, n_head=3,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
    elif architecture == "llama":
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**common, num_hidden_layers=3)
        )
    elif architecture == "qwen3":
        model = transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(**common, num_hidden_layers=3, head_dim=8)
        )
    elif architecture == "gemma3":
        # A window shorter than the sample, so that local and global layers differ.
        config = transformers.Gemma3TextConfig(
            **common, num_hidden_layers=4, head_dim=8, sliding_window=4, query_pre_attn_scalar=8,
            layer_types=["sliding_attention", "full_attention"] * 2,
        )  # fmt: skip
        model = transformers.Gemma3ForCausalLM(config)
    elif architecture == "neox":
        config = transformers.GPTNeoXConfig(
            **{k: v for k, v in common.items() if k != "num_key_value_heads"}, num_hidden_layers=2
        )
        model = transformers.GPTNeoXForCausalLM(config)
    else:
        raise ValueError(architecture)
    model = model.double().eval()
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if "norm" in name or "ln_" in name or name.endswith("bias"):
            parameter.data += 0.3 * noise
        elif "embed" not in name and "wte" not in name and "wpe" not in name:
            # Large enough that blocks matter and attention is far from uniform.
            parameter.data += 0.15 * noise
    return model


def word_tokenizer(directory: Path) -> transformers.PreTrainedTokenizerBase:
    """One token per word `w3` to `w100`; kept in `directory`, as TransformerLens wants a path."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    names = [*special.values(), *(f"w{i}" for i in range(3, D_VOCAB))]
    vocabulary = {name: i for i, name in enumerate(names)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="</s>", **special)
    made.save_pretrained(directory)
    return transformers.AutoTokenizer.from_pretrained(directory)
