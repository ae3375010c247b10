"""What an error of a foreign library says, in words that a user can use.

Libraries read files with plain Python, so that a damaged or unforeseen one raises whatever the
line at hand raises: a missing entry is a `KeyError`, a number where a table was expected a
`TypeError` about some `__init__`. Such text is about the library's source and tells a user
nothing; what it does tell is kept.
"""

from __future__ import annotations

import re
from pickle import UnpicklingError

from lens_core.errors import one_line

# Words of an interpreter that speaks of code, not of a file.
_OF_CODE = re.compile(
    r"__\w+__|\bNoneType\b|\bself\b|unexpected keyword|positional argument|object has no attribute"
    r"|object is not|argument of type|not iterable|not subscriptable|not supported between"
    r"|\b[A-Za-z]*(Error|Exception)\b|<class |\w+\(\) |invalid literal|Traceback|unpack"
)
_UNFORESEEN = "its content is not what the library that reads it expects"


def in_plain_words(error: BaseException) -> str:
    """What is wrong with a file on which a foreign reader raised `error`; one short clause."""
    if isinstance(error, KeyError):
        return f"it has no entry {one_line(str(error.args[0]))}" if error.args else _UNFORESEEN
    if isinstance(error, UnpicklingError):
        return "it is a pickle that holds more than tensors, which is never opened"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if tensors := _tensors(str(error)):
        return tensors
    text = one_line(error)
    if type(error).__name__ == "SafetensorError":
        return "the safetensors file is damaged or incomplete"
    speaks_of_code = isinstance(error, AttributeError | NameError | AssertionError | IndexError)
    if speaks_of_code or not str(error).strip() or _OF_CODE.search(text):
        return _UNFORESEEN
    return text


def _tensors(text: str) -> str:
    """What torch says of weights that do not fit their module; "" if it is not about that."""
    said = []
    for found, words in (("Missing", "it lacks"), ("Unexpected", "it holds, unasked,")):
        if names := re.search(rf"{found} key\(s\) in state_dict: ([^\n]*?)\.\s", text):
            bare = names[1].replace('"', "")
            said.append(f"{words} {bare}")
    mismatch = r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)"
    said += [
        f"{name} has the shape {has} where {wants} is expected"
        for name, has, wants in re.findall(mismatch, text)[:2]
    ]
    return "; ".join(said)
