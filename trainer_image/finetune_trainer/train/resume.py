"""Where a run begins: at the start, or at the newest complete checkpoint that belongs to it.

run_conf.resume_from_checkpoint governs a job's first attempt. A checkpoint that this very job wrote means that this is
a later attempt (Kueue and the kubelet start the same pod again without telling), so it is always continued. Checkpoints
of an earlier run are moved aside when starting over: never deleted, never mixed in.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.errors import BadConfiguration, InputMissing
from finetune_trainer.train import manifest
from finetune_trainer.train.checkpoint_folder import list_checkpoints, step_of

NEEDED = ("optimizer.pt", "trainer_state.json")  # beside the weights; train/checkpoint.py writes them


@dataclass(frozen=True)
class Start:
    """The checkpoint to continue (None: start over), and what the user should know."""

    checkpoint: Path | None
    notices: list[str] = field(default_factory=list)


def find_start(
    folder: Path,
    resume: bool | str,
    *,
    job_uid: str,
    identity: dict[str, Any],
    fetch: Callable[[str | None], Path | None] = lambda _: None,
    own_only: bool = False,
    now: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
) -> Start:
    """Decides where to begin. Raises InputMissing (true, or a path, without a checkpoint) or BadConfiguration.

    fetch: brings the newest checkpoint of the remote store, of one job (by its uid) or, given None, of any.
    own_only: a later attempt of a job that did not ask for another's checkpoints: only what it saved itself counts,
    also where an earlier job used the same remote folder.
    """
    manifest.remove_leftovers(folder)
    notices: list[str] = []
    if isinstance(resume, str) and resume not in ("auto", "true", "false"):
        return _from_path(Path(resume), identity, notices, own=newest_complete(folder, notices, job_uid))
    own = newest_complete(folder, notices, job_uid)
    if own is not None:
        return _checked(own, identity, notices)
    if resume in (False, "false"):
        _set_aside(folder, now(), notices)
        return Start(None, notices)
    found = fetch(job_uid) if job_uid else None
    if found is None and not own_only:
        found = newest_complete(folder, notices) or fetch(None)
    if found is not None:
        return _checked(found, identity, notices)
    if resume in (True, "true"):
        raise InputMissing(
            f"run_conf.resume_from_checkpoint is true, but there is no complete checkpoint in {folder}; "
            "use auto to start over in that case"
        )
    return Start(None, notices)


def newest_complete(folder: Path, notices: list[str], job_uid: str | None = None) -> Path | None:
    """The newest checkpoint that is whole (of the given job only); a notice for each that is not."""
    for path in list_checkpoints(folder):
        facts = manifest.read_facts(path)
        if job_uid is not None and (not job_uid or (facts is not None and facts.get("jobUid") != job_uid)):
            continue
        problem = manifest.fault(path)
        if problem is None:
            return path
        notice = f"{path.name} was skipped: {problem}"
        if notice not in notices:
            notices.append(notice)
    return None


def _from_path(path: Path, identity: dict[str, Any], notices: list[str], own: Path | None) -> Start:
    if own is not None:  # a later attempt of a job that began with the path
        return _checked(own, identity, notices)
    if not path.is_dir():
        raise InputMissing(f"run_conf.resume_from_checkpoint names {path}, which does not exist")
    chosen = path if step_of(path) is not None else newest_complete(path, notices)
    problem = "it holds no complete checkpoint" if chosen is None else manifest.fault(chosen)
    if chosen is None or problem:
        raise InputMissing(f"run_conf.resume_from_checkpoint names {path}, but {problem}")
    return _checked(chosen, identity, notices)


def _checked(checkpoint: Path, identity: dict[str, Any], notices: list[str]) -> Start:
    saved = (manifest.read_facts(checkpoint) or {}).get("identity")
    if not isinstance(saved, dict):
        raise BadConfiguration(
            f"{checkpoint} was not written by this trainer; resume_from_checkpoint cannot continue it"
        )
    for name in NEEDED:
        if not (checkpoint / name).is_file():
            raise BadConfiguration(
                f"{checkpoint} has no {name}; it cannot be continued without its optimizer's state and its step. Set "
                "run_conf.resume_from_checkpoint: false to start over"
            )
    differing = [key for key in identity if saved.get(key) != identity[key]]
    if differing:
        changes = "; ".join(f"{key} was {_short(saved.get(key))}, is {_short(identity[key])}" for key in differing[:3])
        raise BadConfiguration(
            f"{checkpoint} belongs to another configuration ({changes}); undo the change, or set "
            "run_conf.resume_from_checkpoint: false to start over"
        )
    return Start(checkpoint, notices)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _set_aside(folder: Path, now: datetime.datetime, notices: list[str]) -> None:
    """Moves the checkpoints of an earlier run out of the way, where no later attempt takes them for its own."""
    older = list_checkpoints(folder)
    if not older:
        return
    aside = folder / f"before-{now:%Y%m%dT%H%M%SZ}"
    aside.mkdir(parents=True, exist_ok=True)
    for path in older:
        path.rename(aside / path.name)
    notices.append(
        f"{len(older)} checkpoints of an earlier run were moved to {aside}, since resume_from_checkpoint is false"
    )
