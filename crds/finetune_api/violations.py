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
                type=PydanticCustomError(line["type"], _escape(line["msg"]), line.get("ctx") or {}),  # type: ignore[arg-type]
                loc=line["loc"],
                input=line["input"],
            )
        )
    for violation in violations:
        details.append(
            InitErrorDetails(
                type=PydanticCustomError(RULE, _escape(violation.message)),  # type: ignore[arg-type]
                loc=violation.path,
                input=value_at(data, violation.path),
            )
        )
    return ValidationError.from_exception_data("FineTuneJobSpec", details)


def value_at(data: Any, path: Sequence[str | int]) -> Any:
    """The value at a path of raw data, or None."""
    for step in path:
        if (isinstance(data, dict) and step in data) or (isinstance(data, list) and isinstance(step, int) and 0 <= step < len(data)):
            data = data[step]
        else:
            return None
    return data


def _escape(message: str) -> Any:
    """PydanticCustomError fills {…} from its context; our texts are final."""
    return message.replace("{", "{{").replace("}", "}}") if "{" in message else message
