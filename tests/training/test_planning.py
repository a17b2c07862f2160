"""The plan's counts against what the loop itself does with the same examples: batches, padding, events, memory."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.job_config import JobConfig
from finetune_api.resolve import resolve
from finetune_api.status import DatasetReport
from finetune_trainer.data import Example, TrainingData
from finetune_trainer.data.preference import Preference
from finetune_trainer.memory_estimate import Largest, Model, Tensor
from finetune_trainer.planning import Plan, make_plan, measure_batches
from finetune_trainer.train.sampler import BatchShape

TENSORS = {"model.embed_tokens.weight": Tensor((100, 8), 2), "model.layers.0.mlp.up_proj.weight": Tensor((24, 8), 2)}
ELEMENTS = 800 + 192


def example(length: int) -> Example:
    return Example([5] * length, [5] * length)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 30), min_size=1, max_size=40),
    shape=st.builds(BatchShape, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    sampling=st.sampled_from(["random", "sequential", "group_by_length"]),
    pad_to=st.sampled_from([None, 32]),
    seed=st.integers(0, 99),
)
def test_padding_is_that_of_the_loops_own_batches(
    lengths: list[int], shape: BatchShape, sampling: str, pad_to: int | None, seed: int
) -> None:
    """Every batch of every process of the first epoch, collated as the loop does it; filler rows hold no data."""
    from finetune_trainer.train.batches import Examples, Padding, plan_epoch

    examples = Examples([example(length) for length in lengths], Padding(0, "right", True, pad_to))
    real = padding = 0
    largest: tuple[int, ...] = (0, 0)
    for rank in range(shape.world_size):
        for step in plan_epoch(examples, shape, rank, seed=seed, epoch=0, sampling=sampling, start=0):
            for rows in step.micro_rows:
                if rows == [-1]:
                    continue
                collated = examples.collate([examples[row] for row in rows]).input_ids
                tokens = sum(lengths[row] for row in rows)
                real += tokens
                padding += collated.numel() - tokens
                if collated.numel() > largest[0] * largest[1]:
                    largest = tuple(collated.shape)
    found = measure_batches([(one,) for one in lengths], shape, seed=seed, sampling=sampling, pad_to=pad_to)
    assert (found.tokens, found.padding) == (real, padding) == (sum(lengths), padding)
    assert found.largest.tokens == largest[0] * largest[1]
    assert found.pad_share == padding / (real + padding)


@pytest.fixture
def planned(make_config: Callable[..., JobConfig]) -> Callable[..., Plan]:
    """planned(rows=40, evaluated=4, …): the plan of a job over rows of 10 tokens, in batches of 8."""

    def plan(rows: list[Any] | int = 40, evaluated: int = 4, model: Model | None = None, **changes: Any) -> Plan:
        train = [example(10) for _ in range(rows)] if isinstance(rows, int) else rows
        config = make_config(validation={"type": "AUTO_SPLIT"} if evaluated else None, **changes)
        report = DatasetReport(examples=len(train), tokens=sum(len(row) for row in train))
        data = TrainingData(train, [example(10)] * evaluated or None, report)
        return make_plan(resolve(config.parsed_spec()), data, model)

    return plan


@pytest.mark.parametrize(
    ("arguments", "events", "expected"),
    [  # 40 rows in batches of 8, 2 epochs: 5 steps an epoch, 10 in all
        ({}, {}, (1, 1)),  # at the end, always
        ({"eval_strategy": "epoch", "save_strategy": "epoch"}, {}, (2, 2)),
        ({"eval_strategy": "steps", "eval_steps": 3, "save_steps": 5}, {}, (4, 2)),  # 3, 6, 9 and the end; 5, 10
        ({"eval_strategy": "steps", "eval_steps": 0.2, "save_strategy": "no"}, {}, (5, 0)),
        (
            {"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 5, "eval_on_start": True},
            {},
            (4, 1),
        ),  # 0, 6, 8, 10
        ({"eval_strategy": "epoch", "eval_delay": 2}, {}, (1, 1)),
        ({"eval_strategy": "steps", "eval_steps": 5, "save_strategy": "best"}, {}, (2, 2)),
        ({"num_train_epochs": 6}, {"every_n_epochs": 2}, (3, 3)),
        ({"num_train_epochs": 6}, {"max_events": 4}, (4, 4)),
        ({"num_train_epochs": 6}, {"every_n_epochs": 1, "max_events": 4}, (4, 4)),
        ({"num_train_epochs": 2}, {"every_n_epochs": 1, "max_events": 4}, (2, 2)),
    ],
)
def test_events(
    planned: Callable[..., Plan], arguments: dict[str, Any], events: dict[str, Any], expected: tuple[int, int]
) -> None:
    both = {"evaluation_conf": events, "training_args": {"learning_rate": 1e-3, **arguments}}
    found = planned(spec=both) if events else planned(training_args=arguments)
    assert (found.evaluations, found.checkpoints) == expected


def test_no_validation_data_no_evaluation(planned: Callable[..., Plan]) -> None:
    assert planned(evaluated=0).evaluations == 0


def test_a_preference_pair_is_two_sequences_and_needs_a_reference(planned: Callable[..., Plan]) -> None:
    pairs = [Preference(example(6), example(10)) for _ in range(8)]
    dpo = {"method": "dpo", "dpo_args": {"max_seq_length": 64}, "sft_args": None}
    found = planned(pairs, model=Model(TENSORS), per_device=2, spec=dpo)
    assert (found.batches.tokens, found.batches.padding) == (8 * 16, 8 * 4)
    assert found.batches.largest == Largest(4, 10)
    assert found.memory
    assert found.memory.weights == ELEMENTS * (4 + 4)  # on CPU the frozen copy is fp32 as well
    precomputed = {**dpo, "dpo_args": {"max_seq_length": 64, "precompute_ref_log_probs": True}}
    without = planned(pairs, model=Model(TENSORS), spec=precomputed)
    adapted = planned(pairs, model=Model(TENSORS), lora={"r": 2, "target_modules": ["up_proj"]}, spec=dpo)
    assert without.memory
    assert without.memory.weights == ELEMENTS * 4
    assert adapted.memory
    assert adapted.memory.weights == ELEMENTS * 4 + 2 * 32 * 4


def test_padding_to_the_longest_allowed_costs_what_it_says(planned: Callable[..., Plan]) -> None:
    found = planned(spec={"sft_args": {"max_seq_length": 40, "padding": "max_length"}})
    assert found.batches.pad_share == 0.75
    assert found.dataset_report().pad_share == 0.75
    assert found.batches.largest == Largest(8, 40)


@pytest.mark.parametrize("gpus", [1, 4])
def test_every_way_to_distribute_is_estimated(planned: Callable[..., Plan], gpus: int) -> None:
    found = planned(model=Model(TENSORS), spec={"finetuningGpus": gpus})
    if gpus == 1:
        assert list(found.elsewhere) == ["auto-single-process"]
    else:
        assert list(found.elsewhere) == ["auto-ddp", "auto-deepspeed-stage1", "auto-deepspeed-stage3"]
        totals = [memory.total for memory in found.elsewhere.values()]
        assert totals == sorted(totals, reverse=True)
    assert found.memory == found.elsewhere[found.distributed]


def test_what_is_not_counted_says_so(planned: Callable[..., Plan]) -> None:
    adapter = {"peft_type": "LOKR", "peft_kwargs": {"r": 2, "target_modules": ["up_proj"]}}
    assert planned(model=Model(TENSORS)).counted
    assert not planned(model=Model(TENSORS), spec={"peft_conf": adapter}).counted


def test_without_sizes_nothing_is_guessed(planned: Callable[..., Plan]) -> None:
    found = planned()
    assert (found.memory, found.parameters, found.hours) == (None, None, None)
    assert found.dataset_report().memory is None
