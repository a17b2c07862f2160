"""overrides.auto before training: the batch per device and the learning rate, unless an earlier attempt found them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch

from finetune_api.batch import BatchPlan, plan_batch
from finetune_api.methods import METHOD_DEFAULTS
from finetune_api.overrides import scale_learning_rate
from finetune_api.training_args import default_of
from finetune_trainer.train.batch_search import largest_batch, sizes_to_try
from finetune_trainer.train.batches import MicroBatch, StepPlan, load, plan_epoch
from finetune_trainer.train.distributed import World
from finetune_trainer.train.found import Found
from finetune_trainer.train.optimizer import build_optimizer
from finetune_trainer.train.progress import Progress
from finetune_trainer.train.rate_search import range_test, rates_to_try, read_rate
from finetune_trainer.train.sampler import BatchShape
from finetune_trainer.train.settings import Settings
from finetune_trainer.train.stepper import Stepper
from finetune_trainer.train.task import Task


@dataclass
class Search:
    """What the searches work with. `model` may be wrapped for data parallelism; `plain` never is."""

    settings: Settings
    world: World
    precision: str
    model: Any
    plain: Any
    task: Task
    progress: Progress

    def per_device_batch(self, found: Found) -> Found:
        """With the largest batch per device that fits, if that is asked for and not known."""
        if "per_device_batch" not in self.settings.auto or found.per_device_batch is not None:
            return found
        resolved, world = self.settings.resolved, self.world
        largest = resolved.spec.batchsize_conf.max_per_device_train_batch_size
        sizes = sizes_to_try(resolved.total_batch, largest, world.size)
        # Without the wrapper, whose reductions would wait for a process that has run out of memory.
        stepper = self._stepper(self.plain, rate=0.0)
        size = largest_batch(stepper, self.task.train, sizes, self.progress.beat)
        self._say(
            f"overrides.auto: a per-device batch of {size} fits (at most {sizes[0]} was allowed); "
            f"{resolved.total_batch // (size * world.size)} are accumulated for the total of {resolved.total_batch}"
        )
        return replace(found, per_device_batch=size)

    def learning_rate(self, found: Found, shape: BatchShape) -> Found:
        """With the learning rate of a range test, if that is asked for and not known."""
        if "learning_rate" not in self.settings.auto or found.learning_rate is not None:
            return found
        stepper = self._stepper(self.model, rate=0.0)
        losses = range_test(stepper, self._steps(shape), seed=self.settings.loop.seed, beat=self.progress.beat)
        rate = read_rate(rates_to_try(), losses)
        if rate is None:
            of_method = METHOD_DEFAULTS.get(self.settings.resolved.spec.method, {})
            rate = float(of_method.get("learning_rate", default_of("learning_rate")))
            self._say(
                f"overrides.auto: no learning rate up to {rates_to_try()[len(losses) - 1]:.0e} lowered the loss; "
                f"{rate} is taken, the default. Look at the data, or give training_args.learning_rate"
            )
        else:
            self._say(f"overrides.auto: a learning rate of {rate} was found in a range test of {len(losses)} steps")
        return replace(found, learning_rate=self.world.from_main(rate))

    def _stepper(self, model: Any, rate: float) -> Stepper:
        """With an optimizer of its own, so that nothing is left behind in the run's."""
        self.model.train()  # as in training: dropout, gradient checkpointing
        return Stepper(
            model=model,
            plain=self.plain,
            objective=self.task.objective,
            optimizer=build_optimizer(self.plain, replace(self.settings.optimizer, learning_rate=rate)),
            scaler=torch.amp.GradScaler(self.world.device.type) if self.precision == "fp16" else None,
            max_grad_norm=self.settings.optimizer.max_grad_norm,
            world=self.world,
            precision=self.precision,
        )

    def _steps(self, shape: BatchShape) -> Iterator[tuple[StepPlan, Iterator[MicroBatch]]]:
        """The run's own batches, epoch after epoch."""
        settings = self.settings.loop
        for epoch in count():
            plans = plan_epoch(
                self.task.train,
                shape,
                self.world.rank,
                seed=settings.data_seed,
                epoch=epoch,
                sampling=settings.sampling,
                start=0,
            )
            yield from load(self.task.train, list(plans), {})

    def _say(self, text: str) -> None:
        if self.world.main:
            self.progress.notice(text)


def plan_with(found: Found, settings: Settings, processes: int) -> BatchPlan:
    """The batches per device: at most what was found to fit, whatever the number of processes is now."""
    sizes = settings.resolved.spec.batchsize_conf
    largest = sizes.max_per_device_train_batch_size
    if found.per_device_batch is not None:
        largest = min(largest, found.per_device_batch)
    return plan_batch(sizes.total_train_batch_size, largest, processes, sizes.per_device_eval_batch_size)


def rate_with(found: Found, settings: Settings) -> float:
    """The peak learning rate: what was found, or given, after multiplier and scaling."""
    if found.learning_rate is None or "learning_rate" not in settings.auto:
        return settings.optimizer.learning_rate
    resolved = settings.resolved
    overrides = resolved.spec.overrides
    assert overrides is not None, "resolve() fills it"
    return scale_learning_rate(
        found.learning_rate, overrides.lr_multiplier, overrides.lr_batch_size_scaling, resolved.total_batch
    )
