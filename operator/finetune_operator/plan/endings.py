"""How a run of pods ended, read from the Job and its pods: which exit code, whose words, and what follows from it.

The exit-code contract is constants.ExitCode; a pod's own words are its termination message. A deleted or evicted pod
leaves neither, and is nobody's failure: the next attempt resumes and is not counted. What Kubernetes says of the Job is
the last resort, since pods may be gone by the time we look.
"""

import json
import re
from dataclasses import replace
from typing import Any

from finetune_api.constants import REASON_NO_PROGRESS, ExitCode

from .types import FATAL, RESUME, RETRY, SUCCESS, End, Object

KINDS = {
    ExitCode.OK: SUCCESS,
    ExitCode.BAD_DATA: FATAL,
    ExitCode.INPUT_MISSING: FATAL,
    ExitCode.UNAVAILABLE: RETRY,
    ExitCode.INTERNAL: RETRY,
    ExitCode.INTERRUPTED: RESUME,
    ExitCode.BAD_CONFIG: FATAL,
    ExitCode.OUT_OF_MEMORY: FATAL,
}
WORDS = {
    ExitCode.BAD_DATA: ("BadData", "the data cannot be used; the download or train pod's log names file and line"),
    ExitCode.INPUT_MISSING: ("InputMissing", "a model or data file was not found; check basemodel and the data paths"),
    ExitCode.UNAVAILABLE: ("Unavailable", "a service that the job needs did not answer"),
    ExitCode.INTERNAL: ("InternalError", "the process failed unexpectedly; its log has the traceback"),
    ExitCode.INTERRUPTED: ("Interrupted", "stopped by a signal after writing a checkpoint"),
    ExitCode.BAD_CONFIG: ("BadConfiguration", "the configuration cannot be used; the pod's log says why"),
    ExitCode.OUT_OF_MEMORY: (
        "OutOfMemory",
        "the GPU's memory did not suffice: lower max_per_device_train_batch_size or max_seq_length, turn on "
        "gradient_checkpointing, use a LoRA or quantised base, or ask for more GPUs",
    ),
}
# Reasons of a pod without an end of its container: its node took it away, or refused it (as OutOfnvidia.com/gpu does).
TAKEN_AWAY = frozenset(("Evicted", "NodeLost", "Shutdown", "Preempting", "Terminated", "NodeShutdown"))
REFUSED = frozenset(("UnexpectedAdmissionError", "NodeAffinity", "AdmissionError"))
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
SIGKILLED = 137
SIGTERMED = 143


def ended(job: Object) -> str | None:
    """'Complete' or 'Failed' once the Job is over and its pods have stopped, else None."""
    for condition in (job.get("status") or {}).get("conditions") or []:
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            return str(condition["type"])
    return None


def classify(job: Object, pods: tuple[Object, ...], container: str) -> End:
    """The end of a Job that has ended; `pods` are its pods, `container` the one whose words count."""
    state, condition = ended(job), _last_condition(job)
    at = condition.get("lastTransitionTime")
    if state == "Complete":
        report = next((report for pod in newest_by_index(pods) if (report := termination_report(pod, container))), {})
        return End(SUCCESS, "Completed", report.get("message") or "finished", 0, at, report)
    latest = newest_by_index(pods)
    ends = [end for pod in latest if (end := classify_pod(pod, container, at))]
    ends.sort(key=lambda end: end.at or "")  # who ended first is the cause, the others are survivors that were stopped
    fatal = next((end for end in ends if end.kind == FATAL), None)
    if fatal is None and any(disrupted(pod) for pod in latest):
        words = next((end for end in ends if end.kind == RESUME), None)
        return words or End(RESUME, "Preempted", "a pod was evicted or preempted", None, at)
    if not ends:
        return _from_job(condition, at)
    # Of several nodes those that only lost a peer resume; the peer's own end is the cause.
    own = [end for end in ends if end.kind == RETRY] or [end for end in ends if end.reason == REASON_NO_PROGRESS]
    cause = fatal or (own or ends)[0]
    # Who is the cause may know nothing of checkpoints and steps: rank 0 does.
    return replace(cause, report={**termination_report(latest[0], container), **cause.report})


