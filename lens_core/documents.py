"""Documents for a reference or a corpus: a bundled text, a text file, or a data set of the hub."""

from __future__ import annotations

import bz2
import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

from lens_core.errors import SampleError
from lens_core.foreign import in_plain_words
from lens_core.hub import Wanted, explained, is_offline

# A larger data set, or one of unknown size, is streamed over the network as far as needed.
DOWNLOAD_LIMIT = 1 << 30
BUNDLED = Path(str(files("lens_core") / "data" / "reference.txt.bz2"))
"""The reference text shipped with qlens (sources: `lens_core/data/LICENSES.md`)."""
HELD_OUT = BUNDLED.with_name("heldout.txt.bz2")
"""The other text shipped with qlens, in neither the reference nor the demo's training."""
_PIECE = 1 << 20  # bytes of a text file tokenised at once
_AT_MOST = 4 * _PIECE  # of a line


def bundled_documents() -> Iterator[str]:
    """The text shipped with qlens, as one document."""
    yield bz2.decompress(BUNDLED.read_bytes()).decode("utf-8")


def held_out_documents() -> Iterator[str]:
    """The held-out text shipped with qlens, by passages."""
    text = bz2.decompress(HELD_OUT.read_bytes()).decode("utf-8")
    yield from (f"{passage}\n\n" for passage in text.split("\n\n") if passage)


def text_documents(path: Path, *, what: str = "reference text") -> Iterator[str]:
    """A UTF-8 text file in pieces of whole lines, so that a large file is not read to the end.

    A line of more than `_AT_MOST` bytes is cut between characters. `what` names the file in
    messages.
    """
    at = 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while piece := b"".join(_lines(file)):
                if (zero := piece.find(0)) >= 0:
                    raise SampleError(
                        f"{what} {path} is not text (byte {at + zero} is zero): give a text file "
                        "in UTF-8"
                    )
                text = decoder.decode(piece)
                yield (text if at else text.removeprefix("\ufeff")).replace("\r\n", "\n")
                at += len(piece)
            decoder.decode(b"", final=True)
    except OSError as error:
        raise SampleError(f"{what} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        waited = len(decoder.getstate()[0])  # of the piece before
        raise SampleError(
            f"{what} {path} is not UTF-8 (byte {at - waited + error.start}): save it as UTF-8"
        ) from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of about `_PIECE` bytes in all."""
    read = 0
    while read < _PIECE and (line := file.readline(_AT_MOST)):
        if line.endswith(b"\r"):
            line += file.readline(1)
        read += len(line)
        yield line


def hub_documents(
    name: str,
    *,
    offline: bool,
    setting: str = "[reference].source",
    otherwise: str = 'set [reference].source = "bundled"',
) -> Iterator[str]:
    """Column `text` of the train split of a data set on the Hugging Face hub.

    `setting` is what named it, `otherwise` what the user can do instead; for messages.

    Up to `DOWNLOAD_LIMIT` the data set is kept in the cache of `datasets`, from
    which it is read when the hub is out of reach.
    """
    try:
        # With the prefix, a folder OWNER/NAME in the working directory is never used instead.
        yield from train_texts(f"hf://datasets/{name}", offline=offline)
    except SampleError as error:
        raise SampleError(f"data set {name}: {error}") from None
    except Exception as error:  # whatever datasets, the hub's client and Arrow raise
        wanted = Wanted(f"data set {name}", name, setting, kind="dataset")
        said = explained(error, wanted, offline=offline)
        if said is None:
            said = f"data set {name} cannot be read: {in_plain_words(error)}"
        else:
            said += f"; or {otherwise}"
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
