"""Shape checks on the core: what is called with a wrong shape, or gives one, fails the test.

Every function of `lens_core` whose own annotations have shapes is checked. Plain types are
mypy's, and functions inside functions are left alone: wrapping them at each call takes as long
as all the tests.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import jaxtyping
from beartype import beartype

import lens_core

_CHECK = jaxtyping.jaxtyped(typechecker=beartype)


def check_shapes() -> None:
    """Replace the functions of the core that have shapes by ones that check them."""
    root = Path(lens_core.__path__[0])
    for file in sorted(root.rglob("*.py")):
        if "from jaxtyping import" in file.read_text("utf-8"):
            importlib.import_module(".".join(file.relative_to(root.parent).with_suffix("").parts))
    modules = [module for name, module in sys.modules.items() if name.startswith("lens_core")]
    checked: dict[Callable[..., Any], Callable[..., Any]] = {}
    for module in modules:
        shapes = _shapes(module)
        for member in list(vars(module).values()):
            if getattr(member, "__module__", None) != module.__name__:
                continue
            if isinstance(member, FunctionType) and _names_one_of(shapes, member.__annotations__):
                checked[member] = _CHECK(member)
            elif inspect.isclass(member):
                _check_class(member, shapes)
    for module in modules:
        for name, member in list(vars(module).items()):
            if isinstance(member, FunctionType) and member in checked:
                setattr(module, name, checked[member])


def _check_class(owner: type, shapes: set[str]) -> None:
    members = dict(vars(owner))
    if dataclasses.is_dataclass(owner) and _names_one_of(shapes, owner.__annotations__):
        _CHECK(owner)
        del members["__init__"]
    for name, member in members.items():
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if isinstance(function, FunctionType) and _names_one_of(shapes, function.__annotations__):
            setattr(owner, name, _CHECK(member))


def _shapes(module: ModuleType) -> set[str]:
    """The names by which a module speaks of shapes: `Float`, `Stream`."""
    return {
        name
        for name, member in vars(module).items()
        if inspect.isclass(member)
        and (issubclass(member, jaxtyping.AbstractArray) or member.__module__ == "jaxtyping")
    }


def _names_one_of(shapes: set[str], annotations: dict[str, Any]) -> bool:
    return any(shapes & set(re.findall(r"\w+", str(each))) for each in annotations.values())
