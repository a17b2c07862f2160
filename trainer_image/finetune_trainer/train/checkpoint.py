"""Checkpoints: everything that continuing needs, in one complete folder per step.

Weights are in Hugging Face's format and names (an adapter's in PEFT's), so a checkpoint can be used as it is. No random
state is kept: the loop seeds every step anew from (seed, step, rank), so the next step of a resumed run draws what it
would have drawn.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from finetune_trainer.train import manifest
from finetune_trainer.train.adapter_steps import load_training_state, training_state
from finetune_trainer.train.checkpoint_folder import checkpoint_path
from finetune_trainer.train.objective import Objective

STATE_FILE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.pt"
SCALER_FILE = "scaler.pt"
ADAPTER_FILE = "adapter_training.safetensors"  # what training an adapter needs and PEFT's own files do not hold


@dataclass
class TrainerState:
    """Where a run stands after `step` optimizer steps."""

    step: int = 0
    tokens: int = 0
    first_loss: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    eval_step: int | None = None  # the step after which eval_loss was found
    best_metric: float | None = None
    best_step: int | None = None
    evaluations_without_improvement: int = 0
    stopped_early: bool = False
    window: dict[str, Any] | None = None  # what the next line of the log adds up from before this step
    found: dict[str, Any] = field(default_factory=dict)  # what overrides.auto found
    resumed_from: list[int] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "TrainerState":
        known = {name: value for name, value in json.loads(text).items() if name in cls.__dataclass_fields__}
        return cls(**known)


def save_weights(model: Any, folder: Path) -> None:
    """Writes the model's weights, or the adapter's alone, as safetensors under Hugging Face's names."""
    if hasattr(model, "peft_config"):
        was_training = model.training
        model.eval()  # PEFT computes learned prompts when it saves them, and some have dropout
        model.save_pretrained(str(folder), save_embedding_layers=False)
        model.train(was_training)
    else:
        model.save_pretrained(str(folder))


def load_weights(model: Any, folder: Path) -> None:
    """Puts a checkpoint's weights into a model of the same shape."""
    if (folder / ADAPTER_FILE).is_file():
        load_training_state(model, load_file(folder / ADAPTER_FILE))
        return
    if hasattr(model, "peft_config"):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
        return
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        weights.update(load_file(file))
    if set(model.state_dict()) - _tied_names(model) - set(weights) or set(weights) - set(model.state_dict()):
        # Some architectures are stored under other names or shapes than they have in memory (fused experts).
        weights = type(model).from_pretrained(folder, dtype="auto").state_dict()
    found = model.load_state_dict(weights, strict=False)
    absent = set(found.missing_keys) - _tied_names(model)
    if absent or found.unexpected_keys:
        raise RuntimeError(f"{folder} lacks {sorted(absent)[:3]} and has unknown {list(found.unexpected_keys)[:3]}")


def _tied_names(model: Any) -> set[str]:
    """Names under which a tensor appears again, which safetensors stores once."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {name for same in names.values() if len(same) > 1 for name in same}


def save_checkpoint(
    folder: Path,
    *,
    model: Any,
    optimizer: Any,
    scaler: Any,
    objective: Objective,
    state: TrainerState,
    facts: dict[str, Any],
) -> Path:
    """Writes the checkpoint of state.step, whole or not at all. facts: what the manifest says of the run."""
    target = checkpoint_path(folder, state.step)

    def write(aside: Path) -> None:
        save_weights(model, aside)
        if more := training_state(model):
            save_file(more, aside / ADAPTER_FILE)
        torch.save(optimizer.state_dict(), aside / OPTIMIZER_FILE)
        if scaler is not None:
            torch.save(scaler.state_dict(), aside / SCALER_FILE)
        objective.save(aside)
        (aside / STATE_FILE).write_text(state.to_json(), encoding="utf-8")

    loss = state.eval_loss if state.eval_step == state.step else None
    manifest.write_folder(target, write, {**facts, "step": state.step, "evalLoss": loss})
    return target


def load_optimizer(
    folder: Path, optimizer: Any, scaler: Any, adapt: Callable[[dict[str, Any]], dict[str, Any]] = lambda whole: whole
) -> None:
    """Puts a checkpoint's optimizer state into the optimizer, on the devices of its parameters.

    Rates, decay and the like stay those of the settings: torch would silently take those of the checkpoint. adapt:
    makes of the whole state what this process keeps.
    """
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    whole = torch.load(folder / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
    optimizer.load_state_dict(adapt(whole))
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        for key in set(group) - set(own) - {"params"}:
            del group[key]
        group.update(own)
    if scaler is not None and (folder / SCALER_FILE).is_file():
        scaler.load_state_dict(torch.load(folder / SCALER_FILE, weights_only=True))


def load_state(folder: Path) -> TrainerState:
    """The run's state in a checkpoint."""
    return TrainerState.from_json((folder / STATE_FILE).read_text(encoding="utf-8"))
