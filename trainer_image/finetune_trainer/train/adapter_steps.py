"""What an adapter does between optimizer steps, and what it needs beside PEFT's own files to be resumed exactly.

AdaLoRA moves rank between layers after every step, by averages over the past ones, and pulls its factors towards
orthogonality by an addition to the loss that PEFT makes only when it computes the loss itself. Of three types PEFT
stores only what inference needs (computed prompts, kept ranks); a checkpoint needs what is trained.
"""

import math
from typing import Any

import torch

from finetune_trainer.errors import BadConfiguration
from finetune_trainer.train.adapters import UNKNOWN_STEPS, adapter_type

_ADAPTER = "default"
_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class AdapterSteps:
    """AdaLoRA's part in each step of the loop. Raises BadConfiguration if its schedule does not fit the run."""

    def __init__(self, model: Any, total_steps: int) -> None:
        self._tuner = model.base_model
        self._config = model.peft_config[_ADAPTER]
        if self._config.total_step == UNKNOWN_STEPS:
            # With a single step there is no average to choose ranks by, and PEFT fails: it is left to the step after.
            self._tuner.rankallocator.set_total_step(max(2, total_steps))
        last = self._config.total_step - self._config.tfinal
        if self._config.tinit >= last or self._config.total_step > max(2, total_steps):
            raise BadConfiguration(
                f"peft_conf.peft_kwargs: AdaLoRA chooses ranks from step {self._config.tinit} (tinit) to step {last} "
                f"(total_step - tfinal), which does not fit a run of {total_steps} steps; leave total_step out and "
                "lower tinit and tfinal"
            )
        self._factors = [
            (name, parameter)
            for name, parameter in self._tuner.model.named_parameters()
            if f"lora_A.{_ADAPTER}" in name or f"lora_B.{_ADAPTER}" in name
        ]

    def add_gradient(self, scaler: Any) -> None:
        """The gradient of the orthogonal regularisation, once a step, before that of the loss.

        It is the same on every process, so that the mean over processes leaves it as it is.
        """
        weight = self._config.orth_reg_weight
        if not weight:
            return
        distances = []
        for name, factor in self._factors:
            product = factor @ factor.T if "lora_A" in name else factor.T @ factor
            distances.append(torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device)))
        loss = weight * torch.stack(distances).mean()
        (scaler.scale(loss) if scaler else loss).backward()

    def after_update(self, step: int, norm: torch.Tensor) -> None:
        """Takes rank from where it matters least; `step` counts from 1, and its gradients are still there."""
        if math.isfinite(float(norm)):  # else the scaler skipped the step, and the averages would be lost for good
            self._tuner.update_and_allocate(step)


def adapter_steps(model: Any, total_steps: int) -> AdapterSteps | None:
    """The model's adapter as the loop must serve it; None for those that need nothing."""
    return AdapterSteps(model, total_steps) if adapter_type(model) == "ADALORA" else None


def _needs_more(model: Any) -> bool:
    """Whether PEFT's files do not hold all that is trained."""
    kind = adapter_type(model)
    if kind == "PREFIX_TUNING":
        return bool(model.peft_config[_ADAPTER].prefix_projection)
    return kind in ("ADALORA", "P_TUNING", "MULTITASK_PROMPT_TUNING")


def training_state(model: Any) -> dict[str, torch.Tensor]:
    """Tensors that a checkpoint holds beside PEFT's files; empty where these are enough."""
    if not _needs_more(model):
        return {}
    state = {
        f"weights.{name}": value.detach().clone().contiguous()
        for name, value in model.named_parameters()
        if value.requires_grad
    }
    if adapter_type(model) == "ADALORA":
        allocator = model.base_model.rankallocator
        for kind in _AVERAGES:
            for name, value in getattr(allocator, kind).items():
                state[f"{kind}.{name}"] = value.contiguous()
        for name, kept in (model.peft_config[_ADAPTER].rank_pattern or {}).items():
            state[f"rank_pattern.{name}"] = torch.tensor(kept)
    return state


def load_training_state(model: Any, state: dict[str, torch.Tensor]) -> None:
    """Puts a checkpoint's tensors back, into a model of the same configuration."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    stored = parts.get("weights", {})
    if set(stored) != set(parameters):
        raise RuntimeError(f"the checkpoint's adapter differs in {sorted(set(stored) ^ set(parameters))[:3]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])
    if adapter_type(model) == "ADALORA":
        allocator = model.base_model.rankallocator
        for kind in _AVERAGES:
            setattr(
                allocator,
                kind,
                {name: value.to(parameters[_full(name)].device) for name, value in parts.get(kind, {}).items()},
            )
        pattern = {name: kept.tolist() for name, kept in parts.get("rank_pattern", {}).items()}
        model.peft_config[_ADAPTER].rank_pattern = pattern or None


def _full(name: str) -> str:
    """A parameter's name in the PEFT model, by that in the model inside."""
    return f"base_model.model.{name}"
