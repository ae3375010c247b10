"""What an import must not cost: the app starts without torch."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "sae_lens", "transformer_lens")


def test_the_app_with_all_of_its_screens_never_imports_torch():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "qlens_tui").rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    modules.remove("qlens_tui.engine.process")  # it is another process, which does
    program = (
        f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stderr == ""
    assert run.stdout.strip() == "[]"
