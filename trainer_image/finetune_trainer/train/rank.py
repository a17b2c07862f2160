"""One training process: `python -m finetune_trainer.train.rank`, started by the launcher, never by hand.

It takes signals before it imports torch (seconds), and writes what became of it into a file for the launcher, since an
exit code alone says too little.
"""

import ctypes
import json
import math
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from finetune_api.constants import REASON_NO_PROGRESS, ExitCode
from finetune_api.report import TerminationReport
from finetune_trainer import redaction
from finetune_trainer.errors import Interrupted, TrainerError, describe
from finetune_trainer.train.inputs import check_inputs
from finetune_trainer.train.progress import Progress
from finetune_trainer.train.server import start_server
from finetune_trainer.train.settings import Settings, read_job_config, read_settings, read_spec
from finetune_trainer.train.stopping import Stop, Watchdog
from finetune_trainer.transfer import use_endpoint

if TYPE_CHECKING:
    from finetune_trainer.train.run import Run

ENV_RESULT_DIR = "FINETUNE_RESULT_DIR"
PARTING_SECONDS_INTERRUPTED = 5.0  # the grace period belongs to the checkpoint, not to metrics
_PR_SET_PDEATHSIG = 1


class Rank:
    """This process: its progress, its run, and the ways it can end."""

    def __init__(self) -> None:
        self.number = int(os.environ.get("RANK", "0"))
        self.progress = Progress(attempt=int(os.environ.get("FINETUNE_ATTEMPT") or 1))
        self.stop = Stop()
        self.run: Run | None = None

    def main(self) -> NoReturn:
        redaction.install()
        self.stop.at_once = self._interrupt_loading
        self.stop.listen()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the launcher held signals back until somebody listens
        _die_with_parent()
        if self.number == 0:
            start_server(self.progress.report)
        Watchdog(self.progress, self._give_up).start()
        try:
            settings = self._settings()
            self._train(settings)
        except BaseException as error:
            self._failed(error)
        self._end("Completed", self._done_text(), ExitCode.OK, "FINISHED")

    def _settings(self) -> Settings:
        job = read_job_config()
        resolved = read_spec(job)
        for notice in (*job.notices, *(one for one in resolved.notices if one not in job.notices)):
            if self.number == 0:
                self.progress.notice(notice)
        return read_settings(job, resolved)

    def _train(self, settings: Settings) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the download pod has fetched everything
        use_endpoint(settings.resolved.spec.bucket_storage_host)
        check_inputs(settings)
        from finetune_trainer.train import console
        from finetune_trainer.train.run import Run

        console.set_up(settings.log_level)
        self.run = Run(settings, self.progress, self.stop)
        self.run.train()
        if self.run.world is not None:
            self.run.world.close()

    # --- endings ----------------------------------------------------------------------------------------------------

    def _done_text(self) -> str:
        report = self.progress.report()
        parts = [f"trained {report.step} steps"]
        if report.first_loss is not None and report.loss is not None:
            parts.append(f"loss {report.first_loss:.4f} to {report.loss:.4f}")
        if report.eval_loss is not None:
            method = self.run.settings.resolved.spec.method if self.run else None
            told = (
                f" (perplexity {math.exp(report.eval_loss):.2f})" if method == "clm" and report.eval_loss < 50 else ""
            )
            parts.append(f"evaluation loss {report.eval_loss:.4f}{told}")
        return "; ".join([", ".join(parts), *(self.run.remarks if self.run else ())])

    def _failed(self, error: BaseException) -> NoReturn:
        if not isinstance(error, TrainerError):
            traceback.print_exception(error)
        said = describe(error)
        interrupted = isinstance(error, Interrupted)
        self._end(said["reason"], said["message"], ExitCode(said["exitCode"]), None if interrupted else "FAILED")

    def _interrupt_loading(self) -> None:
        """SIGTERM while there is nothing to save."""
        self._end("Interrupted", f"stopped while {self.progress.phase}; nothing was lost", ExitCode.INTERRUPTED, None)

    def _give_up(self, message: str) -> None:
        """The watchdog's end, from its own thread: the main thread hangs."""
        self._write(self.progress.last_word(REASON_NO_PROGRESS, message, ExitCode.INTERRUPTED))
        os._exit(ExitCode.INTERRUPTED)

    def _end(self, reason: str, message: str, code: ExitCode, run_status: str | None) -> NoReturn:
        """Sends what is left to MLflow, leaves the report, and goes without waiting for libraries to tidy up."""
        tracker = self.run.tracker if self.run else None
        if tracker is not None:
            self._close_tracker(tracker, run_status)
        if self.number == 0 and code == ExitCode.OK:
            self.progress.update(phase="done")
        self._write(self.progress.last_word(reason, message, int(code)))
        if code == ExitCode.INTERRUPTED and self.run is not None and self.run.uploader is not None:
            self.run.uploader.drain()  # the last checkpoint, as far as the grace period allows; the report is safe
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(code))

    def _close_tracker(self, tracker: Any, run_status: str | None) -> None:
        model = self.progress.extras.get("model")
        artifacts = Path(model.path) if model is not None and model.path and run_status == "FINISHED" else None
        patience = {} if run_status is not None else {"patience": PARTING_SECONDS_INTERRUPTED}
        self.progress.update(mlflow=tracker.close(run_status, artifacts, **patience))

    def _write(self, report: TerminationReport) -> None:
        folder = os.environ.get(ENV_RESULT_DIR)
        if not folder:
            return
        world = self.run.world.size if self.run and self.run.world else None
        document = {"worldSize": world, "report": report.to_dict()}
        target = Path(folder) / f"rank-{self.number}.json"
        aside = target.with_suffix(".part")
        aside.write_text(json.dumps(document), encoding="utf-8")
        aside.rename(target)


def _die_with_parent() -> None:
    """Asks Linux for a SIGTERM when the launcher dies, so that no process trains on unwatched."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        pass


if __name__ == "__main__":
    Rank().main()
