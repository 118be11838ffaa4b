"""JSON text to values and back: as `json` does it, and a ValueError for all that is no JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import jsontext

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert jsontext.loads(jsontext.dumps(value).encode()) == value


@given(VALUES, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_what_json_writes_is_read_alike(value: Any, indent: int | str | None, ascii_only: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    try:
        expected = json.loads(raw.decode())
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="not UTF-8"):
            jsontext.loads(raw)
        return
    assert jsontext.loads(raw) == expected


@given(VALUES)
def test_what_is_written_is_one_line_of_ascii_that_json_reads_alike(value: Any) -> None:
    text = jsontext.dumps(value)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == value


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_a_value_error(raw: bytes) -> None:
    try:
        value = jsontext.loads(raw)
    except ValueError:
        return
    assert json.loads(raw) == value


@given(st.text(alphabet='{}[]":,\\u0123eE+-.tnrfalsN \n', max_size=30))
def test_nothing_is_read_that_json_refuses(text: str) -> None:
    try:
        value = jsontext.loads(text.encode())
    except ValueError:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", "it is empty", id="empty"),
        pytest.param(b" \t\r\n", "it is empty", id="white space"),
        pytest.param(b"\xef\xbb\xbf{}", "no value at character 0|BOM", id="byte order mark"),
        pytest.param(b'{"a": NaN}', "NaN is not JSON", id="NaN"),
        pytest.param(b"Infinity", "Infinity is not JSON", id="infinity"),
        pytest.param(b"[-Infinity]", "-Infinity is not JSON", id="minus infinity"),
        pytest.param(b"[1e999]", "1e999 is out of range", id="float overflow"),
        pytest.param(b"[-1e999]", "-1e999 is out of range", id="negative float overflow"),
        pytest.param(b"9" * 5000, "integer", id="huge integer"),
        pytest.param(b'{"a": 1, "b": 2, "a": 3}', "duplicate key 'a'", id="duplicate key"),
        pytest.param(b'{"x": [{"k": 1, "k": 1}]}', "duplicate key 'k'", id="duplicate key inside"),
        pytest.param(b"{} {}", "extra data at character 3", id="two objects"),
        pytest.param(b"1 x", "extra data at character 2", id="trailing letter"),
        pytest.param(b"{}\0", "extra data at character 2", id="trailing NUL"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="deep list"),
        pytest.param(b'{"a":' * 100_000, "nested too deeply", id="deep object"),
        pytest.param(b'"\xff"', "not UTF-8 at byte 1", id="bad UTF-8"),
        pytest.param(b'"\xed\xa0\x80"', "not UTF-8 at byte 1", id="encoded surrogate"),
        pytest.param(b'{"a": 1}'.decode().encode("utf-16"), "not UTF-8", id="UTF-16"),
        pytest.param(b'"abc', "Unterminated string", id="unterminated string"),
        pytest.param(b'{"abc', "Unterminated string", id="unterminated key"),
        pytest.param(b'"a\nb"', "Invalid control character", id="line feed in string"),
        pytest.param(rb'"\x"', r"Invalid \\escape", id="unknown escape"),
        pytest.param(rb'"\u12"', r"Invalid \\uXXXX escape", id="short escape"),
        pytest.param(b'{"a" 1}', "':' delimiter", id="missing colon"),
        pytest.param(b'{"a": 1,}', "property name|trailing comma", id="trailing comma"),
        pytest.param(b"{1: 2}", "property name", id="number as key"),
        pytest.param(b"{'a': 2}", "property name", id="single quotes"),
        pytest.param(b"[1 2]", "',' delimiter", id="missing comma"),
        pytest.param(b"[1,]", "no value at character 3", id="comma at the end"),
        pytest.param(b'{"a":}', "no value at character 5", id="missing value"),
        pytest.param(b"tru", "no value at character 0", id="half a word"),
        pytest.param(b"01", "extra data", id="leading zero"),
        pytest.param(b"-", "no value", id="lonely minus"),
        pytest.param(b"// c\n{}", "no value at character 0", id="comment"),
    ],
)
def test_malformed_text_is_a_value_error_that_names_its_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        jsontext.loads(raw)


def test_a_huge_float_below_the_limit_is_read() -> None:
    assert jsontext.loads(b"[1e308, 1e-999]") == [1e308, 0.0]


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}, math.nan, math.inf], ids=repr)
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        jsontext.dumps([value])
