"""`finetune run -f FILE`: train from the manifest on this machine, with the trainer that the pods run.

Download and training are children in a process group of their own; folders stand for volumes; status.json is the same
status document as in the cluster. Ctrl-C writes a checkpoint and exits with 75; running it again goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal
from finetune_cli.errors import EXIT_OK

if TYPE_CHECKING:
    from finetune_cli.local_run import LocalRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from finetune_cli import local_job
    from finetune_cli.manifests import add_job_arguments

    add_job_arguments(parser)
    local_job.add_arguments(parser)
    parser.add_argument("--fresh", action="store_true", help="remove what an earlier run made in the work dir first")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="json: the result, in the end")


def run(args: argparse.Namespace) -> int:
    from finetune_cli import local_job
    from finetune_cli.local_run import LocalRun
    from finetune_cli.manifests import checked_job

    job = checked_job(args)
    folders = local_job.folders(args, job.name)
    with local_job.only_one(folders.work):
        if args.fresh:
            folders.clear()
        return _run(LocalRun(job, folders, args), args.output == "json")


def _run(local: LocalRun, as_json: bool) -> int:
    """Train unless that is done already, and print the result; the exit code."""
    from finetune_cli import live

    if local.finished_before():
        terminal.note(f"already finished in {local.folders.work}; --fresh trains again")
        code = EXIT_OK
    else:
        code = local.train(live.SilentView() if as_json else live.job_view(local.job.name))
    if as_json:
        terminal.print_json(_result_document(local, code))
    elif code == EXIT_OK:
        _print_success(local)
    else:
        _print_failure(local, code)
    return code


def _result_document(local: LocalRun, code: int) -> dict[str, Any]:
    status = local.status.status
    progress = status.get("progress") or {}
    numbers = {key: local.result.get(key, progress.get(key)) for key in ("loss", "firstLoss", "evalLoss", "step")}
    return {
        "name": local.job.name,
        "phase": status["phase"],
        "exitCode": code,
        **numbers,
        "model": status.get("model"),
        "workDir": str(local.folders.work),
        "status": status,
    }


def _print_success(local: LocalRun) -> None:
    from finetune_cli.live import progress_text

    status = local.status.status
    terminal.say(
        f"{local.job.name} {terminal.styled('succeeded', 'ok')}. {progress_text(status.get('progress') or {})}"
    )
    model = status.get("model") or {}
    for label, key in (("model", "path"), ("merged model", "merged"), ("copy", "remote")):
        if model.get(key) and not (key == "merged" and model["merged"] == model.get("path")):
            terminal.say(f"{label}: {model[key]}")
    if (local.folders.work / "mlflow.db").exists():
        terminal.say(f"metrics: mlflow ui --backend-store-uri sqlite:///{local.folders.work / 'mlflow.db'}")
    terminal.say(f"status: {local.folders.status}")


def _print_failure(local: LocalRun, code: int) -> None:
    from finetune_api.constants import ExitCode
    from finetune_cli.child import tail

    attempt = local.status.status["attempts"][-1]
    if code == ExitCode.INTERRUPTED:
        at = f" at step {attempt['lastStep']}" if attempt.get("lastStep") is not None else ""
        terminal.note(f"{local.job.name} was interrupted{at}; the same command goes on from the newest checkpoint")
        return
    terminal.error(f"{local.job.name} failed: {attempt.get('reason')}: {attempt.get('message')}")
    if code == ExitCode.INTERNAL or code not in set(ExitCode):
        for log in sorted(local.folders.logs.glob("*.log"), key=lambda path: path.stat().st_mtime)[-1:]:
            print(f"--- the end of {log}\n{tail(log)}", file=sys.stderr)
