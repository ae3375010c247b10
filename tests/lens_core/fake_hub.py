"""A hub's cache as huggingface_hub lays it out, and a hub that answers what a test wants."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx2

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz"
COMMIT = "0" * 40

Respond = Callable[[httpx2.Request], httpx2.Response]


def cached(cache: Path, repository: str, folder: str = ".") -> Path:
    """The folder in which `repository`'s files lie in the cache, with the bookkeeping done."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    place = root / "snapshots" / COMMIT / folder
    place.mkdir(parents=True, exist_ok=True)
    return place


def hub_error(
    request: httpx2.Request, status: int, code: str = "", message: str = ""
) -> httpx2.Response:
    """The hub's answers for errors."""
    headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Request-Id": "1"}
    return httpx2.Response(status, headers=headers, request=request)


def serving(files: dict[str, bytes], repository: str, asked: list[str]) -> Respond:
    """A hub with one repository; requests are recorded in `asked`."""

    def respond(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        asked.append(path)
        answer = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
        if path.startswith(f"/api/models/{repository}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                for name, content in files.items()
            ]
            return httpx2.Response(200, json=entries, request=request)
        if path.startswith(f"/api/models/{repository}"):
            return httpx2.Response(200, json=answer, request=request)
        name = path.removeprefix(f"/{repository}/resolve/{COMMIT}/")
        if name not in files:
            return hub_error(request, 404, "EntryNotFound")
        content = files[name]
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT}
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(content))
            return httpx2.Response(200, headers=headers, request=request)
        return httpx2.Response(200, headers=headers, content=content, request=request)

    return respond


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
