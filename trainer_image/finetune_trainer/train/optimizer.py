"""Optimizer and learning-rate schedule by transformers' names."""

import re
from typing import Any

import torch

from finetune_trainer.errors import BadConfiguration
from finetune_trainer.steps import warmup_steps
from finetune_trainer.train.bnb_optimizer import NAMES as BNB_NAMES
from finetune_trainer.train.bnb_optimizer import build_bnb_optimizer
from finetune_trainer.train.settings import OptimizerSettings

# Weight decay pulls matrices to zero; for biases and the gains of norms that is no regularisation. As in transformers.
_NO_DECAY = re.compile(
    r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)|(?:^|\.)ln_(?:\w+)(?:$|\.)", re.IGNORECASE
)

_EXTRA: dict[str, dict[str, Any]] = {  # optim_args that each optimizer takes, with how their text is read
    "adamw_torch": {},
    "adamw_torch_fused": {},
    "sgd": {"momentum": float, "dampening": float, "nesterov": "bool"},
    "adafactor": {"clip_threshold": float, "decay_rate": float},
    "adagrad": {"lr_decay": float, "eps": float},
    "rmsprop": {"momentum": float, "alpha": float, "eps": float, "centered": "bool"},
    **{name: {} for name in BNB_NAMES if not name.startswith("rmsprop")},
    **{name: {"momentum": float, "alpha": float, "eps": float} for name in BNB_NAMES if name.startswith("rmsprop")},
}


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters with and without weight decay, in the model's order."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for name, one in named if not _NO_DECAY.search(name)], "weight_decay": weight_decay},
        {"params": [one for name, one in named if _NO_DECAY.search(name)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: Any, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer over the trained parameters. Raises BadConfiguration."""
    groups = parameter_groups(model, settings.weight_decay)
    extra = _extra(settings)
    rate = settings.learning_rate
    if settings.name in ("adamw_torch", "adamw_torch_fused"):
        fused = settings.name == "adamw_torch_fused"
        betas = (settings.beta1, settings.beta2)
        return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=settings.epsilon, fused=fused)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=rate, **extra)
    if settings.name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False, **extra)
    if settings.name == "adagrad":
        return torch.optim.Adagrad(groups, lr=rate, **extra)
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, **extra)
    if settings.name in BNB_NAMES:
        return build_bnb_optimizer(model, groups, settings, extra)
    raise BadConfiguration(f"training_args.optim {settings.name} is not one of {', '.join(_EXTRA)}")


def _extra(settings: OptimizerSettings) -> dict[str, Any]:
    kinds = _EXTRA.get(settings.name, {})
    values: dict[str, Any] = {}
    for key, text in settings.extra.items():
        if key not in kinds:
            takes = ", ".join(kinds) or "none"
            raise BadConfiguration(f"training_args.optim_args: {settings.name} does not take {key} (it takes: {takes})")
        try:
            values[key] = {"true": True, "false": False}[text.lower()] if kinds[key] == "bool" else kinds[key](text)
        except (ValueError, KeyError):
            raise BadConfiguration(f"training_args.optim_args: {key}={text} cannot be read") from None
    return values


def build_schedule(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, total_steps: int) -> Any:
    """The learning-rate schedule over all steps. Raises BadConfiguration for arguments that it does not take."""
    from transformers.optimization import get_scheduler

    try:
        return get_scheduler(
            settings.schedule,
            optimizer,
            num_warmup_steps=warmup_steps(settings.warmup, total_steps),
            num_training_steps=total_steps,
            scheduler_specific_kwargs=_schedule_kwargs(settings, total_steps),
        )
    except (TypeError, ValueError) as error:
        raise BadConfiguration(
            f"training_args.lr_scheduler_kwargs do not fit lr_scheduler_type {settings.schedule}: {error}"
        ) from None


def _schedule_kwargs(settings: OptimizerSettings, total_steps: int) -> dict[str, Any]:
    kwargs = dict(settings.schedule_kwargs)
    if kwargs and settings.schedule in ("constant", "constant_with_warmup"):
        raise BadConfiguration(
            f"training_args.lr_scheduler_kwargs: {settings.schedule} takes none; remove {', '.join(map(str, kwargs))}"
        )
    if settings.schedule == "warmup_stable_decay":
        # A tenth of the steps to come down in, unless told: the schedule has no default of its own.
        kwargs.setdefault("num_decay_steps", max(1, total_steps // 10))
    return kwargs


def restore_schedule(schedule: Any, step: int) -> None:
    """Puts the schedule after `step` steps. Rates are functions of the step, so changed settings apply from here on."""
    optimizer = schedule.optimizer
    rates = [base * function(step) for base, function in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule.last_epoch = step
    schedule._step_count = step + 1
    schedule._last_lr = rates
