"""No text that the trainer writes holds a value that came from a Secret."""

import json
from urllib.parse import quote

import pytest

from finetune_api import constants
from finetune_trainer.redaction import install, redact

CANARY = 'can/ary "kei\\ner" 7'


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(constants.ENV_SECRETS, "DATABASE_PASSWORD,SHORT,MISSING,KEY_FILE")
    monkeypatch.setenv("DATABASE_PASSWORD", CANARY)
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.setenv("SHORT", "the")
    monkeypatch.setenv("KEY_FILE", "-----BEGIN-----\nMIIBcanaryMII\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"refused for {CANARY}!", "refused for ***!"),
        (json.dumps({"message": CANARY}), '{"message": "***"}'),
        (f"https://host/?p={quote(CANARY, safe='')}", "https://host/?p=***"),
        ("Bearer hf_0123456789", "Bearer ***"),
        ("a line: MIIBcanaryMII", "a line: ***"),
        ("the other words stay", "the other words stay"),
        ("https://b.example.com/a.jsonl?X-Amz-Date=1&X-Amz-Signature=0a1b2c", "https://b.example.com/a.jsonl?X-Amz-Date=1&X-Amz-Signature=***"),
        ("proxy http://me:word@host:3128/", "proxy http://me:***@host:3128/"),
        ("s3://bucket/path and https://host/x?page=2", "s3://bucket/path and https://host/x?page=2"),
    ],
)  # fmt: skip
def test_what_is_written(text: str, said: str) -> None:
    assert redact(text) == said


def test_the_standard_streams_of_a_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    install()
    install()
    print("the token hf_0123456789", "is used")
    print("and", CANARY, file=sys.stderr)
    seen = capsys.readouterr()
    assert seen.out == "the token *** is used\n"
    assert seen.err == "and ***\n"
