"""What pods say: the termination message of a container, and the document of GET /progress."""

from finetune_api.base import ReportModel
from finetune_api.constants import TERMINATION_LOG_LIMIT
from finetune_api.status import CheckpointReport, DatasetReport, EffectiveSettings, MlflowReport, ModelReport


class TerminationReport(ReportModel):
    """The last word of a pod, in its termination message and on the job's volume."""

    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    attempt: int | None = None
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    first_loss: float | None = None
    eval_loss: float | None = None
    resumed_from_step: int | None = None
    checkpoints: list[CheckpointReport] | None = None
    model: ModelReport | None = None
    mlflow: MlflowReport | None = None
    dataset: DatasetReport | None = None
    effective: EffectiveSettings | None = None
    notices: list[str] | None = None

    def to_message(self, limit: int = TERMINATION_LOG_LIMIT) -> str:
        """JSON of at most `limit` bytes: long texts are shortened, then the oldest checkpoints and notices dropped."""
        report = self
        text = report.to_text()
        if len(text.encode()) > limit and report.message:
            report = report.model_copy(update={"message": _shorten(report.message, 1024)})
            text = report.to_text()
        while len(text.encode()) > limit and (report.notices or report.checkpoints):
            if report.notices:
                report = report.model_copy(update={"notices": report.notices[:-1] or None})
            else:
                report = report.model_copy(update={"checkpoints": (report.checkpoints or [])[1:] or None})
            text = report.to_text()
        if len(text.encode()) > limit:
            report = TerminationReport(
                reason=self.reason, message=_shorten(self.message, limit // 8), exit_code=self.exit_code, step=self.step
            )
            text = report.to_text()
        return text

    def to_text(self) -> str:
        """Compact JSON."""
        return self.model_dump_json(by_alias=True, exclude_none=True)

    @classmethod
    def from_message(cls, text: str | None) -> "TerminationReport | None":
        """Reads a termination message; None if it is none of ours (a log tail, a cut text)."""
        if not text or not text.lstrip().startswith("{"):
            return None
        try:
            return cls.model_validate_json(text)
        except ValueError:
            return None


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 2] + " …"


class ProgressReport(ReportModel):
    """What rank 0 serves at /progress."""

    phase: str = "loading"
    attempt: int | None = None
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    percent: float | None = None
    loss: float | None = None
    first_loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: int | None = None
    resumed_from_step: int | None = None
    updated_at: str | None = None
    checkpoints: list[CheckpointReport] | None = None
    effective: EffectiveSettings | None = None
    mlflow: MlflowReport | None = None
