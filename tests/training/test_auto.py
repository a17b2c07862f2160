"""overrides.auto: what the trainer finds itself changes nothing but the setting it stands for."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import OutOfMemory
from finetune_trainer.train.batch_search import sizes_to_try
from finetune_trainer.train.rate_search import range_test, rates_to_try, read_rate

DROPOUT = {"r": 4, "lora_dropout": 0.1, "target_modules": "all-linear"}


@pytest.fixture
def no_room_above(monkeypatch: pytest.MonkeyPatch) -> Any:
    """no_room_above(rows): the model runs out of memory with more rows at once; returns the sizes that were tried."""

    def limit(rows: int) -> list[int]:
        import torch
        from transformers import LlamaForCausalLM

        tried: list[int] = []
        forward = LlamaForCausalLM.forward

        def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
            size = kwargs["input_ids"].shape[0]
            if self.training:
                tried.append(size)
                if size > rows:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(LlamaForCausalLM, "forward", limited)
        return tried

    return limit


@pytest.mark.parametrize(
    ("total", "largest", "processes", "sizes"),
    [
        (24, 8, 1, [8, 6, 4, 3, 2, 1]),
        (24, 8, 2, [6, 4, 3, 2, 1]),
        (7, 4, 1, [1]),
        (8, 100, 2, [4, 2, 1]),
    ],
)
def test_only_sizes_that_keep_the_total_are_tried(total: int, largest: int, processes: int, sizes: list[int]) -> None:
    assert sizes_to_try(total, largest, processes) == sizes


@pytest.mark.parametrize(("processes", "per_device", "accumulation"), [(1, 6, 4), (2, 6, 2), (3, 4, 2), (8, 3, 1)])
def test_what_was_found_is_a_limit_for_other_numbers_of_processes(
    make_config: Any, processes: int, per_device: int, accumulation: int
) -> None:
    """A later attempt may be granted fewer GPUs: the total stays, and no device gets more than what fitted."""
    from finetune_trainer.train.auto import plan_with
    from finetune_trainer.train.found import Found
    from finetune_trainer.train.settings import read_settings, read_spec

    job = make_config(total=24, per_device=24, spec={"overrides": {"auto": ["per_device_batch"]}})
    plan = plan_with(Found(per_device_batch=6), read_settings(job, read_spec(job)), processes)
    assert (plan.per_device, plan.accumulation) == (per_device, accumulation)


@pytest.mark.parametrize("lora", [DROPOUT, False], ids=["lora with dropout", "full"])
def test_the_largest_batch_that_fits_trains_as_if_it_had_been_given(
    train_here: Any, make_config: Any, no_room_above: Any, lora: Any
) -> None:
    arguments = {"max_steps": 4, "save_steps": 2, "weight_decay": 0.1}
    given = train_here(make_config(lora=lora, total=24, per_device=4, training_args=arguments))
    tried = no_room_above(5)
    auto = {"overrides": {"auto": ["per_device_batch"]}}
    run = train_here(make_config(lora=lora, total=24, per_device=8, training_args=arguments, spec=auto))
    assert tried[:3] == [8, 6, 4]
    effective = run.report.effective
    assert (effective.per_device_batch, effective.accumulation, effective.total_batch) == (4, 6, 24)
    assert any("a per-device batch of 4 fits (at most 8 was allowed); 6 are accumulated" in one for one in run.notices)
    assert run.losses == given.losses, "the search left something behind"


def test_the_batch_is_tried_on_the_longest_rows(
    train_here: Any, make_config: Any, no_room_above: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.train import batch_search

    tried: list[list[int]] = []
    original = batch_search._failure

    def watched(stepper: Any, examples: Any, rows: list[int]) -> Any:
        tried.append([examples.lengths[row] for row in rows])
        return original(stepper, examples, rows)

    monkeypatch.setattr(batch_search, "_failure", watched)
    no_room_above(2)
    train_here(make_config(training_args={"max_steps": 1}, spec={"overrides": {"auto": ["per_device_batch"]}}))
    longest = tried[0]
    assert len(longest) == 8
    assert longest == sorted(longest, reverse=True)
    assert [lengths == longest[: len(lengths)] for lengths in tried] == [True] * 3


def test_a_later_attempt_does_not_search_again(train_here: Any, make_config: Any, no_room_above: Any) -> None:
    config = make_config(spec={"overrides": {"auto": ["per_device_batch", "learning_rate"]}}, **_open_rate())
    tried = no_room_above(4)
    whole = train_here(config)
    first = train_here(config, stop_after=3)
    assert json.loads((first.work / "records" / "found.json").read_text()) == {
        "jobUid": "job-1",
        "per_device_batch": 4,
        "learning_rate": whole.report.effective.learning_rate,
    }
    tried.clear()
    second = train_here(config, work=first.work)
    assert len(tried) == 16, "9 steps of 2 micro-batches, less one at each end of an epoch, and no search"
    assert second.report.effective == whole.report.effective
    assert second.losses == whole.losses


def test_a_new_volume_learns_it_from_the_checkpoint(train_here: Any, make_config: Any, no_room_above: Any) -> None:
    config = make_config(spec={"overrides": {"auto": ["per_device_batch", "learning_rate"]}}, **_open_rate())
    no_room_above(4)
    first = train_here(config, stop_after=3)
    (first.work / "records" / "found.json").unlink()
    second = train_here(config, work=first.work)
    assert second.report.effective == first.report.effective
    assert not any("was found in a range test" in notice for notice in second.notices)


def test_nothing_that_fits_is_out_of_memory(train_here: Any, make_config: Any, no_room_above: Any) -> None:
    no_room_above(0)
    with pytest.raises(OutOfMemory, match="not even a per-device batch of 1 fits"):
        train_here(make_config(spec={"overrides": {"auto": ["per_device_batch"]}}))


# --- the learning rate ------------------------------------------------------------------------------------------------


def _open_rate(**arguments: Any) -> dict[str, Any]:
    return {"training_args": {"learning_rate": None, **arguments}}


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
def test_the_rate_that_was_found_is_of_use(train_here: Any, make_config: Any, optimizer: str) -> None:
    """Better than the library's default, which suits neither this model nor this optimizer."""
    found = {"spec": {"overrides": {"auto": ["learning_rate"]}}, **_open_rate(optim=optimizer)}
    default = make_config(training_args={"learning_rate": 5e-5, "optim": optimizer})
    assert train_here(make_config(**found)).losses[12] < train_here(default).losses[12] - 0.3


