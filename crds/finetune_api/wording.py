"""Sentences for pydantic's errors: the value that was given, what is wanted, and how to write it in YAML."""

import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

_NUMBER = re.compile(r"^[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?$")
_WANTED = {
    "bool_type": "true or false",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def describe_error(path: Sequence[str | int], lines: Sequence[Any], value: Any) -> tuple[str, str | None]:
    """A sentence and a suggestion for the errors that pydantic found at one path."""
    line = lines[0]
    kind, context = line["type"], line.get("ctx") or {}
    key = path[-1] if path else "spec"
    if kind == "missing":
        return f"{key} is required", None
    types = list(dict.fromkeys(_WANTED[one["type"]] for one in lines if one["type"] in _WANTED))
    if kind in _WANTED:
        return _wrong_type(types, value), None
    if kind in ("literal_error", "union_tag_invalid"):
        return _not_a_choice(context, value)
    if kind == "union_tag_not_found":
        return f"{str(context.get('discriminator', 'type')).strip(chr(39))} is required here", None
    bound = _BOUNDS.get(kind)
    if bound:
        return bound(context, value), None
    return str(line["msg"]), None


def _wrong_type(wanted: Sequence[str], value: Any) -> str:
    text = f"must be {' or '.join(wanted)}, not {_show(value)}"
    if value is None:
        return f"{text}; remove the key for its default"
    if isinstance(value, str) and _NUMBER.match(value) and any("number" in one or "integer" in one for one in wanted):
        return f"{text}; remove the quotes"
    if isinstance(value, bool | int | float) and "text" in wanted:
        return f"{text}; write it in quotes"
    return text


def _not_a_choice(context: dict[str, Any], value: Any) -> tuple[str, str | None]:
    expected = str(context.get("expected") or context.get("expected_tags") or "")
    choices = re.findall(r"'([^']*)'", expected)
    given = context.get("tag", value)
    if isinstance(value, dict):
        value = given
    near = difflib.get_close_matches(str(value), choices, n=1)
    message = f"must be {expected}, not {_show(value)}"
    if isinstance(value, bool) and any(one in choices for one in ("no", "off", "yes", "on")):
        message += "; kubectl reads an unquoted no as false, write it in quotes"
    return message, near[0] if near else None


_BOUNDS: dict[str, Any] = {
    "greater_than": lambda context, value: f"must be greater than {context['gt']:g}, not {_show(value)}",
    "greater_than_equal": lambda context, value: f"must be at least {context['ge']:g}, not {_show(value)}",
    "less_than": lambda context, value: f"must be less than {context['lt']:g}, not {_show(value)}",
    "less_than_equal": lambda context, value: f"must be at most {context['le']:g}, not {_show(value)}",
    "too_short": lambda context, value: f"needs at least {context['min_length']} item",
    "too_long": lambda context, value: f"takes at most {context['max_length']} items",
    "string_too_short": lambda context, value: "must not be empty",
    "string_too_long": lambda context, value: f"must be at most {context['max_length']} characters long",
    "string_pattern_mismatch": lambda context, value: f"{_show(value)} does not match {context['pattern']}",
    "finite_number": lambda context, value: f"must be a finite number, not {value}",
}


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
