"""The training loop: batches in, optimizer steps out, with logging, evaluation and checkpoints between steps.

Nothing waits for the GPU except where a number is shown. The loss of a step is the objective's mean over its whole
global batch (per target token, per pair), so accumulation and data parallelism change nothing but the rounding.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from finetune_api.constants import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.steps import count_steps
from finetune_trainer.train.batches import Examples, MicroBatch, StepPlan, load, plan_epoch
from finetune_trainer.train.checkpoint import TrainerState
from finetune_trainer.train.console import logger, step_line
from finetune_trainer.train.distributed import World, autocast
from finetune_trainer.train.evaluate import Evaluation, evaluate
from finetune_trainer.train.loss import to_device
from finetune_trainer.train.objective import Objective, Sums
from finetune_trainer.train.progress import Progress
from finetune_trainer.train.sampler import BatchShape
from finetune_trainer.train.seeding import seed_all, seed_for
from finetune_trainer.train.settings import LoopSettings

HISTORY = 10_000  # log entries kept in a checkpoint
BAD_LOSSES = 3  # logged losses in a row that are not numbers before a run in fp16 (which skips such steps) is given up


@dataclass
class Parts:
    """What is trained, on what, by what. `model` may be wrapped for data parallelism; `plain` never is."""

    model: Any
    plain: Any
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Any
    scaler: Any
    max_grad_norm: float
    train: Examples
    evaluation: Examples | None
    shape: BatchShape
    eval_batch_size: int
    world: World
    precision: str


@dataclass
class Reporting:
    """Where numbers go. save: writes the checkpoint of a state (called on every rank)."""

    progress: Progress
    metrics: Callable[[dict[str, float], int], None]
    save: Callable[[TrainerState], None]
    stopping: Callable[[], bool]


class Loop:
    """One run over the data, from state.step to the last step or until it is told to stop."""

    def __init__(self, parts: Parts, settings: LoopSettings, reporting: Reporting, state: TrainerState) -> None:
        self.parts = parts
        self.settings = settings
        self.reporting = reporting
        self.state = state
        steps = count_steps(len(parts.train), parts.shape.total, settings.epochs, settings.max_steps)
        self.steps_per_epoch, self.total_steps = steps.per_epoch, steps.total
        self.saved_step: int | None = state.step or None
        self.evaluated_step: int | None = None
        self._parameters = [one for one in parts.plain.parameters() if one.requires_grad]
        self._window = _Window(parts.world.device, parts.objective.metrics)
        self._started = time.monotonic()
        self._first_step = state.step
        self._bad_losses = 0

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Trains to the last step; False if it stopped before, with what was reached saved."""
        self.parts.model.train()
        self._started = time.monotonic()
        self._window.restart()
        if self.settings.evaluate_on_start and self.state.step == 0:
            self._evaluate()
        for plan, batches in self._steps():
            if self._agreed_to_stop() or not self._step(plan, batches):
                return self._interrupted()
            self._after_step(plan)
        return self._finish()

    def _steps(self) -> Iterator[tuple[StepPlan, Iterator[MicroBatch]]]:
        """The steps that are left, epoch by epoch."""
        while self.state.step < self.total_steps:
            epoch, start = divmod(self.state.step, self.steps_per_epoch)
            plans = plan_epoch(
                self.parts.train,
                self.parts.shape,
                self.parts.world.rank,
                seed=self.settings.data_seed,
                epoch=epoch,
                sampling=self.settings.sampling,
                start=start,
            )
            left = list(islice(plans, self.total_steps - self.state.step))
            yield from load(self.parts.train, left, self.settings.loader)

    def _step(self, plan: StepPlan, batches: Iterator[MicroBatch]) -> bool:
        """One optimizer step; False if it was given up between micro-batches, leaving the weights as they were."""
        parts = self.parts
        seed_all(seed_for(self.settings.seed, "step", self.state.step, parts.world.rank))
        parts.optimizer.zero_grad(set_to_none=True)
        # Data parallelism averages gradients over processes, but the loss is a sum over all of them.
        scale = parts.world.size / max(1, plan.weight)
        loss = torch.zeros((), device=parts.world.device)
        last = len(plan.micro_rows) - 1
        for index, batch in enumerate(batches):
            if index and self._agreed_to_stop():
                return False
            with self._no_reduction(index < last):
                with autocast(parts.world.device, parts.precision):
                    sums = parts.objective.sums(parts.model, to_device(batch, parts.world.device), training=True)
                part = sums.loss * scale
                (parts.scaler.scale(part) if parts.scaler else part).backward()
            loss += part.detach()
            self._window.add_metrics(sums)
            self.reporting.progress.beat()
        norm = self._update()
        self._window.add(loss / parts.world.size, norm, plan)
        return True

    def _no_reduction(self, wanted: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are exchanged once a step, with the last micro-batch."""
        model = self.parts.model
        return model.no_sync() if wanted and hasattr(model, "no_sync") else contextlib.nullcontext()

    def _update(self) -> torch.Tensor:
        """Clips, updates the weights, moves the schedule on; the norm of the gradient before clipping."""
        parts = self.parts
        if parts.scaler:
            parts.scaler.unscale_(parts.optimizer)
        limit = parts.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        if parts.scaler:
            parts.scaler.step(parts.optimizer)
            parts.scaler.update()
        else:
            parts.optimizer.step()
        self._window.learning_rate = parts.optimizer.param_groups[0]["lr"]
        parts.schedule.step()
        return norm.detach()

    # --- between steps ----------------------------------------------------------------------------------------------

    def _after_step(self, plan: StepPlan) -> None:
        state, settings = self.state, self.settings
        state.step += 1
        state.tokens += plan.tokens
        self.parts.objective.after_step(state.step)
        last = state.step == self.total_steps
        ends_epoch = state.step % self.steps_per_epoch == 0 or last
        self._show_step()
        first = state.step == 1
        if first:
            state.first_loss = self.parts.world.sum([float(self._window.loss)])[0]
            self._check_loss(state.first_loss)
            self.reporting.progress.update(first_loss=state.first_loss, loss=state.first_loss)
        due = settings.log.due(state.step, self.total_steps, ends_epoch) or (first and settings.log_first_step)
        if last or (due and settings.log.strategy != "no"):
            self._log(shown=settings.log.strategy != "no")
        improved = False
        if settings.evaluate.due(state.step, self.total_steps, ends_epoch) and not self._too_early():
            improved = self._evaluate()
        best = settings.save.strategy == "best" and improved
        if best or settings.save.due(state.step, self.total_steps, ends_epoch):
            if improved:
                state.best_step = state.step
            self._save()

    def _too_early(self) -> bool:
        """Whether evaluation is still delayed: by steps or epochs, as the strategy counts."""
        done = self.state.step if self.settings.evaluate.strategy == "steps" else self._epoch()
        return done < self.settings.evaluate_after

    def _epoch(self) -> float:
        return self.state.step / self.steps_per_epoch

    def _show_step(self) -> None:
        done = self.state.step - self._first_step
        pace = (time.monotonic() - self._started) / max(1, done)
        self.reporting.progress.update(
            phase="training",
            step=self.state.step,
            total_steps=self.total_steps,
            epoch=round(self._epoch(), 4),
            percent=round(100 * self.state.step / self.total_steps, 1),
            learning_rate=self._window.learning_rate,
            eta_seconds=math.ceil(pace * (self.total_steps - self.state.step)),
        )

    def _log(self, shown: bool) -> None:
        """Takes the numbers since the last time off the device; shows them, unless they only serve the last report."""
        state = self.state
        numbers = self._window.close(self.parts.world.sum(self._window.sums()))
        self._check_loss(numbers["loss"])
        state.loss = numbers["loss"]
        numbers["epoch"] = round(self._epoch(), 4)
        rate = numbers["tokens_per_second"]
        progress = self.reporting.progress
        progress.update(loss=state.loss, tokens_per_second=rate)
        if shown:
            self.reporting.metrics(numbers, state.step)
            self._remember(numbers)
            if self.parts.world.main:
                eta = progress.report().eta_seconds
                logger.info(step_line(state.step, self.total_steps, {**numbers, "eta_seconds": eta}))

    def _remember(self, numbers: dict[str, float]) -> None:
        """Keeps what was logged in the checkpoints, without letting them grow for ever."""
        self.state.history.append({"step": self.state.step, **numbers})
        del self.state.history[:-HISTORY]

    def _check_loss(self, loss: float) -> None:
        """Gives up when the loss is no number: weights are lost, and further checkpoints would replace good ones."""
        self._bad_losses = 0 if math.isfinite(loss) else self._bad_losses + 1
        if self._bad_losses >= (BAD_LOSSES if self.parts.precision == "fp16" else 1):
            cure = "lower training_args.learning_rate, raise warmup_steps, or check the data"
            if self.parts.precision == "fp16":
                cure = "use bf16 where the GPU has it, or " + cure
            raise _Diverged(f"the training loss is {loss} at step {self.state.step}: {cure}")

    def _evaluate(self) -> bool:
        """Evaluates and reports; whether the metric is the best so far."""
        parts, state, progress = self.parts, self.state, self.reporting.progress
        if parts.evaluation is None:
            return False
        progress.update(phase="evaluating")
        with self._window.paused():
            found = evaluate(
                parts.plain,
                parts.evaluation,
                parts.objective,
                batch_size=parts.eval_batch_size,
                world=parts.world,
                precision=parts.precision,
                stopping=self.reporting.stopping,
                beat=progress.beat,
            )
        if found is None:
            return False
        self._report_evaluation(found)
        better = state.best_metric is None or (
            found.loss > state.best_metric if self.settings.metric_greater_is_better else found.loss < state.best_metric
        )
        if better:
            state.best_metric = found.loss
        return better

    def _report_evaluation(self, found: Evaluation) -> None:
        state = self.state
        state.eval_loss = found.loss
        self.evaluated_step = state.step
        numbers = {**found.numbers(), "epoch": round(self._epoch(), 4)}
        self._remember(numbers)
        self.reporting.metrics(numbers, state.step)
        self.reporting.progress.update(phase="training", eval_loss=found.loss)
        if self.parts.world.main:
            logger.info(step_line(state.step, self.total_steps, {**found.numbers(), "epoch": self._epoch()}))

    def _save(self) -> None:
        if self.saved_step == self.state.step:
            return
        self.reporting.progress.update(phase="saving")
        with self._window.paused():
            self.reporting.save(self.state)
        self.saved_step = self.state.step
        self.reporting.progress.update(phase="training")

    # --- the end ----------------------------------------------------------------------------------------------------

    def _agreed_to_stop(self) -> bool:
        """Whether any rank was told to stop: all must leave the loop at the same place."""
        return self.parts.world.any(self.reporting.stopping())

    def _interrupted(self) -> bool:
        if self.settings.save.strategy != "no" and self.state.step > 0:
            self._save()
        return False

    def _finish(self) -> bool:
        """The last evaluation and checkpoint, unless made already; False if told to stop."""
        improved = False
        if self.evaluated_step != self.state.step:
            improved = self._evaluate()
        if self.settings.save.strategy in ("steps", "epoch"):
            if improved and self.settings.load_best:
                self.state.best_step = self.state.step
            self._save()
        return not self._agreed_to_stop()


class _Diverged(TrainerError):
    """The loss is no number any more; the same settings would end alike."""

    reason = "LossNotFinite"
    exit_code = ExitCode.BAD_CONFIG


class _Window:
    """What happened since the last log line, kept on the device until it is shown."""

    def __init__(self, device: torch.device, metrics: tuple[str, ...]) -> None:
        self._device = device
        self._names = metrics
        self.learning_rate = 0.0
        self.restart()

    def restart(self) -> None:
        """Begins an empty window now."""
        self.loss = torch.zeros((), dtype=torch.float64, device=self._device)
        self._metrics = torch.zeros(len(self._names), dtype=torch.float64, device=self._device)
        self._norm: torch.Tensor | None = None
        self._steps = 0
        self._tokens = 0
        self._rows = 0
        self._since = time.monotonic()

    def add_metrics(self, sums: Sums) -> None:
        """Of one micro-batch."""
        if sums.metrics is not None:
            self._metrics += sums.metrics

    def add(self, loss: torch.Tensor, norm: torch.Tensor, plan: StepPlan) -> None:
        """A step that was done."""
        self.loss += loss
        self._norm = norm
        self._steps += 1
        self._tokens += plan.tokens
        self._rows += plan.rows

    def sums(self) -> list[float]:
        """This process's share of the loss and of each metric."""
        return [float(self.loss), *self._metrics.tolist()]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out of the pace what is not training: evaluation, checkpoints."""
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def close(self, summed: list[float]) -> dict[str, float]:
        """The numbers of the window, given `sums` over all processes; a new one begins."""
        seconds = max(1e-9, time.monotonic() - self._since)
        loss, *metrics = summed
        numbers = {
            "loss": loss / max(1, self._steps),
            **{name: value / max(1, self._rows) for name, value in zip(self._names, metrics, strict=True)},
            "learning_rate": self.learning_rate,
            "grad_norm": float(self._norm) if self._norm is not None else 0.0,
            "tokens_per_second": round(self._tokens / seconds, 1),
        }
        self.restart()
        return numbers
