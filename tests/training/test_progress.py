"""GET /progress and /metrics of rank 0, and the watchdog."""

import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from finetune_api.report import ProgressReport
from finetune_api.status import CheckpointReport
from finetune_trainer.train.progress import Progress
from finetune_trainer.train.server import progress_text, start_server
from finetune_trainer.train.stopping import Watchdog


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Progress, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("FINETUNE_PROGRESS_PORT", str(port))
    monkeypatch.setenv("POD_IP", "127.0.0.1")
    progress = Progress(attempt=2)
    server = start_server(progress.report)
    assert server is not None
    yield progress, f"http://127.0.0.1:{port}"
    server.shutdown()
    server.server_close()


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def test_progress_and_metrics(served: tuple[Progress, str]) -> None:
    progress, address = served
    assert json.loads(_get(f"{address}/progress"))["phase"] == "loading"
    progress.update(phase="training", step=3, total_steps=12, loss=1.5, eta_seconds=9, learning_rate=2e-5)
    said = json.loads(_get(f"{address}/progress"))
    assert said["attempt"] == 2
    assert (said["phase"], said["step"], said["totalSteps"], said["etaSeconds"]) == ("training", 3, 12, 9)
    assert "updatedAt" in said
    assert "evalLoss" not in said
    metrics = _get(f"{address}/metrics").splitlines()
    assert "finetune_loss 1.5" in metrics
    assert "finetune_learning_rate 2e-05" in metrics
    assert 'finetune_phase{phase="training"} 1.0' in metrics
    assert not [line for line in metrics if line.startswith("finetune_eval_loss")]


def test_nothing_else_is_served(served: tuple[Progress, str]) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        _get(f"{served[1]}/etc/passwd")


def test_the_document_stays_small() -> None:
    report = ProgressReport(checkpoints=[CheckpointReport(step=step, path="/x" * 500) for step in range(200)])
    text = progress_text(report)
    assert len(text.encode()) <= 65536
    assert json.loads(text)["checkpoints"][-1]["step"] == 199


def test_a_taken_port_does_not_stop_training(served: tuple[Progress, str]) -> None:
    assert start_server(served[0].report) is None


def test_port_0_serves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_PROGRESS_PORT", "0")
    assert start_server(Progress(1).report) is None


def test_the_watchdog_ends_what_hangs_with_its_stack(capfd: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    messages: list[str] = []

    def end(message: str) -> None:
        messages.append(message)
        ended.set()

    Watchdog(Progress(1), end, seconds=0.4).start()
    assert ended.wait(20)
    assert "s while loading; the stacks of all threads are in the log" in messages[0]
    assert "in test_the_watchdog_ends_what_hangs_with_its_stack" in capfd.readouterr().err


def test_loading_may_take_four_times_as_long_and_the_first_step_may_not() -> None:
    ended = threading.Event()
    progress = Progress(1)
    watchdog = Watchdog(progress, lambda message: ended.set(), seconds=1.0)
    watchdog.start()
    assert not ended.wait(2.5)
    progress.update(step=0, total_steps=12)
    assert ended.wait(2.0)


def test_the_watchdog_ends_what_holds_the_interpreters_lock() -> None:
    code = (
        "import ctypes\n"
        "from finetune_trainer.train.progress import Progress\n"
        "from finetune_trainer.train.stopping import Watchdog\n"
        "Watchdog(Progress(1), print, seconds=0.2).start()\n"
        "import time; time.sleep(0.3)\n"
        "ctypes.PyDLL(None).sleep(60)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 1
    assert 'File "<string>", line 6' in ended.stderr


def test_the_watchdog_lets_alone_what_moves() -> None:
    ended = threading.Event()
    progress = Progress(1)
    watchdog = Watchdog(progress, lambda message: ended.set(), seconds=2.0)
    watchdog.start()
    for _ in range(15):
        progress.beat()
        assert not ended.wait(0.2)
    watchdog.stop()
