"""The training loop: batches in, optimizer steps out, with logging, evaluation and checkpoints between steps.

Nothing waits for the GPU except where a number is shown. The loss of a step is the objective's mean over its whole
global batch (per target token, per pair), so accumulation and data parallelism change nothing but the rounding.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch

from finetune_api.constants import ExitCode
from finetune_trainer.errors import TrainerError
from finetune_trainer.steps import Steps
from finetune_trainer.train.batches import Examples, MicroBatch, StepPlan, load, plan_epoch
from finetune_trainer.train.checkpoint import TrainerState
from finetune_trainer.train.console import logger, step_line
from finetune_trainer.train.evaluate import Evaluation, evaluate
from finetune_trainer.train.objective import Sums
from finetune_trainer.train.progress import Progress
from finetune_trainer.train.sampler import BatchShape
from finetune_trainer.train.seeding import seed_all, seed_for
from finetune_trainer.train.settings import LoopSettings
from finetune_trainer.train.stepper import Stepper

HISTORY = 10_000  # log entries kept in a checkpoint
BAD_STEPS = 3  # steps in a row without a usable loss before a run in fp16, which skips such steps, is given up


@dataclass
class Parts(Stepper):
    """What is trained, on what, by what."""

    train: Examples
    evaluation: Examples | None
    shape: BatchShape
    eval_batch_size: int
    schedule: Any = None


@dataclass
class Reporting:
    """Where numbers go. save: writes the checkpoint of a state (called on every rank); sample: lets the model write,
    after each evaluation at a step (on the rank that has it)."""

    progress: Progress
    metrics: Callable[[dict[str, float], int], None]
    save: Callable[[TrainerState], None]
    stopping: Callable[[], bool]
    sample: Callable[[int], Any] | None = None


class Loop:
    """One run over the data, from state.step to the last step or until it is told to stop."""

    def __init__(
        self, parts: Parts, settings: LoopSettings, reporting: Reporting, state: TrainerState, steps: Steps
    ) -> None:
        self.parts = parts
        self.settings = settings
        self.reporting = reporting
        self.state = state
        self.steps = steps
        self.steps_per_epoch, self.total_steps = steps.per_epoch, steps.total
        self.saved_step: int | None = state.step or None
        self._window = _Window(parts.world.device, parts.objective.metrics)
        self._batches: list[Sums] = []  # of the step that is being made
        self._stop_when_patience_ends()
        self._started = time.monotonic()
        self._first_step = state.step
        self._bad_steps = 0

    # --- the run ----------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Trains to the last step; False if it stopped before, with what was reached saved."""
        self.parts.model.train()
        self._started = time.monotonic()
        self._window.restart()
        if self.state.window is not None:
            self._window.take(self.state.window, counts=self.parts.world.main)
        if self.settings.evaluate_on_start and self.state.step == 0:
            self._evaluate()
        elif self._evaluation_was_cut_off():
            self.saved_step = None  # the checkpoint lacks what follows from the evaluation
            self._evaluate_and_save()
        for plan, batches in self._steps():
            if self.state.stopped_early:
                break
            if self._agreed_to_stop() or not self._step(plan, batches):
                return self._interrupted()
            self._after_step(plan)
        return self._finish()

    def _evaluation_was_cut_off(self) -> bool:
        """Whether the run was stopped while it evaluated at the step that it resumes from."""
        state = self.state
        if self.parts.evaluation is None or state.step == 0:
            return False
        return self._evaluation_due() and state.eval_step != state.step

    def _steps(self) -> Iterator[tuple[StepPlan, Iterator[MicroBatch]]]:
        """The steps that are left. Each epoch has its own worker processes, unless they persist."""
        epochs = self._epochs_left()
        if self.settings.loader.get("persistent_workers"):
            epochs = iter((chain.from_iterable(epochs),))
        for plans in epochs:
            yield from load(self.parts.train, plans, self.settings.loader)

    def _epochs_left(self) -> Iterator[Iterator[StepPlan]]:
        step = self.state.step
        while step < self.total_steps:
            epoch, start = divmod(step, self.steps_per_epoch)
            plans = plan_epoch(
                self.parts.train,
                self.parts.shape,
                self.parts.world.rank,
                seed=self.settings.data_seed,
                epoch=epoch,
                sampling=self.settings.sampling,
                start=start,
            )
            count = min(self.steps_per_epoch - start, self.total_steps - step)
            yield islice(plans, count)
            step += count

    def _step(self, plan: StepPlan, batches: Iterator[MicroBatch]) -> bool:
        """One optimizer step; False if it was given up between micro-batches, leaving the weights as they were."""
        parts = self.parts
        seed_all(seed_for(self.settings.seed, "step", self.state.step, parts.world.rank))
        self._batches.clear()
        loss = parts.gradients(plan, batches, stop=self._agreed_to_stop, done=self._after_batch)
        if loss is None:
            return False
        norm = parts.apply()
        if parts.adapter_steps is not None:
            parts.adapter_steps.after_update(self.state.step + 1, norm)
        self._window.learning_rate = parts.optimizer.param_groups[0]["lr"]
        parts.schedule.step()
        self._window.add(loss, norm, plan, self._batches)
        self._check_step(loss, plan)
        return True

    def _after_batch(self, sums: Sums) -> None:
        self._batches.append(Sums(sums.loss.detach(), sums.metrics))
        self.reporting.progress.beat()

    # --- between steps ----------------------------------------------------------------------------------------------

    def _after_step(self, plan: StepPlan) -> None:
        state, settings = self.state, self.settings
        state.step += 1
        state.tokens += plan.tokens
        self.parts.objective.after_step(state.step)
        last = self._last()
        self._show_step()
        first = state.step == 1
        if first:
            state.first_loss = self.parts.world.sum([float(self._window.loss)])[0]
            self._check_loss(state.first_loss)
            self.reporting.progress.update(first_loss=state.first_loss, loss=state.first_loss)
        due = settings.log.due(state.step, self.steps) or (first and settings.log_first_step)
        if last or (due and settings.log.strategy != "no"):
            self._log(shown=settings.log.strategy != "no")
        self._evaluate_and_save()

    def _evaluate_and_save(self) -> None:
        """What is due after the step that was done."""
        state, settings = self.state, self.settings
        improved = self._evaluation_due() and self._evaluate()
        # Early stopping ends with the best evaluation's weights: they must be kept when they are seen.
        best = improved and (settings.save.strategy == "best" or settings.patience is not None)
        if best or settings.save.due(state.step, self.steps) or (self._last() and self._saves_the_end()):
            if improved:
                state.best_step = state.step
            self._save()

    def _evaluation_due(self) -> bool:
        """The end is always evaluated, where there is something to evaluate on."""
        due = self.settings.evaluate.due(self.state.step, self.steps) and not self._too_early()
        return due or self._last()

    def _last(self) -> bool:
        return self.state.step == self.total_steps

    def _saves_the_end(self) -> bool:
        """Whether the end of the run gets a checkpoint, due or not."""
        return self.settings.save.strategy not in ("no", "best")

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
        if self.parts.precision != "fp16" and not math.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss} at step {self.state.step}: lower training_args.learning_rate, raise "
                "warmup_steps, or check the data"
            )

    def _check_step(self, share: torch.Tensor, plan: StepPlan) -> None:
        """In fp16, looks at every raw loss: numbers beyond 65504 make it infinite or none, too small ones exactly 0.

        Such steps are skipped; a few in a row mean that none will pass any more.
        """
        if self.parts.precision != "fp16":
            return
        (loss,) = self.parts.world.sum([float(share)])
        vanished = loss == 0 and plan.weight > 0 and self.parts.objective.perplexity
        self._bad_steps = self._bad_steps + 1 if vanished or not math.isfinite(loss) else 0
        limit = min(BAD_STEPS, self.total_steps)
        if self._bad_steps >= limit:
            step = self.state.step + 1
            raise Overflowed(
                f"the training loss was {loss} in the {limit} steps up to step {step}, beyond what fp16 can hold: "
                "use training_args.bf16 where the GPU has it, or fp32 (neither key, and torch_dtype: float32); "
                "overrides.auto: [precision] chooses by itself and goes over to fp32",
                good_until=step - limit,
            )

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
        if self.reporting.sample is not None:
            with self._window.paused():
                self.reporting.sample(state.step)
        self._report_evaluation(found)
        return state.step > 0 and self._judge(found.loss)

    def _judge(self, loss: float) -> bool:
        """Whether this evaluation is the best so far; ends the run when too many brought no improvement.

        As transformers' EarlyStoppingCallback counts: the best so far moves with every improvement, however small, but
        only one by more than the threshold starts the count anew.
        """
        state, settings = self.state, self.settings
        best = state.best_metric
        better = math.isfinite(loss) and (
            best is None or (loss > best if settings.metric_greater_is_better else loss < best)
        )
        if better and (best is None or abs(loss - best) > settings.least_improvement):
            state.evaluations_without_improvement = 0
        else:
            state.evaluations_without_improvement += 1
        if better:
            state.best_metric = loss
        self._stop_when_patience_ends()
        return better

    def _stop_when_patience_ends(self) -> None:
        state, patience = self.state, self.settings.patience
        ended = patience is not None and state.evaluations_without_improvement >= patience
        state.stopped_early = ended and state.step < self.total_steps

    def _report_evaluation(self, found: Evaluation) -> None:
        state = self.state
        state.eval_loss = found.loss
        state.eval_step = state.step
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
            self.state.window = self._window.kept(self.parts.world.sum(self._window.sums()))
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
        """The last checkpoint, unless made already; False if told to stop."""
        self.reporting.progress.update(eta_seconds=0)  # early stopping may have shortened it
        if self._saves_the_end():
            self._save()
        return not self._agreed_to_stop()


