"""The rules of docs/architecture.md that import-linter has no contract for."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for top in ("lens_core", "qlens_tui") for path in (ROOT / top).rglob("*.py"))
HEAVY = ("torch", "transformers", "sae_lens", "transformer_lens")
LONGEST = 400


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported_by(path: Path) -> Iterator[tuple[str, str]]:
    """Each module of ours that a file imports from anywhere in it, for types too, and the name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in MODULES else (node.module, alias.name)


def test_no_files_import_each_other_in_a_circle():
    graph = {
        module: {name for name, _ in imported_by(path) if name in MODULES} - {module}
        for module, path in MODULES.items()
    }
    # Names of the package's front door are imported when first used, and by nothing inside.
    del graph["lens_core"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_nothing_private_of_the_core_is_imported_by_a_front_end():
    private = [
        f"{module}: {name}.{what}"
        for module, path in MODULES.items()
        if module.startswith("qlens_tui")
        for name, what in imported_by(path)
        if name.startswith("lens_core")
        and any(part.startswith("_") for part in (*name.split("."), what))
    ]
    assert private == []


def test_a_long_file_says_why():
    long = []
    for path in FILES:
        text = path.read_text("utf-8")
        head = ast.get_docstring(ast.parse(text)) or ""
        if text.count("\n") > LONGEST and "one file because" not in " ".join(head.split()):
            long.append(f"{module_of(path)}: {text.count(chr(10))} lines")
    assert long == []


def test_the_app_with_all_of_its_screens_never_imports_torch():
    # The engine's process is another one, which does.
    names = [
        name
        for name in MODULES
        if name.startswith("qlens_tui.")
        and name not in ("qlens_tui.__main__", "qlens_tui.engine.process")
    ]
    program = (
        f"import sys, importlib\nfor name in {names!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stderr == ""
    assert run.stdout.strip() == "[]"