@pytest.mark.parametrize(("multiplier", "scaling", "factor"), [(1.0, "none", 1), (0.5, "sqrt", 0.5 * math.sqrt(8))])
def test_the_rate_that_was_found_trains_as_if_it_had_been_given(
    train_here: Any, make_config: Any, multiplier: float, scaling: str, factor: float
) -> None:
    overrides = {"auto": ["learning_rate"], "lr_multiplier": multiplier, "lr_batch_size_scaling": scaling}
    run = train_here(make_config(lora=DROPOUT, per_device=4, spec={"overrides": overrides}, **_open_rate(max_steps=5)))
    rate = run.report.effective.learning_rate
    given = make_config(lora=DROPOUT, per_device=4, training_args={"learning_rate": rate, "max_steps": 5})
    assert run.losses == train_here(given).losses, "the test left something behind"
    found = json.loads((run.work / "records" / "found.json").read_text())["learning_rate"]
    assert rate == pytest.approx(found * factor)
    assert 1e-5 < found < 1e-1
    assert any(f"a learning rate of {found} was found in a range test" in notice for notice in run.notices)
    written = json.loads((run.final / "training_args.json").read_text())
    assert written["training_args"]["learning_rate"] == rate


def test_the_range_test_is_the_same_every_time_and_restores_the_weights(make_model: Any) -> None:
    """On a model of its own: losses at each rate equal to a plain loop, then the weights from before."""
    import torch

    from finetune_trainer.train.batches import Examples, Padding, StepPlan
    from finetune_trainer.train.distributed import World
    from finetune_trainer.train.objective import LanguageModelling
    from finetune_trainer.train.stepper import Stepper

    class Cpu:
        device = "cpu"

    world = World(0, 0, 1, Cpu(), None)
    rows, model, objective = _rows(), _model(make_model), LanguageModelling(Padding(0, "right"))
    examples = objective.examples(rows)
    before = {name: one.clone() for name, one in model.state_dict().items()}

    def steps() -> Any:
        while True:
            plan = StepPlan(0, 0, [[0, 1]], sum(examples.weights), sum(examples.lengths), 2)
            yield plan, iter([examples.collate(rows)])

    def stepper() -> Stepper:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        return Stepper(model, model, objective, optimizer, None, 1.0, world, "fp32")

    losses = range_test(stepper(), steps(), seed=1)
    assert range_test(stepper(), steps(), seed=1) == losses
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert isinstance(examples, Examples)

    by_hand = _model(make_model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.0)
    for rate, expected in zip(rates_to_try(), losses[:40], strict=False):
        loss = sum(
            by_hand(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.input_ids])).loss * (len(row) - 1)
            for row in rows
        ) / sum(len(row) - 1 for row in rows)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()


