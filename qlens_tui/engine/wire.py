"""Messages as bytes: frames of checked JSON on a pipe.

A frame is four bytes of length (big-endian) and a JSON object with the message's `kind` and
fields, in UTF-8 that also carries lone surrogates (`surrogatepass`: JSON's own escapes would
join two of them into another character). Incoming frames are checked against the annotations
of `requests`, `events` and the core's results: one that does not fit is a `WireError`, never
a partial message. After an invalid length no later frame can be found: the stream is lost.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, BinaryIO, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lens_core.terms import in_order
from qlens_tui.engine.events import Event
from qlens_tui.engine.requests import Request

# The strings of the largest vocabularies are 8 MB, a signature 40 KB.
LARGEST_FRAME = 1 << 26
_LENGTH_BYTES = 4

Kind = TypeVar("Kind", Request, Event)


class WireError(ValueError):
    """Bytes that are not a valid message; `lost` if no later message can be read either."""

    def __init__(self, text: str, *, lost: bool = False) -> None:
        super().__init__(text)
        self.lost = lost


def write_message(stream: BinaryIO, message: Request | Event) -> None:
    """Write one frame.

    Raises:
        WireError: the message is larger than `LARGEST_FRAME`; nothing is written.
    """
    content = encode(message)
    if len(content) > LARGEST_FRAME:
        raise WireError(f"{type(message).__name__} is {len(content):,} bytes: too large to send")
    stream.write(len(content).to_bytes(_LENGTH_BYTES, "big") + content)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """The content of the next frame; `None` at the end of the stream.

    Raises:
        WireError: the stream ends inside a frame, or the length is invalid.
    """
    head = stream.read(_LENGTH_BYTES)
    if not head:
        return None
    length = int.from_bytes(head, "big")
    if len(head) < _LENGTH_BYTES or length > LARGEST_FRAME:
        raise WireError(f"a frame begins with {head.hex()}, which is not a valid length", lost=True)
    content = stream.read(length)
    if len(content) < length:
        raise WireError(f"the stream ends {length - len(content)} bytes early", lost=True)
    return content


def encode(message: Request | Event) -> bytes:
    """The content of a frame."""
    document = {"kind": type(message).__name__, **_plain(message)}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def decode(content: bytes, family: type[Kind]) -> Kind:
    """The message of `family` (`Request` or `Event`) that a frame holds.

    Raises:
        WireError: the frame holds no such message.
    """
    try:
        document = json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise WireError(f"a frame of {len(content):,} bytes is not JSON") from error
    if not isinstance(document, dict):
        raise WireError("a frame is not an object")
    kind = document.pop("kind", None)
    found = next((each for each in _messages(family) if each.__name__ == kind), None)
    if found is None:
        raise WireError(f"there is no {family.__name__.lower()} called {str(kind)[:40]!r}")
    wanted: Any = found
    message: Kind = _reader(wanted)(document)
    return message


def _messages(family: type[Kind]) -> list[type[Kind]]:
    """The messages of a family: its classes from which no other is derived."""
    below = family.__subclasses__()
    return [message for each in below for message in _messages(each)] if below else [family]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        # A shortcut: most of a message is tuples of numbers and strings.
        first = value[0] if value else None
        nested = is_dataclass(first) or isinstance(first, tuple)
        return [_plain(item) for item in value] if nested else value
    if isinstance(value, frozenset):
        return [_plain(item) for item in in_order(value)]
    return value


Reader = Callable[[Any], Any]


@cache
def _reader(wanted: Any) -> Reader:
    """A function that turns JSON into `wanted` or raises a `WireError`."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if is_dataclass(wanted):
        return _object_reader(wanted)
    if origin is Literal:
        return lambda value: value if value in arguments else _refuse(value, wanted)
    if origin in (Union, types.UnionType):
        return _union_reader(wanted, [_reader(each) for each in arguments])
    if origin is tuple:
        return _tuple_reader(wanted, arguments)
    if origin is frozenset:
        items = _tuple_reader(wanted, (arguments[0], Ellipsis))
        return lambda value: frozenset(items(value))
    if origin is Mapping:
        item = _reader(arguments[1])
        return lambda value: (
            {key: item(each) for key, each in value.items()}
            if isinstance(value, dict)
            else _refuse(value, wanted)
        )
    if wanted is float:
        return lambda value: float(value) if type(value) in (int, float) else _refuse(value, wanted)
    return lambda value: value if type(value) is wanted else _refuse(value, wanted)


def _object_reader(wanted: Any) -> Reader:
    readers = {name: _reader(hint) for name, hint in get_type_hints(wanted).items()
               if name in {f.name for f in fields(wanted)}}  # fmt: skip

    def read(value: Any) -> Any:
        if not isinstance(value, dict) or not readers.keys() >= value.keys():
            _refuse(value, wanted)
        try:
            return wanted(**{name: readers[name](item) for name, item in value.items()})
        except TypeError:
            return _refuse(value, wanted)

    return read


def _tuple_reader(wanted: Any, arguments: tuple[Any, ...]) -> Reader:
    endless = arguments[-1] is Ellipsis
    items = [_reader(each) for each in arguments if each is not Ellipsis]

    def read(value: Any) -> Any:
        if not isinstance(value, list) or not (endless or len(value) == len(items)):
            _refuse(value, wanted)
        if endless:
            return tuple(map(items[0], value))
        return tuple(item(each) for item, each in zip(items, value, strict=True))

    return read


def _union_reader(wanted: Any, readers: list[Reader]) -> Reader:
    def read(value: Any) -> Any:
        for reader in readers:
            try:
                return reader(value)
            except WireError:
                continue
        return _refuse(value, wanted)

    return read


def _refuse(value: Any, wanted: Any) -> Any:
    name = getattr(wanted, "__name__", str(wanted))
    raise WireError(f"{repr(value)[:60]} is not {name}")


def messages_of(stream: BinaryIO, family: type[Kind]) -> Iterator[Kind | WireError]:
    """Every message until the stream ends; an invalid one is yielded as its `WireError`.

    An error that is `lost` is the last item.
    """
    while True:
        try:
            content = read_frame(stream)
            if content is None:
                return
            yield decode(content, family)
        except WireError as error:
            yield error
            if error.lost:
                return
