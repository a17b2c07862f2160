"""A base model from a Hugging Face hub: a small server that answers as the hub does, over HTTP."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from finetune_api.locations import parse_location

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import sys
from pathlib import Path
from finetune_api.locations import parse_location
from finetune_trainer import transfer
from finetune_trainer.errors import TrainerError
from finetune_trainer.model_cache import ModelSource, fetch_model

transfer.RETRY_SECONDS = 1.0
source = ModelSource(parse_location(sys.argv[1]), sys.argv[2], sys.argv[3] or None, "the key t of Secret s")
try:
    model = fetch_model(source, Path(sys.argv[4]), "key")
except TrainerError as error:
    print(error.message)
    sys.exit(int(error.exit_code))
print(model.fetched, " ".join(sorted(model.files)))
"""


def hub_handler(repository: Path) -> type[BaseHTTPRequestHandler]:
    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            files = sorted(p.relative_to(repository).as_posix() for p in repository.rglob("*") if p.is_file())
            if path in ("/api/models/org/name/revision/main", f"/api/models/org/name/revision/{COMMIT}"):
                siblings = [{"rfilename": name} for name in files]
                self.reply(200, json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode(), body)
            elif path.startswith(f"/api/models/org/name/tree/{COMMIT}"):
                entries = [
                    {"type": "file", "path": n, "size": (repository / n).stat().st_size, "oid": sha(repository / n)}
                    for n in files
                ]
                self.reply(200, json.dumps(entries).encode(), body)
            elif path.startswith(f"/org/name/resolve/{COMMIT}/"):
                file = repository / path.removeprefix(f"/org/name/resolve/{COMMIT}/")
                self.reply(200, file.read_bytes(), body, {"ETag": f'"{sha(file)}"', "X-Repo-Commit": COMMIT})
            elif path.startswith("/api/models/org/name/revision/"):
                self.reply(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
            else:
                self.reply(401, b"{}", body, {"X-Error-Code": "RepoNotFound"})

        def reply(self, status: int, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    return Hub


def sha(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "config.json").write_text("{}")
    (repository / "tokenizer.json").write_text("{}")
    (repository / "pytorch_model.bin").write_bytes(b"weights")
    (repository / "original").mkdir()
    (repository / "original/consolidated.pth").write_bytes(b"the same again")
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub_handler(repository))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def fetch(hub: str, tmp_path: Path, uri: str, revision: str = "main", exclude: str = "") -> tuple[int, str]:
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", PROGRAM, uri, revision, exclude, str(tmp_path / "cache")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert not result.stderr.startswith("Traceback"), result.stderr
    return result.returncode, result.stdout.strip()


def test_a_repository_without_what_the_glob_excludes(hub: str, tmp_path: Path) -> None:
    assert parse_location("hf://org/name").container == "org/name"
    wanted = "config.json pytorch_model.bin tokenizer.json"
    assert fetch(hub, tmp_path, "hf://org/name", COMMIT, "original/*") == (0, f"True {wanted}")
    assert sorted(path.name for path in (tmp_path / "cache/key").iterdir()) == ["_COMPLETE.json", *wanted.split()]
    assert fetch("http://127.0.0.1:9", tmp_path, "hf://org/name", COMMIT, "original/*") == (0, f"False {wanted}")


@pytest.mark.parametrize(
    ("uri", "revision", "code", "words"),
    [
        ("hf://org/none", "main", 66, "does not exist, or is private; check its name and the key t of Secret s"),
        ("hf://org/name", "v9", 66, "hf://org/name (revision v9) does not exist"),
    ],
)
def test_what_the_hub_does_not_have(uri: str, revision: str, code: int, words: str, hub: str, tmp_path: Path) -> None:
    found, message = fetch(hub, tmp_path, uri, revision)
    assert found == code
    assert words in message


def test_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    code, message = fetch("http://127.0.0.1:9", tmp_path, "hf://org/name")
    assert code == 69, message
    assert "hf://org/name (revision main): no answer" in message
