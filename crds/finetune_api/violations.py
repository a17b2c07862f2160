"""A violation of a rule that the shape of the schema cannot express, and how it joins pydantic's own errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

RULE = "finetune_rule"  # pydantic error type of our own rules


@dataclass(frozen=True)
class Violation:
    """Where (keys from spec down), what is wrong, and how to put it right, in one sentence."""

    path: tuple[str | int, ...]
    message: str


def merge_violations(error: ValidationError | None, violations: Sequence[Violation], data: Any) -> ValidationError:
    """One ValidationError with the errors of the schema and of the rules."""
    details: list[InitErrorDetails] = []
    for line in error.errors(include_url=False) if error else ():
        details.append(
            InitErrorDetails(
                type=PydanticCustomError(line["type"], _final(line["msg"]), line.get("ctx") or {}),
                loc=line["loc"],
                input=line["input"],
            )
        )
    for violation in violations:
        details.append(
            InitErrorDetails(
                type=PydanticCustomError(RULE, _final(violation.message)),
                loc=violation.path,
                input=value_at(data, violation.path),
            )
        )
    return ValidationError.from_exception_data("FineTuneJobSpec", details)


def has_step(data: Any, step: str | int) -> bool:
    """Whether a mapping has this key, or a list this index."""
    if isinstance(data, dict):
        return step in data
    return isinstance(data, list) and isinstance(step, int) and 0 <= step < len(data)


def value_at(data: Any, path: Sequence[str | int]) -> Any:
    """The value at a path of raw data, or None."""
    for step in path:
        if not has_step(data, step):
            return None
        data = data[step]
    return data


def _final(message: str) -> Any:
    """pydantic types templates as literals; ours are final texts, whose braces it leaves alone."""
    return message