class Diverged(TrainerError):
    """The loss is no number any more; the same settings would end alike."""

    reason = "LossNotFinite"
    exit_code = ExitCode.BAD_CONFIG


class Overflowed(Diverged):
    """fp16 cannot hold this model's numbers. good_until: the last step whose loss was a usable number."""

    def __init__(self, message: str, good_until: int) -> None:
        super().__init__(message)
        self.good_until = good_until


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

    def add(self, loss: torch.Tensor, norm: torch.Tensor, plan: StepPlan, batches: Sequence[Sums]) -> None:
        """A step that was done, of so many micro-batches."""
        self.loss += loss
        for sums in batches:
            if sums.metrics is not None:
                self._metrics += sums.metrics
        self._norm = norm
        self._steps += 1
        self._tokens += plan.tokens
        self._rows += plan.rows

    def sums(self) -> list[float]:
        """This process's share of the loss and of each metric."""
        return [float(self.loss), *self._metrics.tolist()]

    def kept(self, summed: list[float]) -> dict[str, Any] | None:
        """What a checkpoint needs for a line that begins before it and ends after; given `sums` over all processes."""
        return {"sums": summed, "steps": self._steps, "rows": self._rows} if self._steps else None

    def take(self, kept: dict[str, Any], counts: bool) -> None:
        """Goes on with such a line; `counts` on one process, whose share everything before is."""
        self._steps, self._rows = kept["steps"], kept["rows"]
        if counts:
            loss, *metrics = kept["sums"]
            self.loss += loss
            self._metrics += torch.tensor(metrics, dtype=torch.float64, device=self._device)

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
