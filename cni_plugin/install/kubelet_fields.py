"""One field of a YAML or JSON file that others wrote: read, set and taken back by its line alone.

Comments, order, quotes and every other byte stay as they are. What the line-level change made of the file is compared
with what was meant by parsing both with PyYAML; without PyYAML (a damaged payload, where only taking back counts) that
comparison is left out. A field that had to be made, or was empty, says so in a comment on its line, and by that
comment it is taken back to the byte.
"""

import json
import re
from typing import Any

WAS_ABSENT, WAS_EMPTY = "  # podwire: was absent", "  # podwire: was empty"


class FieldError(Exception):
    """The text cannot be understood, or not be changed safely; the message has no path."""


def read(text: str, field: str) -> str:
    """The value of a top-level field, "" when it is absent or empty. Raises FieldError."""
    found = _line(text, field)
    value = _unquoted(found["value"]) if found else ""
    parsed = _parsed(text)
    if parsed is not None and (parsed.get(field) or "") != value:
        raise FieldError(f"{field} is written in a way that cannot be changed safely (its line was read as {value!r})")
    return value


def put(text: str, field: str, value: str, default: str) -> str:
    """The text with `field` set; a line that says it was absent or empty is taken back for `default`."""
    found = _line(text, field)
    if found is None:
        after = text if value == default else _added(text, field, value)
    elif found["rest"].endswith(WAS_ABSENT) and value == default:
        after = _removed(text, found)
    else:
        after = text[: found.start()] + _changed(found, field, value, default) + text[found.end() :]
    _verify(text, after, field, value, default)
    return after


def _line(text: str, field: str) -> "re.Match[str] | None":
    """The field's line at top level; in JSON, which is indented, the only one of its name."""
    pattern = (
        rf"^(?P<indent>[ \t]*)(?P<quote>[\"']?){re.escape(field)}(?P=quote)[ \t]*:(?P<space>[ \t]*)"
        r"(?P<value>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\n]|'')*'|[^\s#\"',{}\[\]&*!|>][^\s#,{}\[\]]*|)"
        r"(?P<rest>[ \t]*,?(?:[ \t]+#[^\r\n]*|[ \t]*))(?=\r?$)"
    )
    found = [
        each for each in re.finditer(pattern, text, re.MULTILINE) if not each["indent"] or text.lstrip()[:1] == "{"
    ]
    if len(found) > 1:
        raise FieldError(f"{field} stands in it {len(found)} times")
    return found[0] if found else None


def _added(text: str, field: str, value: str) -> str:
    if text.lstrip()[:1] == "{":
        raise FieldError(f"it is JSON without the field {field}, which has to be added by hand")
    line = f"{field}: {value}{WAS_ABSENT}"
    return f"{text}{line}\n" if not text or text.endswith("\n") else f"{text}\n{line}"


def _removed(text: str, found: "re.Match[str]") -> str:
    head, tail = text[: found.start()], text[found.end() :]
    # As `_added` put it: after a text that did not end with a newline it brought its own.
    return head + tail[1:] if tail else head[:-1]


def _changed(found: "re.Match[str]", field: str, value: str, default: str) -> str:
    quote, rest = found["value"][:1] if found["value"][:1] in ("'", '"') else "", found["rest"]
    key = found["indent"] + found["quote"] + field + found["quote"] + ":"
    if rest.endswith(WAS_EMPTY) and value == default:
        return key + (found["space"] + quote * 2 if quote else "") + rest.removesuffix(WAS_EMPTY)
    if not _unquoted(found["value"]):
        if value == default:
            return found[0]
        # JSON knows no comments; a comment that is there already is not ours to add to.
        rest = rest if found["indent"] or rest.strip() else WAS_EMPTY
    return key + (found["space"] or " ") + _quoted(value, quote) + rest


def _quoted(value: str, quote: str) -> str:
    return f"{quote}{value}{quote}"


def _unquoted(value: str) -> str:
    try:
        if value.startswith('"'):
            return str(json.loads(value))
    except ValueError as fault:
        raise FieldError(f"{value}: {fault}") from None
    return value[1:-1].replace("''", "'") if value.startswith("'") else value


def _verify(before: str, after: str, field: str, value: str, default: str) -> None:
    was, became = _parsed(before), _parsed(after)
    if was is None or became is None:
        return
    if (became.get(field) or default) != value or {**became, field: None} != {**was, field: None}:
        raise FieldError(f"setting {field} to {value} would change more than that")


def _parsed(text: str) -> dict[str, Any] | None:
    """What the text means; None without PyYAML."""
    try:
        import yaml
    except ImportError:
        return None
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise FieldError(f"it is no YAML: {' '.join(str(fault).split())}") from None
    if read is None:
        return {}
    if not isinstance(read, dict):
        raise FieldError("it holds no fields")
    return read
