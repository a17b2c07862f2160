"""A base model and a dataset from a Hugging Face hub: a small server that answers as the hub does, over HTTP."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

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


# --- a dataset repository --------------------------------------------------------------------------------------------

DATASET_PROGRAM = """
import json, sys
from pathlib import Path
from finetune_api.data_conf import DatasetDefinition
from finetune_trainer import transfer
from finetune_trainer.data.sources import Wanted, file_of
from finetune_trainer.data_files import fetch_data
from finetune_trainer.errors import TrainerError

transfer.RETRY_SECONDS = 1.0
dataset, work = DatasetDefinition.model_validate_json(sys.argv[1]), Path(sys.argv[2])
try:
    fetch_data([Wanted(dataset)], work, {"hf": "the key t of Secret s"})
except TrainerError as error:
    print(error.message)
    sys.exit(int(error.exit_code))
assert "torch" not in sys.modules
file = file_of(dataset, work)
paths = sorted(p for p in file.path.rglob("*") if p.is_file()) if file.path.is_dir() else [file.path]
print(file.name, file.format, *(f"{p.name}={p.read_text()}" for p in paths if not p.name.startswith("_")))
"""
CARD = """---
configs:
- config_name: small
  data_files: small/*.csv
- config_name: large
  default: true
  data_files:
  - split: train
    path: large/train-*.csv
  - split: check
    path: large/check.csv
---
"""


def dataset_handler(repository: Path, asked: list[str]) -> type[BaseHTTPRequestHandler]:
    """The hub's answers about the dataset org/data, at main and at tag v2; `asked`: the files that were fetched."""

    class Hub(hub_handler(repository)):  # type: ignore[misc]
        def answer(self, body: bool) -> None:
            path, _, query = unquote(self.path).partition("?")
            parts = path.split("/")
            if path.startswith("/api/datasets/org/data/tree/") and parts[6] in ("main", "v2"):
                under = "/".join(parts[7:])
                self.reply(200, json.dumps(self.entries(under, "recursive=true" in query.lower())).encode(), body)
            elif path in ("/api/datasets/org/data", *(f"/api/datasets/org/data/revision/{r}" for r in ("main", "v2"))):
                self.reply(200, json.dumps({"id": "org/data", "sha": COMMIT, "siblings": []}).encode(), body)
            elif path.startswith("/datasets/org/data/resolve/"):
                file = repository / "/".join(parts[6:])
                if body:
                    asked.append(file.name)
                self.reply(200, file.read_bytes(), body, {"ETag": f'"{sha(file)}"', "X-Repo-Commit": COMMIT})
            else:
                super().answer(body)

        def entries(self, under: str, recursive: bool) -> list[dict[str, object]]:
            folder = repository / under
            found = sorted(folder.rglob("*") if recursive else folder.iterdir())
            return [self.entry(path) for path in found]

        def entry(self, path: Path) -> dict[str, object]:
            name = path.relative_to(repository).as_posix()
            if path.is_dir():
                return {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
            return {"type": "file", "path": name, "size": path.stat().st_size, "oid": sha(path)}

        def do_POST(self) -> None:  # paths-info
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length).decode()
            paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
            found = [repository / path for path in ([paths] if isinstance(paths, str) else paths)]
            self.reply(200, json.dumps([self.entry(path) for path in found if path.exists()]).encode(), True)

    return Hub


@pytest.fixture
def dataset_hub(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    repository, asked = tmp_path / "dataset", []
    for name, content in {
        "README.md": CARD, "small/a.csv": "a", "large/train-1.csv": "1", "large/train-2.csv": "2",
        "large/check.csv": "c", "raw.jsonl": "{}", "image.png": "x",
    }.items():  # fmt: skip
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), dataset_handler(repository, asked))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", repository, asked
    server.shutdown()


def bring(hub: str, tmp_path: Path, **dataset: str) -> tuple[int, str]:
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    command = [sys.executable, "-c", DATASET_PROGRAM, json.dumps(dataset), str(tmp_path / "work")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stdout.strip()


def test_a_dataset_repository_by_its_card(dataset_hub: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    """Only the files of the chosen configuration and split are fetched, and only again if they changed."""
    hub, repository, asked = dataset_hub
    uri = "hf://datasets/org/data"
    assert bring(hub, tmp_path, path=uri) == (0, f"{uri} csv train-1.csv=1 train-2.csv=2")
    assert sorted(asked) == ["README.md", "train-1.csv", "train-2.csv"]
    (repository / "large/train-2.csv").write_text("3")
    assert bring(hub, tmp_path, path=uri) == (0, f"{uri} csv train-1.csv=1 train-2.csv=3")
    assert sorted(asked[3:]) == ["README.md", "train-2.csv"]
    assert bring(hub, tmp_path, path=uri, split="check") == (0, f"{uri} csv check.csv=c")
    pinned = "hf://datasets/org/data@v2"
    assert bring(hub, tmp_path, path=pinned, config="small") == (0, f"{pinned} csv a.csv=a")


def test_a_file_or_folder_of_a_dataset_repository(dataset_hub: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    hub, _, asked = dataset_hub
    uri = "hf://datasets/org/data/raw.jsonl"
    code, found = bring(hub, tmp_path, path=uri)
    assert (code, found.partition("=")[2]) == (0, "{}"), found
    assert asked == ["raw.jsonl"]
    folder = "hf://datasets/org/data/large"
    assert bring(hub, tmp_path, path=folder) == (0, f"{folder} csv train-1.csv=1 train-2.csv=2")


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"config": "medium"}, "no configuration 'medium': it has large, small"),
        ({"split": "dev"}, "of configuration 'large' has no split 'dev': set split to one of train, check"),
        ({"path": "hf://datasets/org/none"}, "does not exist, or is private; check its name and the key t of Secret s"),
    ],
)
def test_what_a_dataset_repository_does_not_have(
    dataset: dict[str, str], words: str, dataset_hub: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    code, message = bring(dataset_hub[0], tmp_path, **{"path": "hf://datasets/org/data", **dataset})
    assert code == 66, message
    assert words in message
