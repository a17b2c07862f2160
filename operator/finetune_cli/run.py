"""`finetune run -f FILE`: train from the manifest on this machine, with the trainer that the pods run.

Download and training are children in a process group of their own; folders stand for volumes; status.json is the same
status document as in the cluster. Ctrl-C writes a checkpoint and exits with 75; running it again goes on from there.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal
from finetune_cli.errors import EXIT_OK, CliError, UsageError

if TYPE_CHECKING:
    from finetune_api.resolve import ResolvedSpec
    from finetune_cli.child import Interrupts
    from finetune_cli.live import View
    from finetune_cli.local_job import Folders
    from finetune_cli.local_status import LocalStatus
    from finetune_cli.manifests import Job

RUNS = Path("finetune-runs")
LOCAL_EXPERIMENT = "finetune-runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from finetune_cli.manifests import add_job_arguments

    add_job_arguments(parser)
    parser.add_argument("--work-dir", metavar="DIR", type=Path, help=f"default: {RUNS}/<name>")
    parser.add_argument(
        "--model-cache", metavar="DIR", type=Path, help="folder for downloaded models; default: in the work dir"
    )
    parser.add_argument("--endpoint", metavar="URL", help="S3 endpoint, instead of the manifest's bucketStorageHost")
    parser.add_argument("--fresh", action="store_true", help="remove what an earlier run made in the work dir first")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="json: the result, in the end")


def run(args: argparse.Namespace) -> int:
    from finetune_cli.local_job import Folders
    from finetune_cli.manifests import checked_job

    job = checked_job(args)
    work = (args.work_dir or RUNS / job.name).absolute()
    folders = Folders(work, (args.model_cache or work / "model-cache").absolute())
    work.mkdir(parents=True, exist_ok=True)
    with only_one(work):
        if args.fresh:
            folders.clear()
        return LocalRun(job, folders, args).run()


@contextlib.contextmanager
def only_one(work: Path) -> Iterator[None]:
    """Hold the work directory for the length of the block. Raises CliError if another run holds it."""
    with (work / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CliError(f"another `finetune run` works in {work}; wait for it, or give --work-dir") from None
        yield


class LocalRun:
    """One run of the command: an attempt of the job in its work directory."""

    def __init__(self, job: Job, folders: Folders, args: argparse.Namespace) -> None:
        from finetune_cli.local_status import LocalStatus

        self.job = job
        self.folders = folders
        self.as_json: bool = args.output == "json"
        self.endpoint: str | None = args.endpoint
        self.status: LocalStatus = LocalStatus.load(folders.status)
        self.result: dict[str, Any] = {}
        self.resolved = self._resolve()

    def run(self) -> int:
        """Train, show it, say how it ended; the exit code."""
        if self._finished_before():
            terminal.note(f"already finished in {self.folders.work}; --fresh trains again")
            return self._print_result(EXIT_OK)
        code = self._train()
        return self._print_result(code)

    # -- before

    def _resolve(self) -> ResolvedSpec:
        from finetune_api.resolve import resolve
        from finetune_api.spec import FineTuneJobSpec
        from finetune_cli import local_job

        spec = dict(self.job.spec)
        for key in local_job.ignored_keys(spec):
            terminal.note(f"spec.{key} means nothing without a cluster and is ignored")
        if not spec.get("tracking"):
            uri = f"sqlite:///{self.folders.work / 'mlflow.db'}"
            spec["tracking"] = {"mlflow_server_uri": uri, "experiment_name": LOCAL_EXPERIMENT}
        if self.endpoint:
            spec["bucketStorageHost"] = self.endpoint
        resolved = resolve(FineTuneJobSpec.model_validate(spec))
        problems = list(local_job.refusals(resolved))
        if problems:
            raise CliError("\n  ".join(["this manifest cannot be trained without a cluster as it is:", *problems]))
        if text := local_job.credentials_note(spec):
            terminal.note(text)
        for text in (*resolved.notices, *resolved.warnings):
            terminal.note(text)
        return resolved

    def _finished_before(self) -> bool:
        """Whether an earlier run finished this very training. Raises CliError if it was another one's."""
        from finetune_cli.local_job import differences

        if not self.folders.has_checkpoint() and self.status.phase != "Succeeded":
            return False
        try:
            before = json.loads((self.folders.config / "job.json").read_text())["spec"]
        except (OSError, ValueError, KeyError):
            before = None
        changed = list(differences(before, self.resolved.spec.to_dict())) if before else []
        if changed:
            raise UsageError(
                f"{self.folders.work} holds a run with other settings: {'; '.join(changed[:5])}."
                " Give --work-dir for another run, or --fresh to remove that one"
            )
        return self.status.phase == "Succeeded"

    # -- the attempt

    def _train(self) -> int:
        from finetune_cli import live
        from finetune_cli.child import Interrupts

        number = self.status.begin([*self.resolved.notices, *self.resolved.warnings], self._gpus())
        environment = self._environment(number)
        self._write_config(number)
        view: View = live.SilentView() if self.as_json else live.job_view(self.job.name)
        if number > 1:
            terminal.note(f"attempt {number}: goes on from the newest complete checkpoint, if there is one")
        interrupts = Interrupts(lambda: terminal.note("stopping after a checkpoint; Ctrl-C again kills at once"))
        with interrupts.installed(), view:
            code = self._stage("Downloading", "download", environment, view, interrupts)
            if code == EXIT_OK:
                code = self._stage("Training", "launch", environment, view, interrupts)
        return code

    def _gpus(self) -> int:
        return (self.resolved.spec.finetuning_gpus or 0) * (self.resolved.spec.nodes or 1)

    def _stage(self, phase: str, module: str, environment: dict[str, str], view: View, interrupts: Interrupts) -> int:
        """Run one of the trainer's programs to its end; its exit code."""
        from finetune_cli.child import run_child
        from finetune_cli.progress_feed import ProgressFeed

        log = self.folders.logs / f"{module}.log"
        self.folders.termination_log.write_text("")
        self.status.stage(phase, "Running", f"its log is {log}")
        view.update(self.status.status)
        feed = ProgressFeed(environment["POD_IP"])

        def tick() -> None:
            if report := feed.newest():
                self.status.report(report)
                view.update(self.status.status)

        command = [sys.executable, "-m", f"finetune_trainer.{module}"]
        code = run_child(command, environment, log, interrupts, tick)
        self._take_last_words(code, log, final=module == "launch" or code != EXIT_OK)
        view.update(self.status.status)
        return code

    def _take_last_words(self, code: int, log: Path, final: bool) -> None:
        """The child's termination report goes into the status; `final` closes the attempt with it."""
        try:
            report = json.loads(self.folders.termination_log.read_text() or "{}")
        except ValueError:
            report = {}
        self.result = {**self.result, **report}
        if not final:
            self.status.report(report)
            return
        default_reason, default_message = _default_words(code)
        reason = report.get("reason") or default_reason
        message = report.get("message") or f"{default_message} (log: {log})"
        self.status.end(code, reason, message, report)

    def _write_config(self, number: int) -> None:
        import yaml

        from finetune_api.job_config import JobConfig, TrackedRun

        tracked = self.status.status.get("mlflow") or {}
        run = None
        if tracked.get("runId") and self.resolved.spec.tracking:
            uri = self.resolved.spec.tracking.mlflow_server_uri
            run = TrackedRun(uri=uri, experiment_id=tracked.get("experimentId") or "0", run_id=tracked["runId"])
        config = JobConfig(
            name=self.job.name,
            namespace=self.job.namespace,
            uid=f"local-{self.job.name}",
            try_number=number,
            spec=self.resolved.spec.to_dict(),
            tracked_run=run,
            notices=self.resolved.notices,
        )
        self.folders.config.mkdir(exist_ok=True)
        (self.folders.config / "job.json").write_text(config.to_json())
        accelerate = yaml.safe_dump(self.resolved.accelerate_config(), sort_keys=True)
        (self.folders.config / "accelerate.yaml").write_text(accelerate)

    def _environment(self, number: int) -> dict[str, str]:
        """The environment that the pods would have, with folders of this machine."""
        from finetune_api import constants
        from finetune_api.locations import model_key, parse_location
        from finetune_cli.local_job import free_address

        spec = self.resolved.spec
        model = parse_location(spec.basemodel)
        model_dir = model.path if model.scheme == "local" else str(self.folders.model_cache / model_key(spec))
        ours = {
            constants.ENV_CONFIG: str(self.folders.config / "job.json"),
            constants.ENV_ATTEMPT: str(number),
            constants.ENV_POD_IP: free_address(self.folders.work, constants.PROGRESS_PORT),
            constants.ENV_POD_NAME: f"{self.job.name}-{number}",
            constants.ENV_NODE_NAME: os.uname().nodename,
            constants.ENV_GPUS: str(self.resolved.processes_per_node),
            constants.ENV_GRACE: str(spec.termination_grace_period_seconds),
            constants.ENV_WORK_DIR: str(self.folders.work),
            constants.ENV_MODEL_DIR: model_dir,
            constants.ENV_MODEL_CACHE_DIR: str(self.folders.model_cache),
            constants.ENV_TERMINATION_LOG: str(self.folders.termination_log),
            constants.ENV_JOB_NAME: self.job.name,
            constants.ENV_JOB_NAMESPACE: self.job.namespace,
            constants.ENV_JOB_UID: f"local-{self.job.name}",
        }
        if number > 1:
            ours[constants.ENV_RESUME] = "auto"
        if spec.bucket_storage_host:
            ours["AWS_ENDPOINT_URL"] = spec.bucket_storage_host
        given = {variable.name: variable.value for variable in spec.env or [] if variable.value is not None}
        return {**os.environ, **ours, **given}

    # -- after

    def _print_result(self, code: int) -> int:
        status = self.status.status
        if self.as_json:
            terminal.print_json(self._result_document(code))
            return code
        if code == EXIT_OK:
            self._print_success()
        else:
            self._print_failure(code, status["attempts"][-1])
        return code

    def _result_document(self, code: int) -> dict[str, Any]:
        status = self.status.status
        progress = status.get("progress") or {}
        numbers = {key: self.result.get(key, progress.get(key)) for key in ("loss", "firstLoss", "evalLoss", "step")}
        return {
            "name": self.job.name,
            "phase": status["phase"],
            "exitCode": code,
            **numbers,
            "model": status.get("model"),
            "workDir": str(self.folders.work),
            "status": status,
        }

    def _print_success(self) -> None:
        from finetune_cli.live import progress_text

        status = self.status.status
        terminal.say(
            f"{self.job.name} {terminal.styled('succeeded', 'ok')}. {progress_text(status.get('progress') or {})}"
        )
        model = status.get("model") or {}
        for label, key in (("model", "path"), ("merged model", "merged"), ("copy", "remote")):
            if model.get(key) and not (key == "merged" and model["merged"] == model.get("path")):
                terminal.say(f"{label}: {model[key]}")
        if (self.folders.work / "mlflow.db").exists():
            terminal.say(f"metrics: mlflow ui --backend-store-uri sqlite:///{self.folders.work / 'mlflow.db'}")
        terminal.say(f"status: {self.folders.status}")

    def _print_failure(self, code: int, attempt: dict[str, Any]) -> None:
        from finetune_api.constants import ExitCode
        from finetune_cli.child import tail

        if code == ExitCode.INTERRUPTED:
            at = f" at step {attempt['lastStep']}" if attempt.get("lastStep") is not None else ""
            terminal.note(f"{self.job.name} was interrupted{at}; the same command goes on from the newest checkpoint")
            return
        terminal.error(f"{self.job.name} failed: {attempt.get('reason')}: {attempt.get('message')}")
        if code == ExitCode.INTERNAL or code not in set(ExitCode):
            for log in sorted(self.folders.logs.glob("*.log"), key=lambda path: path.stat().st_mtime)[-1:]:
                print(f"--- the end of {log}\n{tail(log)}", file=sys.stderr)


def _default_words(code: int) -> tuple[str, str]:
    """Reason and message of an exit code whose process left no report of its own."""
    from finetune_api.constants import ExitCode
    from finetune_operator.plan.endings import WORDS

    if code == EXIT_OK:
        return "Completed", "finished"
    if code in set(ExitCode):
        return WORDS[ExitCode(code)]
    return "Error", f"the process ended with exit code {code}"
