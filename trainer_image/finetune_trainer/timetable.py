"""When a run logs, evaluates and saves: by the strategies of training_args, or by the events of evaluation_conf.

Imports no torch: the plan and the download pod ask it too.
"""

import math
from dataclasses import dataclass
from typing import Any

from finetune_api.resolve import ResolvedSpec
from finetune_trainer.steps import Steps


@dataclass(frozen=True)
class Rhythm:
    """Never, every so many steps (a share of all steps when below 1), every epoch; best: decided by the evaluation."""

    strategy: str
    every: float = 0

    def period(self, steps: Steps) -> int:
        """The period of strategy steps."""
        return max(1, math.ceil(round(steps.total * self.every, 6))) if self.every < 1 else int(self.every)

    def due(self, step: int, steps: Steps) -> bool:
        """Whether it is due after this step (counted from 1). The last step ends an epoch, whole or not."""
        if self.strategy == "epoch":
            return step % steps.per_epoch == 0 or step == steps.total
        return self.strategy == "steps" and step % self.period(steps) == 0

    def count(self, steps: Steps) -> int:
        """How often it is due in all."""
        if self.strategy == "epoch":
            return math.ceil(steps.total / steps.per_epoch)
        return steps.total // self.period(steps) if self.strategy == "steps" else 0


@dataclass(frozen=True)
class Events:
    """Validations together with checkpoints, the last one always at the end.

    Every n epochs. max_events alone: so many, spread evenly over all steps. Both: every n epochs, and where that would
    be more than max_events, so many of them spread evenly.
    """

    every_n_epochs: int | None = None
    max_events: int | None = None
    strategy: str = "events"

    def due(self, step: int, steps: Steps) -> bool:
        """Whether there is one after this step (counted from 1)."""
        if step == steps.total:
            return True
        slots, period = self._slots(steps)
        if period and step % period:
            return False
        slot = step // period if period else step
        wanted = self.count(steps)
        # Event k of `wanted` is slot ceil(k * slots / wanted); k = floor(slot * wanted / slots) is the only candidate.
        k = slot * wanted // slots
        return k >= 1 and -(-k * slots // wanted) == slot

    def count(self, steps: Steps) -> int:
        """How many there are in all."""
        slots, _ = self._slots(steps)
        return slots if self.max_events is None else min(self.max_events, slots)

    def _slots(self, steps: Steps) -> tuple[int, int | None]:
        """How many events there could be, and how many steps lie between two; every step if only the number counts."""
        if self.every_n_epochs is None:
            return steps.total, None
        period = self.every_n_epochs * steps.per_epoch
        return math.ceil(steps.total / period), period


def evaluations(resolved: ResolvedSpec) -> Rhythm | Events:
    """When the model is validated, beside the end of training."""
    args: dict[str, Any] = resolved.training_args
    return _events(resolved) or Rhythm(args["eval_strategy"], args["eval_steps"] or 0)


def checkpoints(resolved: ResolvedSpec) -> Rhythm | Events:
    """When a checkpoint is saved, beside the end of training."""
    args: dict[str, Any] = resolved.training_args
    return _events(resolved) or Rhythm(args["save_strategy"], args["save_steps"])


def _events(resolved: ResolvedSpec) -> Events | None:
    given = resolved.spec.evaluation_conf
    if given is None or (given.every_n_epochs is None and given.max_events is None):
        return None
    return Events(given.every_n_epochs, given.max_events)
