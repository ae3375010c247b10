"""Errors of other libraries, in words that are useful to a user.

Libraries read files with plain Python, so a damaged or unexpected file raises whatever the
current line raises: a missing entry is a `KeyError`, a number in place of a table a `TypeError`
about some `__init__`. Such text is about the library's source code and is replaced; text about
the file is kept.
"""

from __future__ import annotations

import re
from pickle import UnpicklingError

from lens_core.errors import one_line

# Signs of a message about code, not about a file.
_OF_CODE = re.compile(
    r"__\w+__|\bNoneType\b|\bself\b|unexpected keyword|positional argument|object has no attribute"
    r"|object is not|argument of type|not iterable|not subscriptable|not supported between"
    r"|\b[A-Za-z]*(Error|Exception)\b|<class |\w+\(\) |invalid literal|Traceback|unpack"
)
_UNFORESEEN = "its content is not what the library that reads it expects"


def in_plain_words(error: BaseException) -> str:
    """What is wrong with a file on which another library raised `error`; one short clause."""
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
    """torch's complaint about weights that do not fit their module; "" if it is something else."""
    said = []
    for found, words in (("Missing", "it lacks"), ("Unexpected", "it unexpectedly holds")):
        if names := re.search(rf"{found} key\(s\) in state_dict: ([^\n]*?)\.\s", text):
            bare = names[1].replace('"', "")
            said.append(f"{words} {bare}")
    mismatch = r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)"
    said += [
        f"{name} has the shape {has} where {wants} is expected"
        for name, has, wants in re.findall(mismatch, text)[:2]
    ]
    return "; ".join(said)
