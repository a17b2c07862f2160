"""One attempt of a local run: resolve the manifest, lay out the folders, run download and training, keep the status.

`finetune run` prints around it; nothing here writes to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal
from finetune_cli.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from finetune_api.resolve import ResolvedSpec
    from finetune_cli.child import Interrupts
    from finetune_cli.live import View
    from finetune_cli.local_job import Folders
    from finetune_cli.local_status import LocalStatus
    from finetune_cli.manifests import Job

LOCAL_EXPERIMENT = "finetune-runs"


class LocalRun:
    """A job in its work directory; `status` is what status.json holds, `result` what the trainer said last."""

    def __init__(self, job: Job, folders: Folders, args: argparse.Namespace) -> None:
        from finetune_cli.local_status import LocalStatus

        self.job = job
        self.folders = folders
        self.status: LocalStatus = LocalStatus.load(folders.status)
        self.result: dict[str, Any] = {}
        self.resolved = self._resolve(args)

    def _resolve(self, args: argparse.Namespace) -> ResolvedSpec:
        from finetune_cli import local_job, local_machine

        spec, changed = local_machine.fitted(dict(self.job.spec), local_machine.gpus_here())
        for text in changed:
            terminal.note(text)
        for key in local_job.ignored_keys(spec):
            terminal.note(f"spec.{key} means nothing without a cluster and is ignored")
        if not spec.get("tracking"):
            uri = f"sqlite:///{self.folders.work / 'mlflow.db'}"
            spec["tracking"] = {"mlflow_server_uri": uri, "experiment_name": LOCAL_EXPERIMENT}
        return local_job.resolve_here(spec, args)

    def finished_before(self) -> bool:
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
        self.result = self._last_words()
        return self.status.phase == "Succeeded"

    def train(self, view: View) -> int:
        from finetune_cli.child import Interrupts

        number = self.status.begin([*self.resolved.notices, *self.resolved.warnings], self._gpus())
        environment = self._environment(number)
        self._write_config(number)
        if number > 1 and self.folders.has_checkpoint():
            terminal.note(f"attempt {number} goes on from the newest complete checkpoint")
        interrupts = Interrupts(lambda: terminal.note("stopping after a checkpoint; Ctrl-C again kills at once"))
        with interrupts.installed(), view:
            code = self._stage("Downloading", "download", environment, view, interrupts)
            if code == EXIT_OK:
                code = self._stage("Training", "launch", environment, view, interrupts)
        return code

    def _gpus(self) -> int:
        from finetune_api.resolve import filled

        return filled(self.resolved.spec.finetuning_gpus) * filled(self.resolved.spec.nodes)

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
        report = self._last_words()
        self.result = {**self.result, **report}
        if not final:
            self.status.report(report)
            return
        default_reason, default_message = _default_words(code)
        reason = report.get("reason") or default_reason
        message = report.get("message") or f"{default_message} (log: {log})"
        self.status.end(code, reason, message, report)

    def _last_words(self) -> dict[str, Any]:
        """The newest termination report, {} if the process left none."""
        try:
            report: dict[str, Any] = json.loads(self.folders.termination_log.read_text() or "{}")
            return report
        except (OSError, ValueError):
            return {}

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
            constants.ENV_WATCHDOG: str(spec.step_timeout_seconds),
            constants.ENV_WORK_DIR: str(self.folders.work),
            constants.ENV_MODEL_DIR: model_dir,
            constants.ENV_MODEL_CACHE_DIR: str(self.folders.model_cache),
            constants.ENV_TERMINATION_LOG: str(self.folders.termination_log),
            constants.ENV_JOB_NAME: self.job.name,
            constants.ENV_JOB_NAMESPACE: self.job.namespace,
            constants.ENV_JOB_UID: f"local-{self.job.name}",
            constants.ENV_SECRETS: ",".join(variable.name for variable in spec.env or [] if variable.value_from),
        }
        if number > 1 and self.folders.has_checkpoint():
            # Not without one: `auto` would then take another job's checkpoint from checkpointsRemote.
            ours[constants.ENV_RESUME] = "auto"
        if spec.bucket_storage_host:
            ours["AWS_ENDPOINT_URL"] = spec.bucket_storage_host
        given = {variable.name: variable.value for variable in spec.env or [] if variable.value is not None}
        return {**os.environ, **ours, **given}


def _default_words(code: int) -> tuple[str, str]:
    """Reason and message of an exit code whose process left no report of its own."""
    from finetune_api.constants import ExitCode
    from finetune_operator.plan.endings import WORDS

    if code == EXIT_OK:
        return "Completed", "finished"
    if code in set(ExitCode):
        return WORDS[ExitCode(code)]
    return "Error", f"the process ended with exit code {code}"
