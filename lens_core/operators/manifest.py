"""The plan of a build as a file, and how it is recovered if that file is lost.

`manifest.json` holds its own checksum. Every file of sums, means and units has the same plan in
its metadata, covered by the file's checksum. A manifest that is missing, damaged or belongs to
other operators is therefore rewritten from the files that it describes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lens_core.errors import OperatorError, StoreError, one_line
from lens_core.operators.plan import FORMAT, BuildPlan
from lens_core.storage.files import build_lock, clear_directory, write_text_atomically
from lens_core.storage.fingerprint import fingerprint
from lens_core.storage.tensors import open_tensors, verify_tensors

MANIFEST = "manifest.json"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def read_manifest(directory: Path) -> BuildPlan:
    """The plan of the build in `directory`, from its manifest or else from its other files.

    Raises:
        OperatorError: neither has it.
    """
    plan, wrong = examine_manifest(directory)
    if plan is None:
        raise OperatorError(f"{wrong}: run `qlens build` first")
    return plan


def examine_manifest(directory: Path) -> tuple[BuildPlan | None, str]:
    """The plan of the build in `directory`, if known, and what is wrong with the manifest.

    The second is "" if the manifest is undamaged and agrees with the other files.
    """
    path = directory / MANIFEST
    try:
        plan = _sealed(path)
    except FileNotFoundError:
        wrong = f"no operators in {directory}"
        if sealed_files(directory):
            wrong = f"{path} is missing"
    except IsADirectoryError:
        wrong = f"{path} is a directory"
    except OSError as error:
        wrong = f"cannot read {path}: {error.strerror}"
    except ValueError as error:
        wrong = f"{path} is damaged: {one_line(error)}"
    except (TypeError, KeyError, AttributeError):
        wrong = f"{path} is damaged: it is not a manifest"
    else:
        if _belongs(plan, directory) and _agrees(plan, directory):
            return plan, ""
        wrong = f"{path} belongs to other operators"
    return plan_of_files(directory), wrong


def plan_of_files(directory: Path) -> BuildPlan | None:
    """The plan in the undamaged files of `directory`; `None` if none has it, or they disagree."""
    groups: dict[str, list[tuple[Path, BuildPlan]]] = defaultdict(list)
    for path, plan in _plans(directory):
        if _belongs(plan, directory):
            groups[fingerprint(asdict(_apart_from_the_machine(plan)))].append((path, plan))
    found = []
    for group in groups.values():
        for path, plan in group:
            with suppress(StoreError):
                verify_tensors(path)
                found.append(plan)
                break
    return found[0] if len(found) == 1 else None


def write_manifest(plan: BuildPlan, directory: Path) -> None:
    """Write the plan with a checksum, so that any change is detected."""
    manifest = asdict(plan)
    sealed = manifest | {"sha256": fingerprint(manifest)}
    clear_directory(directory / MANIFEST)
    write_text_atomically(directory / MANIFEST, json.dumps(sealed, indent=1, sort_keys=True) + "\n")


def agree(plan: BuildPlan, directory: Path) -> BuildPlan:
    """The plan already started in `directory`, which a resumed build or another shard keeps.

    A directory without a plan starts with `plan`; so does one whose files belong to the same
    operators but are older than plans in metadata.

    Raises:
        OperatorError: `directory` holds another build.
    """
    with build_lock(directory / "locks" / "manifest", wait=True):
        begun, wrong = examine_manifest(directory)
        if begun is None:
            begun = plan
        if wrong:
            write_manifest(begun, directory)
    if (begun.fingerprint, begun.rows_per_unit) != (plan.fingerprint, plan.rows_per_unit):
        raise OperatorError(
            f"{directory} holds operators of another model, reference or version: use another "
            "directory, or remove it"
        )
    return begun


def sealed_files(directory: Path) -> list[Path]:
    """Sums, means and units."""
    names = ("sums-*.safetensors", "mean-*.safetensors", "units/*.safetensors")
    found = [path for name in names for path in directory.glob(name)]
    return sorted(path for path in found if path.is_file())


def _sealed(path: Path) -> BuildPlan:
    """The plan in a manifest.

    Raises:
        OSError: it cannot be read.
        ValueError, TypeError, KeyError, AttributeError: its content is not a manifest.
    """
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    seal = manifest.pop("sha256", None)
    if seal is not None and seal != fingerprint(manifest):
        raise ValueError("its checksum does not match")
    if manifest["format"] != FORMAT:
        raise ValueError("it was written by another version of qlens")
    if seal is None:
        raise ValueError("it has no checksum")
    plan = BuildPlan(**manifest)
    if plan.fingerprint != fingerprint(plan.inputs):
        raise ValueError("its checksum does not match")
    return plan


def _belongs(plan: BuildPlan, directory: Path) -> bool:
    """Whether a directory named by a fingerprint is named by that of `plan`."""
    named = _FINGERPRINT.fullmatch(directory.name) is not None
    return not named or directory.name == plan.fingerprint


def _agrees(plan: BuildPlan, directory: Path) -> bool:
    """Whether a file next to the manifest has the same plan, or none has a plan."""
    plans = [other for _, other in _plans(directory) if _belongs(other, directory)]
    ours = _apart_from_the_machine(plan)
    return not plans or any(_apart_from_the_machine(other) == ours for other in plans)


def _plans(directory: Path) -> Iterator[tuple[Path, BuildPlan]]:
    """The plans that files claim; only headers are read, so checksums are not verified."""
    for path in sealed_files(directory):
        with suppress(StoreError, ValueError, TypeError, KeyError, AttributeError):
            with open_tensors(path) as file:
                said, of = json.loads(file.metadata["plan"]), file.metadata["operators"]
            plan = BuildPlan(**said)
            if of == plan.fingerprint == fingerprint(plan.inputs):
                yield path, plan


def _apart_from_the_machine(plan: BuildPlan) -> BuildPlan:
    """The part of the plan that all shards of a build share."""
    return replace(plan, micro_batch=1, device="")
