"""What kubectl makes of a plain YAML scalar.

kubectl uses a fork of go-yaml v2 that follows YAML 1.1 in its own way: `no`, `on` and even `y` are booleans, `2e-5` is
a number (PyYAML reads text), `010` is 8, dates and `1:30` stay text. Checked against kubectl 1.36 by a test.
"""

import math
import re

_BOOLEANS = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
_NULLS = ("", "~", "null", "Null", "NULL")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_DECIMAL = re.compile(r"^[-+]?(0|[1-9][0-9]*)$")
_BASED = re.compile(r"^([-+]?)0(?:([xX])([0-9a-fA-F]+)|[oO]?([0-7]+)|([bB])([01]+))$")
_SPECIAL = {".nan": math.nan, ".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf}
LONGEST_INTEGER = 70  # 64 bits written one by one, with sign and prefix
_INT64 = (-(2**63), 2**64 - 1)


def resolve_plain(text: str) -> str | bool | int | float | None:
    """The value of an unquoted scalar, after kubectl's conversion to JSON (3.0 becomes 3 there)."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in "+-.0123456789":
        return text
    if text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    digits = text.replace("_", "")
    whole = _integer(digits)
    if whole is not None and _INT64[0] <= whole <= _INT64[1]:
        return whole
    if _FLOAT.match(digits):
        return _as_json_number(float(digits))
    return text


def surprising(text: str) -> bool:
    """Whether kubectl's reading of an unquoted scalar was probably not meant: `no`, `on`, `y`, `010`, `1_000`."""
    value = resolve_plain(text)
    if isinstance(value, bool):
        return text.lower() not in ("true", "false")
    return isinstance(value, int | float) and ("_" in text or bool(re.match(r"^[-+]?0[0-9]", text)))


def _integer(digits: str) -> int | None:
    if len(digits) > LONGEST_INTEGER:
        return None
    if _DECIMAL.match(digits):
        return int(digits)
    based = _BASED.match(digits)
    if not based:
        return None
    sign, is_hex, hexadecimal, octal, _, binary = based.groups()
    value = int(hexadecimal, 16) if is_hex else int(octal, 8) if octal else int(binary, 2)
    return -value if sign == "-" else value


def _as_json_number(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 1e21 else value
