"""overrides.auto: learning_rate. A range test: the loss while the rate grows exponentially, on training batches.

The test is Smith's (Cyclical Learning Rates for Training Neural Networks, 2015, arXiv:1506.01186); the rule that reads
the rate off the curve is fastai's (Gugger, "How Do You Find A Good Learning Rate", 2018): one tenth of the rate at
which the smoothed loss is lowest, for at the lowest point itself training is about to diverge.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from finetune_trainer.train.batches import MicroBatch, StepPlan
from finetune_trainer.train.seeding import seed_all, seed_for
from finetune_trainer.train.stepper import Stepper

START, END, PER_DECADE = 1e-7, 10.0, 8
MEMORY = 0.7  # of the smoothed loss: enough for the noise of batches, and a lag of a third of a decade only
HOPELESS = 2.0  # the test ends when the smoothed loss is so many times the lowest
LEAST_GAIN = 0.01  # a curve that never falls by this share shows nothing


def rates_to_try() -> list[float]:
    """The rates of the test, from START to END."""
    count = round(math.log10(END / START) * PER_DECADE) + 1
    return [START * 10 ** (number / PER_DECADE) for number in range(count)]


def smooth(losses: Sequence[float]) -> list[float]:
    """The exponentially weighted mean, without the bias of its start."""
    smoothed, mean = [], 0.0
    for count, loss in enumerate(losses, 1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        smoothed.append(mean / (1 - MEMORY**count))
    return smoothed


def read_rate(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate that a curve recommends, to two digits; None if no rate lowered the loss."""
    smoothed = smooth([loss for loss in losses if math.isfinite(loss)])
    if not smoothed:
        return None
    lowest = min(range(len(smoothed)), key=lambda number: smoothed[number])
    if smoothed[lowest] > smoothed[0] * (1 - LEAST_GAIN):
        return None
    return float(f"{rates[lowest] / 10:.1e}")


def range_test(
    stepper: Stepper,
    steps: Iterator[tuple[StepPlan, Iterator[MicroBatch]]],
    *,
    seed: int,
    beat: Callable[[], None] = lambda: None,
) -> list[float]:
    """The losses at the rates of the test, until it diverged; the same on every process. Weights are as they were
    afterwards; the stepper's optimizer is spent."""
    trained = [one for one in stepper.plain.parameters() if one.requires_grad]
    before = [one.detach().to("cpu", copy=True) for one in trained]
    losses: list[float] = []
    try:
        for number, (rate, (plan, batches)) in enumerate(zip(rates_to_try(), steps, strict=False)):
            for group in stepper.optimizer.param_groups:
                group["lr"] = rate
            seed_all(seed_for(seed, "range test", number, stepper.world.rank))
            share = stepper.gradients(plan, batches, done=lambda sums: beat())
            assert share is not None
            losses.append(stepper.world.sum([float(share)])[0])
            if _hopeless(losses):
                break
            stepper.apply()
    finally:
        with torch.no_grad():
            for one, kept in zip(trained, before, strict=True):
                one.copy_(kept)
        stepper.optimizer.zero_grad(set_to_none=True)
    return losses


def _hopeless(losses: Sequence[float]) -> bool:
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    return smoothed[-1] > HOPELESS * min(smoothed)
