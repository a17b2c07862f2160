"""What the decisions look at: the observation, sorted by meaning once, so that each decision stays a few lines."""

from dataclasses import dataclass
from datetime import datetime

from finetune_api import constants
from finetune_api.resolve import filled

from ..builders.request import Request
from ..settings import Settings
from . import attempts, endings, retry, times
from .labels import LABEL_TRAINING
from .types import Object, Observed

# What is younger is not waiting for anything, it is just new: volumes bind and images come within moments.
SETTLE_SECONDS = 4.0


@dataclass(frozen=True)
class Context:
    """One FineTuneJob at one moment. `attempts`: the history including what the live Jobs show."""

    observed: Observed
    request: Request
    settings: Settings
    now: datetime
    attempts: list[Object]
    forgotten_failures: int = 0  # of attempts that the history has dropped

    @property
    def suspended(self) -> bool:
        """Whether the user wants it to stand still."""
        return bool((self.observed.job.get("spec") or {}).get("suspend"))

    @property
    def max_attempts(self) -> int:
        return filled(self.request.spec.max_attempts)

    @property
    def failures(self) -> int:
        """Attempts that count against maxAttempts."""
        return self.forgotten_failures + attempts.failures(self.attempts)

    @property
    def coming(self) -> retry.Next:
        """When the next attempt may start, after the last one has ended."""
        settings = self.settings
        seconds = settings.retry_seconds, settings.retry_max_seconds
        return retry.next_try(self.attempts, self.failures, self.max_attempts, *seconds)

    def of_role(self, role: str) -> tuple[Object, ...]:
        """The Jobs of the current training with this role, oldest try first."""
        return tuple(sorted(jobs_of(self.observed, role, self.request.training), key=attempts.try_number))

    @property
    def train_jobs(self) -> tuple[Object, ...]:
        return self.of_role(constants.ROLE_TRAIN)

    @property
    def download_jobs(self) -> tuple[Object, ...]:
        return self.of_role(constants.ROLE_DOWNLOAD)

    @property
    def live_train_job(self) -> Object | None:
        """The train Job that has not ended; there is at most one."""
        return next((job for job in reversed(self.train_jobs) if not endings.ended(job)), None)

    @property
    def next_number(self) -> int:
        """Above every try that has left a trace, also those of earlier trainings whose Jobs are still there."""
        numbers = [attempts.try_number(job) for job in self.observed.jobs if _role(job) == constants.ROLE_TRAIN]
        numbers += [int(attempt["job"].rpartition("-")[2]) for attempt in self.attempts]
        return max(numbers, default=0) + 1

    def pods_of(self, job: Object) -> tuple[Object, ...]:
        return tuple(pod for pod in self.observed.pods if attempts.owned_by(pod, job))

    @property
    def stopping_pods(self) -> tuple[Object, ...]:
        """Train pods still alive though their Job is gone or over: none may run beside the next try."""
        live = self.live_train_job
        return tuple(
            pod
            for pod in self.observed.pods
            if _role(pod) == constants.ROLE_TRAIN and not pod_ended(pod) and not (live and attempts.owned_by(pod, live))
        )

    @property
    def claims(self) -> tuple[Object, ...]:
        return tuple(claim for claim in (self.observed.cache, self.observed.checkpoints) if claim)

    def settled(self, job: Object) -> bool:
        """Whether a Job's pods have had the time to start."""
        started = (job.get("status") or {}).get("startTime") or job["metadata"].get("creationTimestamp")
        return self.seconds_since(started) >= SETTLE_SECONDS

    def seconds_since(self, timestamp: str | None) -> float:
        return times.age(timestamp, self.now)


def jobs_of(observed: Observed, role: str, training: str) -> list[Object]:
    """Jobs by role and training."""
    return [job for job in observed.jobs if _role(job) == role and training_of(job) == training]


def training_of(child: Object) -> str | None:
    return (child["metadata"].get("labels") or {}).get(LABEL_TRAINING)


def _role(child: Object) -> str | None:
    return (child["metadata"].get("labels") or {}).get(constants.LABEL_ROLE)


def pod_ended(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
