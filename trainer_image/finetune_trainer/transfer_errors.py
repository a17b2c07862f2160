"""What went wrong with a remote store, in the words of our exit codes: missing (66), not allowed (66), no answer (69).

Each store's library raises its own exceptions; they are told apart here by HTTP status, class and errno, so that the
rest of the trainer knows only TrainerErrors that name the URI and say what to do.
"""

import errno
from collections.abc import Iterator

from finetune_trainer.errors import BadConfiguration, InputMissing, TrainerError, Unavailable

_MISSING = {
    "FileNotFoundError", "NoSuchBucket", "NoSuchKey", "RepositoryNotFoundError", "RevisionNotFoundError",
    "EntryNotFoundError", "RemoteEntryNotFoundError", "ResourceNotFoundError",
}  # fmt: skip
_FORBIDDEN = {
    "PermissionError", "GatedRepoError", "ClientAuthenticationError", "RefreshError", "SignatureDoesNotMatch",
    "InvalidAccessKeyId", "AccessDenied",
}  # fmt: skip
_NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "CredentialUnavailableError",
}  # fmt: skip
_NO_ANSWER = {
    "ConnectionError", "HTTPClientError", "ClientConnectionError", "TransportError", "ServiceRequestError",
    "TimeoutError", "TimeoutException", "LocalEntryNotFoundError", "OfflineModeIsEnabled", "ServerTimeoutError",
    "ClientPayloadError", "IncompleteReadError", "ResponseStreamingError", "gaierror",
}  # fmt: skip


def explain(error: BaseException, uri: str, credentials: str, *, writing: bool = False) -> TrainerError | None:
    """The TrainerError that says what `error` means for `uri`, or None if it is not about the store.

    credentials: where the user gave the keys, for the message.
    """
    own = next((link for link in _chain(error) if isinstance(link, TrainerError)), None)  # fsspec wraps what it meets
    if own is not None:
        return own
    verb = "written" if writing else "read"
    status = _status(error)
    names = {cls.__name__ for link in _chain(error) for cls in type(link).__mro__}
    text = _text(error)
    if _errno(error) in (errno.ENOSPC, errno.EDQUOT):
        return BadConfiguration(
            f"{uri}: no space left on the volume; raise downloadsReservedSize or checkpointsReservedSize"
        )
    if names & _NO_CREDENTIALS:
        return InputMissing(f"{uri} cannot be {verb}: no credentials were given; set {credentials}")
    if "RepositoryNotFoundError" in names and "GatedRepoError" not in names:  # told with 401, lest private names leak
        return InputMissing(f"{uri} does not exist, or is private; check its name and {credentials}")
    if status in (401, 403) or names & _FORBIDDEN:
        return InputMissing(f"{uri} cannot be {verb}: access denied ({text}); check {credentials}")
    if status is not None and (status >= 500 or status in (408, 429)):
        return Unavailable(f"{uri}: the server answered {status} ({text})")
    if names & _NO_ANSWER:
        return Unavailable(f"{uri}: no answer ({text}); is the endpoint right and running?")
    if status == 404 or names & _MISSING:
        return InputMissing(f"{uri} does not exist ({text}); check its bucket and path")
    if _errno(error) in (errno.EBUSY, errno.EIO):  # what s3fs makes of SlowDown and InternalError
        return Unavailable(f"{uri}: {text}")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status, wherever the library put it."""
    for link in _chain(error):
        response = getattr(link, "response", None)
        if isinstance(response, dict):  # botocore
            candidates = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
        else:
            candidates = [getattr(response, "status_code", None), getattr(response, "status", None)]
        candidates += [getattr(link, name, None) for name in ("status", "status_code", "code")]
        for candidate in candidates:
            if isinstance(candidate, int) and 100 <= candidate <= 599:
                return candidate
    return None


def _errno(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None


def _text(error: BaseException) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__
