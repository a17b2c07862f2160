"""The folder of checkpoints: names, what is there, what retention removes. The launcher reads it too: no torch here."""

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from finetune_api.status import CheckpointReport
from finetune_trainer.train import manifest

_NAME = re.compile(r"checkpoint-(\d+)")


def checkpoint_path(folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return folder / f"checkpoint-{step}"


def step_of(path: Path) -> int | None:
    """The step in a checkpoint's name."""
    match = _NAME.fullmatch(path.name)
    return int(match.group(1)) if match else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, complete or not, newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and step_of(path) is not None]
    return sorted(found, key=lambda path: -(step_of(path) or 0))


Losses = Mapping[int, float | None]  # validation loss by step; None: not validated


def prune(folder: Path, limit: int | None, keep: set[int], elsewhere: Losses | None = None) -> list[int]:
    """Removes the oldest checkpoints beyond the limit, never the newest nor those to keep; the removed steps.

    elsewhere: checkpoints that only the remote store has, which count too.
    """
    known = sorted(_known(folder, elsewhere), reverse=True)
    if limit is None or not known:
        return []
    kept = {known[0], *keep}
    others = [step for step in known if step not in kept]
    return _remove(folder, others[max(0, limit - (len(known) - len(others))) :])


def prune_to_best(folder: Path, count: int, keep: set[int], elsewhere: Losses | None = None) -> list[int]:
    """Removes all but the `count` checkpoints with the lowest validation loss, the newest, and those to keep.

    A checkpoint that was not validated (of an interruption) has no rank: it stays only as the newest.
    """
    known = _known(folder, elsewhere)
    ranked = sorted((loss, step) for step, loss in known.items() if loss is not None and math.isfinite(loss))
    kept = {*(step for _, step in ranked[:count]), *keep, max(known, default=0)}
    return _remove(folder, [step for step in sorted(known, reverse=True) if step not in kept])


def _known(folder: Path, elsewhere: Losses | None) -> dict[int, float | None]:
    """The complete checkpoints, and those elsewhere that are older than the newest of them."""
    here = {
        step_of(path) or 0: (manifest.read_facts(path) or {}).get("evalLoss") for path in complete_checkpoints(folder)
    }
    newest = max(here, default=0)
    return {**{step: loss for step, loss in (elsewhere or {}).items() if step < newest}, **here}


def _remove(folder: Path, steps: list[int]) -> list[int]:
    for step in steps:
        if checkpoint_path(folder, step).is_dir():
            remove(checkpoint_path(folder, step))
    return steps


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints with a manifest, newest first."""
    return [path for path in list_checkpoints(folder) if manifest.read_facts(path) is not None]


def remove(path: Path) -> int:
    """Removes a checkpoint, renamed first, so that a crash leaves none half removed under its name; its step."""
    aside = path.with_name(f"{manifest.ASIDE}old-{path.name}")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
    return step_of(path) or 0


def report_checkpoints(folder: Path) -> list[CheckpointReport]:
    """The complete checkpoints, oldest first, for status."""
    reports = []
    for path in reversed(list_checkpoints(folder)):
        facts = manifest.read_facts(path)
        if facts is not None:
            reports.append(CheckpointReport(step=facts.get("step"), eval_loss=facts.get("evalLoss"), path=str(path)))
    return reports
