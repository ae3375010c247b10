"""A tokenizer of bytes, and reference samples drawn with it."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lens_core.config import ReferenceConfig
from lens_core.reference import ReferenceSample, load_reference

END = "<|endoftext|>"


def byte_tokenizer(special: str | None = END) -> PreTrainedTokenizerFast:
    """One token per byte, and a special token that is prepended by default."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if special is not None:
        tokenizer.add_special_tokens([special])
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{special} $A", special_tokens=[(special, tokenizer.token_to_id(special))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special, eos_token=special)


BYTES = byte_tokenizer()
V = len(BYTES)


def load(source: str, tokenizer: PreTrainedTokenizerFast | None = BYTES, **settings: object):
    config = ReferenceConfig(**{"source": source, "samples": 4, "length": 8} | settings)
    return load_reference(config, tokenizer, d_vocab=V, offline=False)


def texts_of(sample: ReferenceSample) -> list[str]:
    return [BYTES.decode(row) for row in sample.tokens]


def assert_one_line(error: BaseException) -> str:
    message = str(error)
    assert "\n" not in message
    assert len(message) < 500
    return message