def classify_pod(pod: Object, container: str, at: str | None = None) -> End | None:
    """The end that one failed pod tells of; None if it tells none (still running, or succeeded)."""
    terminated = _terminated(pod, container)
    if terminated is None or terminated.get("exitCode") in (None, 0):
        if (pod.get("status") or {}).get("phase") == "Failed" and not disrupted(pod):
            reason = pod["status"].get("reason") or "PodFailed"
            resume = reason in TAKEN_AWAY | REFUSED or reason.startswith("OutOf")
            message = pod["status"].get("message") or "the pod failed before its container could end"
            return End(RESUME if resume else RETRY, reason, message, None, at)
        return None
    code = int(terminated["exitCode"])
    report = termination_report(pod, container)
    at = terminated.get("finishedAt") or at
    return _by_code(code, report, terminated, at, stopped=disrupted(pod) or "deletionTimestamp" in pod["metadata"])


def _by_code(code: int, report: Object, terminated: Object, at: str | None, stopped: bool) -> End:
    if code in KINDS:
        exit_code = ExitCode(code)
        reason, advice = WORDS[exit_code]
        return End(KINDS[exit_code], report.get("reason") or reason, report.get("message") or advice, code, at, report)
    if stopped:
        return End(RESUME, "Preempted", f"the pod was deleted or evicted (exit code {code})", code, at, report)
    if code == SIGKILLED and terminated.get("reason") == "OOMKilled":
        message = "the container used more memory than its limit: raise memoryPerGpu, or lower the batch size"
        return End(RETRY, "OutOfHostMemory", message, code, at, report)
    if code == SIGKILLED:
        return End(RETRY, "Killed", "the process was killed (SIGKILL)", code, at, report)
    if code == SIGTERMED:
        return End(RESUME, "Interrupted", "stopped by SIGTERM before it could checkpoint", code, at, report)
    message = report.get("message") or f"the process ended with exit code {code}, which is outside the contract"
    return End(RETRY, report.get("reason") or "Error", message, code, at, report)


def _from_job(condition: Object, at: str | None) -> End:
    """No pod is left to ask. podFailurePolicy's message still names the exit code."""
    found = re.search(r"exit code (\d+)", condition.get("message") or "")
    if found:
        return _by_code(int(found[1]), {}, {}, at, stopped=False)
    if condition.get("reason") == "DeadlineExceeded":
        return End(FATAL, "DeadlineExceeded", condition.get("message") or "the Job's deadline has passed", None, at)
    return End(RESUME, "PodLost", "the pod was deleted while it ran", None, at)


def termination_report(pod: Object, container: str) -> Object:
    """The pod's TerminationReport as it wrote it, {} if it left none."""
    terminated = _terminated(pod, container) or {}
    try:
        report: Any = json.loads(terminated.get("message") or "")
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def _terminated(pod: Object, container: str) -> Object | None:
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        if status.get("name") == container:
            terminated: Object | None = (status.get("state") or {}).get("terminated")
            return terminated
    return None


def disrupted(pod: Object) -> bool:
    """Whether Kubernetes took the pod away: eviction, preemption, node loss."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "DisruptionTarget" and c.get("status") == "True" for c in conditions)


def _last_condition(job: Object) -> Object:
    for condition in (job.get("status") or {}).get("conditions") or []:
        if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
            found: Object = condition
            return found
    return {}


def newest_by_index(pods: tuple[Object, ...]) -> list[Object]:
    """The newest pod of each completion index, index 0 first: rank 0 has the words that count, and a pod that its Job
    has already replaced says nothing about the end."""
    newest: dict[int, Object] = {}
    for pod in sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or ""):
        newest[int((pod["metadata"].get("annotations") or {}).get(INDEX_ANNOTATION, 0))] = pod
    return [newest[index] for index in sorted(newest)]
