"""What may import what: the app starts without torch, widgets know nothing of the core."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "sae_lens", "transformer_lens")


def imported_by(path: Path) -> set[str]:
    """Modules that a file names in an import anywhere, those for types alone left out."""
    tree = ast.parse(path.read_text("utf-8"))
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typed:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "lens_core").glob("*.py")), ids=lambda p: p.name)
def test_the_core_knows_nothing_of_a_terminal(path):
    tops = {name.split(".")[0] for name in imported_by(path)}
    assert not tops & {"qlens_tui", "click", "rich", "textual"}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "qlens_tui" / "widgets").glob("*.py")), ids=lambda p: p.name
)
def test_widgets_know_neither_the_core_nor_the_engine(path):
    names = imported_by(path)
    assert not {name for name in names if name.split(".")[0] == "lens_core"}
    assert not {name for name in names if name.startswith("qlens_tui.engine")}
    assert not {
        name for name in names if name.split(".")[0] in ("subprocess", "sqlite3", "asyncio")
    }


def test_the_app_with_all_of_its_screens_never_imports_torch():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("screens", "widgets")
        for path in (ROOT / "qlens_tui" / folder).glob("*.py")
        if path.name != "__init__.py"
    ]
    modules += [f"qlens_tui.{name}" for name in ("app", "engine", "export", "features", "rows")]
    program = (
        f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stderr == ""
    assert run.stdout.strip() == "[]"
