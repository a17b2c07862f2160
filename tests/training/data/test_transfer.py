"""Copies to and from a real S3 server: whole files or none, resumed, marker last; failures named by URI and exit
code."""

import json
import os
import socket
from pathlib import Path

import pytest
import requests

from finetune_api.constants import ExitCode
from finetune_trainer import transfer
from finetune_trainer.errors import InputMissing, Unavailable
from finetune_trainer.transfer import (
    download_file,
    download_tree,
    fingerprint,
    list_tree,
    open_remote,
    upload_tree,
    use_endpoint,
)


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 1.0)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_a_tree_goes_up_and_comes_back(s3: str, tmp_path: Path) -> None:
    source = write(tmp_path / "up", {"a.txt": "1", "deep/er/b.txt": "22", "_COMPLETE.json": "{}"})
    assert upload_tree(source, "s3://data/tree") == {"_COMPLETE.json": 2, "a.txt": 1, "deep/er/b.txt": 2}
    assert list_tree("data/tree/") == {"_COMPLETE.json": 2, "a.txt": 1, "deep/er/b.txt": 2}  # a bare path means s3
    sizes = download_tree("s3://data/tree/", tmp_path / "down", exclude="*er/*")
    assert sizes == {"_COMPLETE.json": 2, "a.txt": 1}
    assert (tmp_path / "down/a.txt").read_text() == "1"
    assert not (tmp_path / "down/deep").exists()


def test_a_download_goes_on_with_the_files_that_arrived(s3: str, tmp_path: Path) -> None:
    upload_tree(write(tmp_path / "up", {"a.txt": "new", "b.txt": "xy"}), "s3://data/resume")
    target = write(tmp_path / "down", {"a.txt": "old", "b.txt": "cut", ".b.txt.part": "left over"})
    fetched: list[str] = []
    download_tree("s3://data/resume", target, on_file=lambda path, _: fetched.append(path))
    assert (target / "a.txt").read_text() == "old"  # same size: taken for arrived
    assert (target / "b.txt").read_text() == "xy"  # another size: fetched again
    assert not (target / ".b.txt.part").exists()
    assert sorted(fetched) == ["a.txt", "b.txt"]


def test_the_marker_is_written_last_and_an_equal_one_saves_the_upload(s3: str, tmp_path: Path) -> None:
    source = write(tmp_path / "up", {"w.bin": "one", "_COMPLETE.json": '{"step": 1}'})
    upload_tree(source, "s3://data/ckpt")
    write(source, {"w.bin": "two"})
    upload_tree(source, "s3://data/ckpt")  # the marker is the same: nothing is sent
    with open_remote("s3://data/ckpt/w.bin") as stream:
        assert stream.read() == b"one"
    write(source, {"_COMPLETE.json": '{"step": 2}'})
    upload_tree(source, "s3://data/ckpt")
    with open_remote("s3://data/ckpt/w.bin") as stream:
        assert stream.read() == b"two"


def test_an_old_marker_goes_first_and_the_new_one_comes_last(s3: str, tmp_path: Path) -> None:
    """At no moment does a marker stand beside files that it does not describe."""
    source = write(tmp_path / "up", {"a.bin": "one", "z.bin": "one", "_COMPLETE.json": "1"})
    upload_tree(source, "s3://data/order")
    write(source, {"a.bin": "two", "_COMPLETE.json": "2"})
    requests.post(f"{s3}/moto-api/recorder/reset-recording", timeout=10)
    requests.post(f"{s3}/moto-api/recorder/start-recording", timeout=10)
    upload_tree(source, "s3://data/order")
    requests.post(f"{s3}/moto-api/recorder/stop-recording", timeout=10)
    lines = requests.get(f"{s3}/moto-api/recorder/download-recording", timeout=10).text.splitlines()
    calls = [(call["method"], call["url"].partition("?")[0].rpartition("/")[2]) for call in map(json.loads, lines)]
    writes = [call for call in calls if call[0] in ("PUT", "DELETE", "POST")]
    assert writes[0][0] in ("DELETE", "POST")
    assert {name for _, name in writes[1:-1]} == {"a.bin", "z.bin"}
    assert writes[-1] == ("PUT", "_COMPLETE.json")


def test_one_file_and_its_fingerprint(s3: str, tmp_path: Path) -> None:
    upload_tree(write(tmp_path / "up", {"f.jsonl": "one"}), "s3://data/files")
    before = fingerprint("s3://data/files/f.jsonl")
    assert download_file("s3://data/files/f.jsonl", tmp_path / "f") == 3
    upload_tree(write(tmp_path / "up", {"f.jsonl": "two"}), "s3://data/files")
    assert fingerprint("s3://data/files/f.jsonl") != before
    with pytest.raises(InputMissing, match="is a folder; name one file"):
        download_file("s3://data/files", tmp_path / "g")


@pytest.mark.parametrize(
    "action",
    [
        lambda tmp: download_file("s3://data/none.jsonl", tmp / "x"),
        lambda tmp: download_file("s3://nobucket/none.jsonl", tmp / "x"),
        lambda tmp: download_tree("s3://data/none", tmp / "x"),
        lambda tmp: download_tree("s3://nobucket/none", tmp / "x"),
        lambda tmp: upload_tree(write(tmp / "up", {"a": "1", "_COMPLETE.json": "1"}), "s3://nobucket/tree"),
        lambda tmp: open_remote("s3://data/none.txt"),
        lambda tmp: download_file("/nowhere/file", tmp / "x"),
    ],
)
def test_what_is_not_there_is_input_missing(action, s3: str, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"(s3|file):\S+ (does not exist|is no)") as caught:
        action(tmp_path)
    assert caught.value.exit_code == ExitCode.INPUT_MISSING


def test_a_refused_key_names_the_secret(s3: str, s3_with_keys: str, tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"s3://data/x.*access denied.*Secret team-keys"):
        download_tree("s3://data/x", tmp_path, credentials="the keys a and b of Secret team-keys")
    with pytest.raises(InputMissing, match=r"s3://data/x cannot be written: access denied"):
        upload_tree(write(tmp_path / "up", {"a": "1"}), "s3://data/x")


def test_no_credentials_at_all(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputMissing, match=r"no credentials were given; set bucketCredentialsSecret"):
        download_file("s3://data/x", tmp_path / "x")


def test_a_server_that_does_not_answer_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:  # bound, not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        with pytest.raises(Unavailable, match=r"s3://data/x: no answer .*is the endpoint right") as caught:
            download_file("s3://data/x", tmp_path / "x")
    assert caught.value.exit_code == ExitCode.UNAVAILABLE


def test_the_environments_endpoint_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here:1")
    use_endpoint("http://s3.default.svc:9000")
    assert os.environ["AWS_ENDPOINT_URL"] == "http://here:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    use_endpoint("http://s3.default.svc:9000")
    assert os.environ["AWS_ENDPOINT_URL"] == "http://s3.default.svc:9000"
