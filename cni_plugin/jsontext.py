"""JSON text to values and back, by CPython's C scanner and encoder alone.

`import json` costs four milliseconds for the regular expressions of its Python layer; the C parts it wraps do
the work. What the Python layer checks around them (leading space, trailing data, NaN) is checked here.
"""

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_SPACE = " \t\n\r"
_INFINITY = float("inf")


def _constant(name: str) -> "NoReturn":
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    # An infinity could be read, and then not be written into an answer.
    number = float(text)
    if number in (_INFINITY, -_INFINITY):
        raise ValueError(f"number {text[:40]} is out of range")
    return number


def _object(pairs: "list[tuple[str, Any]]") -> "dict[str, Any]":
    members = dict(pairs)
    if len(members) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
    return members


def _diagnosis(text: str) -> str:
    # The C scanner looks for JSONDecodeError among the modules already imported, and fails without one.
    import json

    try:
        json.loads(text)
    except ValueError as fault:
        return str(fault)
    return "malformed"


class _Context:
    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_float = staticmethod(_float)
    parse_int = int
    parse_constant = staticmethod(_constant)
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner wants a plain attribute


def loads(raw: bytes) -> "Any":
    """One JSON value out of UTF-8 `raw`. Raises ValueError with position or reason for anything else."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise ValueError(f"not UTF-8 at byte {fault.start}") from None
    start, end = 0, len(text)
    while start < end and text[start] in _SPACE:
        start += 1
    if start == end:
        raise ValueError("it is empty")
    try:
        value, stop = _json.make_scanner(_Context())(text, start)  # type: ignore[arg-type]
    except StopIteration as fault:
        raise ValueError(f"no value at character {fault.value}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except SystemError:
        raise ValueError(_diagnosis(text)) from None
    while stop < end and text[stop] in _SPACE:
        stop += 1
    if stop != end:
        raise ValueError(f"extra data at character {stop}")
    return value


def _unknown(value: object) -> "NoReturn":
    raise TypeError(f"{type(value).__name__} has no JSON form")


_encode = _json.make_encoder(
    None,
    _unknown,
    _json.encode_basestring_ascii,
    None,
    ":",
    ",",
    False,
    False,
    False,
)


def dumps(value: object) -> str:
    """`value` (dict, list, str, int, float, bool, None) as one line of ASCII JSON."""
    if isinstance(value, str):
        return _json.encode_basestring_ascii(value)
    return "".join(_encode(value, 0))