def _rows() -> list[Any]:
    from finetune_trainer.data import Example

    return [Example(ids, ids) for ids in (list(range(10, 30)), list(range(40, 52)))]


def _model(make_model: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(make_model()).train()


@pytest.mark.parametrize(
    ("losses", "rate"),
    [
        # flat, falling to the rate of number 40 (1e-2), rising: a tenth of about where it was lowest
        ([5.0] * 16 + [5.0 - 0.1 * n for n in range(25)] + [2.6 + 0.5 * n for n in range(1, 20)], 1.0e-3),
        ([5.0] * 65, None),
        ([5.0 + 0.01 * n for n in range(65)], None),
        ([5.0] * 8 + [4.0] * 3 + [math.nan], 1.8e-7),
        ([math.nan], None),
    ],
    ids=["a valley", "flat", "rising", "falls, then is no number", "no number"],
)
def test_the_rate_is_read_off_the_curve(losses: list[float], rate: float | None) -> None:
    assert read_rate(rates_to_try(), losses) == rate


def test_a_curve_without_a_valley_leaves_the_default_and_says_so(
    train_here: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.train.auto.range_test", lambda *args, **kwargs: [5.0] * 10)
    run = train_here(make_config(spec={"overrides": {"auto": ["learning_rate"]}}, **_open_rate(max_steps=1)))
    assert run.report.effective.learning_rate == 5e-5
    assert any("5e-05 is taken, the default" in notice for notice in run.notices)


def test_found_settings_of_another_job_do_not_count(train_here: Any, make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "found.json").write_text('{"jobUid": "job-0", "per_device_batch": 1}')
    spec = {"overrides": {"auto": ["per_device_batch"]}}
    run = train_here(make_config(spec=spec, training_args={"max_steps": 1}), work=tmp_path)
    assert run.report.effective.per_device_batch == 8


# --- out of memory: what the operator does next -----------------------------------------------------------------------


def test_after_running_out_of_memory_half_the_batch_goes_on_with_the_same_total(
    train_here: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the middle, after a checkpoint; the next attempt's configuration has half the batch."""
    arguments = {"max_steps": 6, "save_steps": 2}
    whole = train_here(make_config(total=24, training_args=arguments))
    _room_until_step(monkeypatch, 3)
    work = whole.work.parent / "tight"
    with pytest.raises(OutOfMemory, match="batch_size from 8 to 4") as caught:
        train_here(make_config(total=24, training_args=arguments), work=work)
    assert caught.value.reason == "OutOfMemory"
    second = train_here(make_config(total=24, per_device=4, training_args=arguments), work=work)
    effective = second.report.effective
    assert (effective.per_device_batch, effective.accumulation, effective.total_batch) == (4, 6, 24)
    assert second.report.resumed_from_step == 2
    assert second.losses == pytest.approx(whole.losses, rel=1e-4)


def _room_until_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """From that step on there is room for 4 rows at once."""
    import torch
    from transformers import LlamaForCausalLM

    forward, calls = LlamaForCausalLM.forward, []

    def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if kwargs["input_ids"].shape[0] > 4 and len(calls) > 3 * (step - 1):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(LlamaForCausalLM, "forward", limited)


def test_a_model_without_room_asks_for_no_smaller_batch(
    train_here: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def no_room(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    monkeypatch.setattr("finetune_trainer.train.model.load_model", no_room)
    with pytest.raises(OutOfMemory, match="the model itself: train an adapter") as caught:
        train_here(make_config())
    assert caught.value.reason == "ModelTooLarge"
