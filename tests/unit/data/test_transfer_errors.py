"""What the stores' own exceptions become: missing, not allowed, no answer, no space; the rest is not ours to judge."""

import errno

import pytest

from finetune_api.constants import ExitCode
from finetune_trainer.errors import BadData, TrainerError, describe
from finetune_trainer.transfer_errors import explain


class HttpError(Exception):
    """As aiohttp's and adlfs' errors: a status of its own."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} from the server")
        self.status = status


class ClientError(Exception):
    """As botocore's: the status is in a dictionary."""

    def __init__(self, status: int) -> None:
        super().__init__("An error occurred")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class RepositoryNotFoundError(HttpError):
    pass


class GatedRepoError(RepositoryNotFoundError):
    pass


class NoCredentialsError(Exception):
    pass


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (FileNotFoundError("no key"), 66, "does not exist"),
        (HttpError(404), 66, "does not exist"),
        (RepositoryNotFoundError(401), 66, "does not exist, or is private"),
        (GatedRepoError(403), 66, "access denied"),
        (PermissionError("Forbidden"), 66, "access denied"),
        (caused(OSError("odd"), ClientError(403)), 66, "access denied"),
        (NoCredentialsError("none"), 66, "no credentials were given; set the keys of Secret s"),
        (HttpError(503), 69, "the server answered 503"),
        (HttpError(429), 69, "the server answered 429"),
        (caused(OSError(errno.EIO, "internal"), ClientError(500)), 69, "the server answered 500"),
        (OSError(errno.EBUSY, "slow down"), 69, "slow down"),
        (ConnectionRefusedError("refused"), 69, "no answer"),
        (TimeoutError(), 69, "no answer (TimeoutError)"),
        (OSError(errno.ENOSPC, "full"), 78, "raise downloadsReservedSize"),
    ],
)
def test_meaning(error: BaseException, code: int, words: str) -> None:
    meaning = explain(error, "s3://b/k", "the keys of Secret s")
    assert meaning is not None
    assert meaning.exit_code == code
    assert meaning.message.startswith("s3://b/k")
    assert words in meaning.message


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("bug"), HttpError(400)])
def test_what_is_not_the_stores_fault_stays_an_internal_error(error: Exception) -> None:
    assert explain(error, "s3://b/k", "") is None
    report = describe(error)
    assert (report["reason"], report["exitCode"]) == ("InternalError", ExitCode.INTERNAL)
    assert report["message"].startswith(type(error).__name__)


def test_a_trainer_error_keeps_its_own_words() -> None:
    error = BadData("line 3")
    assert explain(error, "s3://b/k", "") is error
    assert describe(error) == {"reason": "BadData", "message": "line 3", "exitCode": 65}
    custom = TrainerError("x", reason="Odd", exit_code=ExitCode.OUT_OF_MEMORY)
    assert custom.to_report() == {"reason": "Odd", "message": "x", "exitCode": 79}
