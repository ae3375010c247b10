"""Front ends are tested on tiny real models; sessions on the same files share one."""

from __future__ import annotations

import pytest

from lens_core import session
from lens_core.model_files import find_model


@pytest.fixture(scope="session")
def _loaded_models() -> dict[object, object]:
    return {}


@pytest.fixture(autouse=True)
def models_are_loaded_once(
    _loaded_models: dict[object, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No front end changes a model. Files that were written since are another model."""
    load = session.load_model

    def load_model(config, *, say=None, **how):
        folder = find_model(config, offline=how["offline"], beside=how["beside"])
        if not folder.is_dir():
            return load(config, say=say, **how)
        files = [(file, file.stat()) for file in sorted(folder.rglob("*"))]
        seen = [(str(file), stat.st_ino, stat.st_size, stat.st_mtime_ns) for file, stat in files]
        # The cache holds what is made of a GGUF; nothing of a folder's weights.
        way = sorted((name, str(each)) for name, each in how.items() if name != "cache_dir")
        key = (config, tuple(seen), *way)
        if key not in _loaded_models:
            _loaded_models[key] = load(config, say=say, **how)
        return _loaded_models[key]

    monkeypatch.setattr(session, "load_model", load_model)
