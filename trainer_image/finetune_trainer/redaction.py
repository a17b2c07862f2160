"""Nothing that comes from a Secret leaves a pod in words: not in its log, its last message, its progress, its records.

The pod knows its secrets by the environment: the operator names the variables that it took from Secrets, and some are
secret whoever set them. Their values are replaced wherever this package writes text for people, whatever library the
text came from. Values of less than 8 characters are left alone: they would be found in ordinary words.
"""

import json
import os
import re
import sys
from functools import cache
from typing import Any, TextIO
from urllib.parse import quote

from finetune_api import constants
from finetune_api.rules import SECRET_ENV

SHORTEST = 8
STAND_IN = "***"
# Signatures of presigned URLs, which let whoever reads them do what their maker may.
_SIGNED = re.compile(
    r"([?&](?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|token|"
    r"access_token|awsaccesskeyid)=)[^&\s\"'<>]+",
    re.IGNORECASE,
)
_USER = re.compile(r"(://[^/\s:@]+:)[^/\s@]+@")


def redact(text: str) -> str:
    """The text without secrets."""
    for secret in _secrets(_names(), tuple(os.environ.get(name, "") for name in _names())):
        text = text.replace(secret, STAND_IN)
    if "://" in text:
        text = _USER.sub(rf"\1{STAND_IN}@", _SIGNED.sub(rf"\1{STAND_IN}", text))
    return text


def _names() -> tuple[str, ...]:
    told = os.environ.get(constants.ENV_SECRETS, "")
    return (*SECRET_ENV, *(name for name in told.split(",") if name))


@cache
def _secrets(names: tuple[str, ...], values: tuple[str, ...]) -> tuple[str, ...]:
    """Every spelling of every value, longest first: as it is, in JSON, in a URL, line by line."""
    found: set[str] = set()
    for value in values:
        for one in {value, value.strip(), *value.splitlines()}:
            if len(one) >= SHORTEST:
                for said in (one, repr(one)[1:-1], quote(one, safe="")):
                    found |= {said, json.dumps(said)[1:-1], json.dumps(said, ensure_ascii=False)[1:-1]}
    return tuple(sorted(found, key=lambda one: (-len(one), one)))


class _Redacting:
    """A text stream that writes redacted text, and is the stream itself in everything else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def install() -> None:
    """Makes this process's standard streams redact what is written to them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _Redacting):
            setattr(sys, name, _Redacting(stream))
