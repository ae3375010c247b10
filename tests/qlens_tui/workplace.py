"""A folder in which `qlens` can be run: a tiny real model, a reference text, a config, a cache.

The model is a random Llama that transformers saves and loads like any other. Its
tokenizer knows single bytes and the worst tokens that a vocabulary may hold.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from click.testing import CliRunner, Result
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from qlens_tui.cli.main import cli
from tests.prepared import prepared
from tests.waiting import PATIENCE

N_LAYERS, D_MLP, D_VOCAB = 3, 24, 300
HOSTILE = (
    "\x1b[31mred",
    "\x1b]52;c;cHduZWQ=\x07",
    "\x9b2J",
    "\u202elive",
    "\u2066x",
    "zero\u200bwidth",
    "[bold]x[/bold]",
    "[link=http://x]y",
    ":skull:",
    "a\nb",
    "\r",
    "\x7f",
)
FORBIDDEN = ("\x1b", "\x9b", "\x07", "\x7f", "\r", "\u202e", "\u2066", "\u200b")

CONFIG = """
[model]
name = "./model"
[dictionary]
kind = "neurons"
[reference]
source = "text:reference.txt"
samples = 4
length = 20
[lens]
k = 5
[compute]
device = "cpu"
"""
TEXT = "The rest is noise, said the river to the stone; and the stone said nothing. " * 8


@dataclass(frozen=True)
class Workplace:
    """Runs `qlens` on the configuration in `folder`, with a cache of its own."""

    folder: Path

    @property
    def config(self) -> str:
        return str(self.folder / "tiny.toml")

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def run(self, *args: str, **environment: str) -> Result:
        """In this process, under the shape checks."""
        env = {"QLENS_CACHE_DIR": str(self.cache), "COLUMNS": "80", **self._data(), **environment}
        return CliRunner().invoke(cli, args, prog_name="qlens", env=env)

    def document(self, *args: str, **environment: str) -> dict[str, Any]:
        """The document that a successful command with --json prints."""
        result = self.run(*args, "--json", **environment)
        assert result.exit_code == 0, result.stderr
        document: dict[str, Any] = json.loads(result.stdout, parse_constant=_refuse)
        return document

    def refusal(self, status: int, *args: str, **environment: str) -> str:
        """The one error line of a command that ends with exit status `status`."""
        result = self.run(*args, **environment)
        assert result.exit_code == status, (result.exit_code, result.stderr, result.exception)
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("qlens: ")
        return str(line)

    def start(
        self,
        *args: str,
        stdin: int | None = None,
        stdout: int = subprocess.PIPE,
        **env: str,
    ) -> subprocess.Popen[str]:
        """A process of its own, as a shell starts it."""
        return self._start(_command(args), stdin, stdout, env)

    def start_prepared(self, *args: str, first: str = "") -> subprocess.Popen[str]:
        """The same with the core imported already; `first` is run before the command."""
        return self._start(prepared(_program(first), *args), None, subprocess.PIPE, {})

    def _start(
        self, command: list[str], stdin: int | None, stdout: int, env: dict[str, str]
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=self._environment() | env,
            stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def shell(
        self, args: Sequence[str], redirection: str, first: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a process with a redirection of the shell, such as `>&-`, to its end."""
        return subprocess.run(
            f"exec {shlex.join(_command(args, first))} {redirection}", shell=True,
            env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE,
        )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        ours = {"QLENS_CACHE_DIR": str(self.cache), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
        return os.environ | ours | self._data()

    def _data(self) -> dict[str, str]:
        """Use temporary directories, never the real marks of the user who runs the tests."""
        name = "QLENS_DATA_DIR"
        return {name: os.environ.get(name, str(self.folder / "data"))}

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text, "utf-8")
        return str(path)

    def with_cache(self, name: str) -> Workplace:
        """The same model and reference, and nothing cached."""
        other = self.folder / name
        other.mkdir()
        for shared in ("model", "reference.txt", "tiny.toml"):
            (other / shared).symlink_to(self.folder / shared)
        return Workplace(other)


def _command(args: Sequence[str], first: str = "") -> list[str]:
    return [sys.executable, "-c", _program(first), *args]


def _program(first: str) -> str:
    return f"{first}\nfrom qlens_tui.cli.main import main; main()"


def scores_by_id(tokens: dict[str, Any], name: str = "scores") -> dict[int, float]:
    """The scores of a list of tokens in a document."""
    return dict(zip(tokens["ids"], tokens[name], strict=True))


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def make_workplace(folder: Path) -> Workplace:
    # The command's own switch (an environment variable) comes too late: tqdm is imported.
    transformers.utils.logging.disable_progress_bar()
    save_tiny_model(folder / "model")
    workplace = Workplace(folder)
    workplace.write("reference.txt", TEXT)
    workplace.write("tiny.toml", CONFIG)
    return workplace


def save_tiny_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=D_VOCAB, hidden_size=16, intermediate_size=D_MLP, num_hidden_layers=N_LAYERS,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        bos_token_id=256, eos_token_id=256, pad_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: at for at, piece in enumerate([*alphabet, "<|end|>"])}
    bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_tokens([AddedToken(token, normalized=False) for token in HOSTILE])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytewise, bos_token="<|end|>", eos_token="<|end|>"
    )
