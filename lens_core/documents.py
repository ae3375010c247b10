"""Documents for a reference: the bundled text, a text file, or a data set of the hub."""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from lens_core.errors import SampleError
from lens_core.foreign import in_plain_words
from lens_core.hub import Wanted, explained, is_offline

# A larger data set, or one of unknown size, is streamed over the network as far as needed.
DOWNLOAD_LIMIT = 1 << 30
BUNDLED = Path(str(files("lens_core") / "data" / "reference.txt.bz2"))
"""The text shipped with qlens (sources: `lens_core/data/LICENSES.md`)."""
_PIECE = 1 << 20  # bytes of a text file tokenised at once


def bundled_documents() -> Iterator[str]:
    """The text shipped with qlens, as one document."""
    yield bz2.decompress(BUNDLED.read_bytes()).decode("utf-8")


def text_documents(path: Path) -> Iterator[str]:
    """A UTF-8 text file in pieces of whole lines, so that a large file is not read to the end."""
    at = 0
    try:
        with path.open("rb") as file:
            while lines := file.readlines(_PIECE):
                piece = b"".join(lines)
                text = piece.decode("utf-8")
                yield (text if at else text.removeprefix("\ufeff")).replace("\r\n", "\n")
                at += len(piece)
    except OSError as error:
        raise SampleError(f"reference text {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SampleError(
            f"reference text {path} is not UTF-8 (byte {at + error.start}): save it as UTF-8"
        ) from error


def hub_documents(name: str, *, offline: bool) -> Iterator[str]:
    """Column `text` of the train split of a data set on the Hugging Face hub.

    Up to `DOWNLOAD_LIMIT` the data set is kept in the cache of `datasets`, from
    which it is read when the hub is out of reach.
    """
    try:
        # With the prefix, a folder OWNER/NAME in the working directory is never used instead.
        yield from train_texts(f"hf://datasets/{name}", offline=offline)
    except SampleError as error:
        raise SampleError(f"data set {name}: {error}") from None
    except Exception as error:  # whatever datasets, the hub's client and Arrow raise
        wanted = Wanted(f"data set {name}", name, "[reference].source", kind="dataset")
        said = explained(error, wanted, offline=offline)
        if said is None:
            said = f"data set {name} cannot be read: {in_plain_words(error)}"
        else:
            said += '; or set [reference].source = "bundled"'
        raise SampleError(said) from error


def train_texts(path: str, *, offline: bool) -> Iterator[str]:
    """Column `text` of the train split of anything that `datasets` can load."""
    import datasets

    with _offline_mode(offline):
        builder = datasets.load_dataset_builder(path)
    size = builder.info.download_size
    if size is None or size > DOWNLOAD_LIMIT:
        rows = builder.as_streaming_dataset(split="train")
    else:
        builder.download_and_prepare()
        rows = builder.as_dataset(split="train")
    for number, row in enumerate(rows):
        text = row.get("text")
        if not isinstance(text, str):
            raise SampleError(
                f'row {number} has no text in a column "text"; its columns are {", ".join(row)}'
            )
        yield text


@contextmanager
def _offline_mode(offline: bool) -> Iterator[None]:
    """Set the offline switch of `datasets`, which it reads only once, at import."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or offline or is_offline()
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
