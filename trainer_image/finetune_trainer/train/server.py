"""GET /progress (JSON) and GET /metrics (Prometheus text) of rank 0: read only, on the pod's own address."""

import json
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from finetune_api import constants
from finetune_api.report import ProgressReport
from finetune_trainer.redaction import redact

_GAUGES = {  # metric name -> (field, help)
    "finetune_step": ("step", "Optimizer steps done."),
    "finetune_total_steps": ("total_steps", "Optimizer steps in all."),
    "finetune_epoch": ("epoch", "Epochs done."),
    "finetune_loss": ("loss", "Last training loss."),
    "finetune_eval_loss": ("eval_loss", "Last evaluation loss, per target token."),
    "finetune_learning_rate": ("learning_rate", "Current learning rate."),
    "finetune_tokens_per_second": ("tokens_per_second", "Real (non-padding) tokens per second."),
    "finetune_eta_seconds": ("eta_seconds", "Seconds until the last step."),
    "finetune_attempt": ("attempt", "Number of the attempt."),
}


def metrics_text(report: ProgressReport) -> str:
    """The report in Prometheus' text format."""
    lines = []
    for name, (field, text) in _GAUGES.items():
        value = getattr(report, field)
        if value is not None:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {float(value)!r}"]
    lines += ["# HELP finetune_phase What the trainer does.", "# TYPE finetune_phase gauge"]
    lines.append(f'finetune_phase{{phase="{report.phase}"}} 1.0')
    return "\n".join(lines) + "\n"


def progress_text(report: ProgressReport) -> str:
    """The report as JSON of at most PROGRESS_MAX_BYTES: the oldest checkpoints are left out first."""
    document = report.to_dict()
    text = json.dumps(document)
    while len(text.encode()) > constants.PROGRESS_MAX_BYTES and document.get("checkpoints"):
        document["checkpoints"] = document["checkpoints"][1:]
        text = json.dumps(document)
    return text


def start_server(report: Callable[[], ProgressReport]) -> ThreadingHTTPServer | None:
    """Serves in a background thread; None if switched off or if the port is taken (training goes on without)."""
    port = int(os.environ.get(constants.ENV_PROGRESS_PORT) or constants.PROGRESS_PORT)
    if port == 0:
        return None

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # a client that sends nothing must not hold a thread for ever

        def do_GET(self) -> None:
            pages = {
                "/progress": ("application/json", progress_text),
                "/metrics": ("text/plain; version=0.0.4; charset=utf-8", metrics_text),
            }
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self.send_error(404)
                return
            body = redact(page[1](report())).encode()
            self.send_response(200)
            self.send_header("Content-Type", page[0])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Polls do not belong into the log."""

    host = os.environ.get(constants.ENV_POD_IP) or "127.0.0.1"
    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        print(f"note: progress is not served on {host}:{port}: {error}", flush=True)
        return None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return server
