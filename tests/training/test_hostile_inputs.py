"""Models and data made by an enemy: templates, pickles and links execute nothing and reach nothing."""

import json
import pickle
import shutil
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jinja2
import pytest

from finetune_api.locations import parse_location
from finetune_trainer import data_files, transfer
from finetune_trainer.data.rendering import Renderer
from finetune_trainer.data.sources import Wanted
from finetune_trainer.errors import BadConfiguration, InputMissing, TrainerError
from finetune_trainer.model_cache import check_model

MESSAGES = [{"role": "user", "content": "{{ 7 * 7 }}"}, {"role": "assistant", "content": "b"}]
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}",
    "{{ raise_exception.__globals__['__builtins__'] }}",
    "{{ strftime_now.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch OWNED').read() }}",
    "{{ joiner.__init__.__globals__['os'].system('touch OWNED') }}",
    "{{ self._TemplateReference__context }}",
    "{{ lipsum.__globals__['os'].popen('touch OWNED').read() }}",
    "{{ messages|attr('__class__')|attr('__mro__') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{% set _ = messages.append(1) %}{{ messages }}",
    "{% set _ = messages[0].update({'role': 'x'}) %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends '/etc/passwd' %}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 1 / 0 }}",
    "{{ (10**400) / 3 }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
)


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_of_a_model_is_kept_in_its_sandbox(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        text = Renderer(template, {}).text(MESSAGES)
    except jinja2.TemplateError:
        text = ""
    assert not any(word in text for word in ("<class", "builtins", "root:", "<module", "environ"))
    assert MESSAGES[0]["role"] == "user"
    assert not list(tmp_path.iterdir())


def test_what_a_row_says_is_no_template() -> None:
    assert "{{ 7 * 7 }}" in Renderer("{% for m in messages %}{{ m.content }}{% endfor %}", {}).text(MESSAGES)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("kind", ["plain pickle", "torch archive"])
def test_pickled_weights_execute_nothing(
    base_model: Path, tmp_path: Path, train_here: Any, make_config: Any, kind: str
) -> None:
    import torch

    folder, mark = tmp_path / "model", tmp_path / "owned"
    shutil.copytree(base_model, folder)
    (folder / "model.safetensors").unlink()
    if kind == "plain pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Bomb(mark)}))
    else:
        torch.save({"w": Bomb(mark)}, folder / "pytorch_model.bin")
    try:
        check_model(folder, "model")  # what the download does with it
    except TrainerError:
        pass
    with pytest.raises((TrainerError, pickle.UnpicklingError)):
        train_here(make_config(model=folder, training_args={"max_steps": 1}))
    assert not mark.exists()


def test_a_checkpoint_s_optimizer_executes_nothing(tmp_path: Path) -> None:
    import torch

    mark = tmp_path / "owned"
    torch.save({"state": Bomb(mark)}, tmp_path / "optimizer.pt")
    source = Path(__file__).resolve().parents[2] / "trainer_image/finetune_trainer"
    loads = [line for path in source.rglob("*.py") for line in path.read_text().splitlines() if "torch.load(" in line]
    assert loads
    assert all("weights_only=True" in line for line in loads)  # every one that there is
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "optimizer.pt", weights_only=True)
    assert not mark.exists()


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [10**15, 10**15], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [-1, 4], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**60]}},
        {"w": {"dtype": "EVIL", "shape": [2], "data_offsets": [0, 8]}},
        {"w": "no tensor"},
        ["no header"],
    ],
    ids=str,
)
def test_weights_that_lie_about_their_sizes(
    base_model: Path, tmp_path: Path, header: Any, train_here: Any, make_config: Any
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base_model, folder)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    config = make_config(model=folder, training_args={"max_steps": 1})

    def use() -> None:
        check_model(folder, "model")  # the download sees most of it
        train_here(config)

    with pytest.raises(TrainerError):
        use()


def test_a_header_of_exabytes_is_not_read(base_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base_model, folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(InputMissing):
        check_model(folder, "model")


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mounted claim."""
    monkeypatch.setitem(data_files._MOUNTS, "pvc", str(tmp_path / "pvc"))
    folder = tmp_path / "pvc" / "claim"
    folder.mkdir(parents=True)
    return folder


def bring(path: str, work: Path, **more: Any) -> None:
    from finetune_api.data_conf import DatasetDefinition

    data_files.fetch_data([Wanted(DatasetDefinition(path=path, **more))], work, {})


@pytest.mark.parametrize("folder", [False, True])
def test_a_link_on_a_volume_does_not_reach_the_pod_s_secrets(claim: Path, tmp_path: Path, folder: bool) -> None:
    (claim / "data").mkdir()
    (claim / "data" / "train.jsonl").symlink_to("/proc/self/environ")
    with pytest.raises(InputMissing, match="leads out of its volume"):
        bring("pvc://claim/data" if folder else "pvc://claim/data/train.jsonl", tmp_path / "work")
    assert not [path for path in (tmp_path / "work").rglob("*.jsonl") if path.stat().st_size]


def test_a_link_within_a_volume_is_followed(claim: Path, tmp_path: Path) -> None:
    (claim / "real.jsonl").write_text("{}\n")
    (claim / "train.jsonl").symlink_to("real.jsonl")
    bring("pvc://claim/train.jsonl", tmp_path / "work")


def test_a_named_dataset_leads_to_no_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(data_files._MOUNTS, "dataset", str(tmp_path / "dataset"))
    (tmp_path / "dataset" / "d").mkdir(parents=True)
    (tmp_path / "dataset" / "d" / "path").write_text("http://169.254.169.254/latest/x.jsonl")
    with pytest.raises(BadConfiguration, match="metadata service"):
        bring("dataset://d", tmp_path / "work")


@pytest.mark.parametrize("key", ["../../escaped.jsonl", "a/../../escaped.jsonl"])
def test_names_in_a_store_do_not_lead_out(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An S3 key may hold dots; here a store that lists one."""
    monkeypatch.setattr(transfer, "_list", lambda remote: {key: 1})
    with pytest.raises(InputMissing, match="leads out"):
        transfer.download_tree(f"file://{tmp_path}", tmp_path / "into")
    assert parse_location("s3://b/x").path == "x"


@pytest.mark.parametrize(
    ("content", "declared"),
    [
        (b"PAR1 no parquet", "parquet"),
        (b"\x00\x01\x02", "jsonl"),
        (b'{"a": ' * 5000, "jsonl"),
        (b"[" * 100_000, "jsonl"),
    ],
)
def test_data_that_is_not_what_it_says(
    tmp_path: Path, train_here: Any, make_config: Any, content: bytes, declared: str
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    data = {"type": "CONCATENATION", "datasets": [{"path": str(path), "format": declared}]}
    config = make_config()
    config.spec["data_conf"]["training_data"] = data
    with pytest.raises(TrainerError):
        train_here(config)


@pytest.mark.parametrize("target", ["http://169.254.169.254/latest/x.jsonl", "http://[fe80::1]/x.jsonl"])
def test_a_redirect_to_the_metadata_service_is_not_followed(tmp_path: Path, target: str) -> None:
    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(BadConfiguration, match="metadata service"):
            bring(f"http://127.0.0.1:{server.server_port}/x.jsonl", tmp_path / "work")
    finally:
        server.shutdown()
        server.server_close()
