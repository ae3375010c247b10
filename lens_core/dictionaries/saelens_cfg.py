"""The `cfg.json` of a dictionary in SAELens's disk format."""

from __future__ import annotations

import json
from pathlib import Path

from lens_core.errors import DictionaryError

CFG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"


def read_cfg(folder: Path) -> dict[str, object]:
    """The `cfg.json` of a dictionary in SAELens's disk format.

    Raises:
        DictionaryError: there is no such folder or file, or it holds no JSON object.
    """
    if not folder.is_dir():
        raise DictionaryError(f"[dictionary].path {folder} is not a folder")
    file = folder / CFG_FILE
    try:
        cfg = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DictionaryError(
            f"{folder} holds no {CFG_FILE}: it is not in SAELens's disk format"
        ) from None
    except OSError as error:
        raise DictionaryError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise DictionaryError(f"{file} is not JSON: {error}") from error
    if not isinstance(cfg, dict):
        raise DictionaryError(f"{file} does not hold a JSON object")
    return cfg
