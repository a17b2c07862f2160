"""The failures that the trainer's pods can name: a reason for the condition, a message that says what to do, an exit
code.

They exist so that every stage can raise one error and the entry points alone turn it into a termination message and an
exit code (docs/contracts.md); anything that is not a TrainerError is an internal error, retried.
"""

from typing import Any

from finetune_api.constants import ExitCode


class TrainerError(Exception):
    """A failure with a reason (CamelCase, becomes the condition's reason), a message for the user and an exit code."""

    reason = "InternalError"
    exit_code = ExitCode.INTERNAL

    def __init__(self, message: str, *, reason: str | None = None, exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason
        if exit_code is not None:
            self.exit_code = exit_code

    def to_report(self) -> dict[str, Any]:
        """The fields that a TerminationReport takes from a failure."""
        return {"reason": self.reason, "message": self.message, "exitCode": int(self.exit_code)}


class BadData(TrainerError):
    """The rows cannot be trained on; a retry would fail alike."""

    reason = "BadData"
    exit_code = ExitCode.BAD_DATA


class InputMissing(TrainerError):
    """A file, bucket, model or repository does not exist, or these credentials may not read it."""

    reason = "InputMissing"
    exit_code = ExitCode.INPUT_MISSING


class Unavailable(TrainerError):
    """A service did not answer; the operator retries with backoff."""

    reason = "Unavailable"
    exit_code = ExitCode.UNAVAILABLE


class Interrupted(TrainerError):
    """SIGTERM: what could be kept is kept; the next attempt goes on from there and the attempt is not counted."""

    reason = "Interrupted"
    exit_code = ExitCode.INTERRUPTED


class BadConfiguration(TrainerError):
    """The manifest asks for something that cannot be done; a retry would fail alike."""

    reason = "BadConfiguration"
    exit_code = ExitCode.BAD_CONFIG


class OutOfMemory(TrainerError):
    """The device's memory did not suffice; the message says what to turn down."""

    reason = "OutOfMemory"
    exit_code = ExitCode.OUT_OF_MEMORY


def describe(error: BaseException) -> dict[str, Any]:
    """The report of any error: a TrainerError's own words, or InternalError with the exception's type and text."""
    if isinstance(error, TrainerError):
        return error.to_report()
    return TrainerError(f"{type(error).__name__}: {error}").to_report()
