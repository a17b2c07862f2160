"""Optimizers and schedules by their names in transformers."""

from typing import Any

import pytest

from finetune_trainer.steps import warmup_steps


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        ("adamw_torch", {}),
        ("adamw_torch_fused", {"weight_decay": 0.1}),
        ("sgd", {"optim_args": "momentum=0.9,nesterov=true", "learning_rate": 0.05}),
        ("adafactor", {"optim_args": "clip_threshold=0.9"}),
    ],
)
def test_every_optimizer_learns_and_resumes(
    train_here: Any, make_config: Any, optimizer: str, arguments: dict[str, Any]
) -> None:
    config = make_config(per_device=4, training_args={"optim": optimizer, **arguments})
    whole = train_here(config)
    assert whole.losses[12] < whole.losses[1]
    first = train_here(config, stop_after=5)
    assert train_here(config, work=first.work).losses == pytest.approx(whole.losses, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "kwargs", "rates"),
    [
        ("linear", {}, [0.0, 0.5, 1.0, 0.5]),
        ("constant", {}, [1.0, 1.0, 1.0, 1.0]),
        ("constant_with_warmup", {}, [0.0, 0.5, 1.0, 1.0]),
        ("cosine", {}, [0.0, 0.5, 1.0, 0.5]),
        ("cosine_with_restarts", {"num_cycles": 1}, [0.0, 0.5, 1.0, 0.5]),
        ("cosine_with_min_lr", {"min_lr_rate": 0.5}, [0.0, 0.5, 1.0, 0.75]),
        ("polynomial", {"power": 2.0, "lr_end": 0.0}, [0.0, 0.5, 1.0, 0.25]),
        ("inverse_sqrt", {"timescale": 2}, [0.0, 0.5, 1.0, 0.8165]),
        ("warmup_stable_decay", {"num_decay_steps": 1}, [0.0, 0.5, 1.0, 1.0]),
    ],
)
def test_every_schedule_takes_its_arguments(
    train_here: Any, make_config: Any, schedule: str, kwargs: dict[str, Any], rates: list[float]
) -> None:
    """Four steps with two of warmup; the rate of each step as a share of the peak, also when resumed in the middle."""
    config = make_config(
        per_device=4,
        training_args={
            "max_steps": 4,
            "warmup_steps": 2,
            "lr_scheduler_type": schedule,
            **({"lr_scheduler_kwargs": kwargs} if kwargs else {}),
        },
    )
    first = train_here(config, stop_after=2)
    run = train_here(config, work=first.work)
    used = [entry["learning_rate"] / 5e-3 for entry in run.history()]
    assert used == pytest.approx(rates, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optim": "sgd", "optim_args": "beta=1"}, "sgd does not take beta"),
        ({"optim": "sgd", "optim_args": "momentum"}, "'momentum' is not of the form key=value"),
        ({"optim_args": "momentum=0.9"}, "adamw_torch_fused does not take momentum"),
        ({"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"a": 1}}, "constant takes none"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"a": 1}}, "do not fit lr_scheduler_type cosine"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    train_here: Any, make_config: Any, arguments: dict[str, Any], message: str
) -> None:
    from finetune_trainer.errors import BadConfiguration

    with pytest.raises(BadConfiguration, match=message):
        train_here(make_config(training_args=arguments))


@pytest.mark.parametrize(
    ("warmup", "total", "steps"), [(0, 10, 0), (5, 10, 5), (0.1, 100, 10), (0.03, 10, 1), (0.3, 10, 3)]
)
def test_warmup_in_steps_or_as_a_share(warmup: float, total: int, steps: int) -> None:
    assert warmup_steps(warmup, total) == steps


def test_biases_and_norms_are_not_decayed(make_model: Any) -> None:
    from transformers import AutoModelForCausalLM

    from finetune_trainer.train.optimizer import parameter_groups

    model = AutoModelForCausalLM.from_pretrained(make_model())
    decayed, spared = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {name for name in map(names.get, map(id, spared["params"])) if "norm" not in name} == set()
    assert all("norm" not in names[id(parameter)] for parameter in decayed["params"])
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
