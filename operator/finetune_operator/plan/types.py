"""The values that plan() takes and gives: what was seen of a FineTuneJob and its children, and what is to be done.

Kubernetes objects stay the plain dicts that the API server sent: no typed copies on the hot path, and a field that a
newer server adds is simply ignored.
"""

from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Blocked:
    """A create that the API server or another owner refused; the next plan turns it into a condition."""

    kind: str
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """The MLflow run that all attempts of a job share."""

    experiment_id: str
    run_id: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """One consistent look at a FineTuneJob (`job`) and at what belongs to it. Lists carry only its own children."""

    job: Object
    jobs: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    cache: Object | None = None
    checkpoints: Object | None = None
    config_maps: tuple[Object, ...] = ()  # read only once ttl clears them away
    services: tuple[Object, ...] = ()  # likewise
    warnings: tuple[Object, ...] = ()  # Events of type Warning about children that do not get on
    kueue: bool = True
    workloads: tuple[Object, ...] = ()  # Kueue's, of Jobs that it holds or has just started
    progress: Object | None = None  # the running pod's newest answer to GET /progress
    tracked_run: TrackedRun | None = None
    tracking_error: str = ""
    blocked: tuple[Blocked, ...] = ()

    @property
    def metadata(self) -> Object:
        metadata: Object = self.job["metadata"]
        return metadata

    @property
    def status(self) -> Object:
        return self.job.get("status") or {}


@dataclass(frozen=True, slots=True)
class Create:
    """Create this object unless it exists. `shared`: anyone's object of that name will do, as with a model cache."""

    body: Object
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete exactly this object (by uid). Foreground waits for its pods to end within their grace period."""

    kind: str
    name: str
    uid: str
    foreground: bool = True


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of the few fields that are ours and have drifted."""

    body: Object


Action = Create | Delete | Apply


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a job stands, in a word (phase), for programs (reason) and for people (message: what to do, if anything).

    `stuck`: nothing will change without somebody's help. `requeue`: look again after so many seconds, since no watch
    event will tell. `used_up`: the maxAttempts that was reached, if that is why it failed.
    """

    phase: str
    reason: str
    message: str
    stuck: bool = False
    requeue: float | None = None
    used_up: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One decision's answer. Without a verdict the next decision is asked; with one the plan ends there."""

    actions: tuple[Action, ...] = ()
    verdict: Verdict | None = None
    needs_run: bool = False  # an MLflow run should be found or made before the next plan


@dataclass(frozen=True, slots=True)
class Notice:
    """An Event to post once for a transition, so that `kubectl describe` tells the story."""

    type: str  # Normal or Warning
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """All that follows from one look: actions in order, the whole new status, Events, and when to look again."""

    status: Object
    actions: tuple[Action, ...] = ()
    notices: tuple[Notice, ...] = ()
    requeue: float | None = None
    needs_run: bool = False
    poll: str | None = None  # name of the running pod to ask for progress


PENDING = "Pending"
DOWNLOADING = "Downloading"
QUEUED = "Queued"
STARTING = "Starting"
TRAINING = "Training"
SUSPENDED = "Suspended"
RETRYING = "Retrying"
SUCCEEDED = "Succeeded"
FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class End:
    """How a run of pods ended. kind: success, fatal (a retry would fail alike), retry (counted) or resume (not)."""

    kind: str
    reason: str
    message: str
    exit_code: int | None = None
    at: str | None = None
    report: Object = field(default_factory=dict)


SUCCESS, FATAL, RETRY, RESUME = "success", "fatal", "retry", "resume"
