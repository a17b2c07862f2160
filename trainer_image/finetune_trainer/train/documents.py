"""Packed documents must not see one another: found out on the model itself, before training.

Whether a causal model keeps them apart depends on its attention implementation, its kind of positions, recurrent
layers and the adapter: some drop position_ids in silence, and the loss would just be a little too good. So the model is
asked once, with a few tokens.
"""

from collections.abc import Iterable
from typing import Any

import torch

from finetune_trainer.errors import BadConfiguration
from finetune_trainer.train.distributed import autocast

LENGTH = 6  # tokens of a document in the trial
# Shares of what a document's own tokens change in its logits. Two rows of a batch are computed alike, so that nothing
# but a leak makes a difference; a batch of another width is rounded otherwise.
_LEAK, _LEAK_16_BIT = 1e-4, 2e-3
_ROUNDING, _ROUNDING_16_BIT = 1e-3, 3e-2


def any_packed(rows: Iterable[Any]) -> bool:
    """Whether one of the examples holds several documents."""
    return any(len(getattr(row, "starts", ())) > 1 for row in rows)


def check_documents_apart(model: Any, takes_positions: bool, device: torch.device, precision: str) -> None:
    """Raises BadConfiguration if a document's logits depend on the one before it, or on its place in the row."""
    if not takes_positions:
        raise _refusal(model, "it takes no position_ids, which tell it where a document begins")
    vocabulary = model.get_input_embeddings().weight.shape[0]
    first, other, second = (torch.arange(LENGTH) * step % vocabulary for step in (3, 7, 5))
    rows = torch.stack([torch.cat([first, second]), torch.cat([other + 1, second])]) % vocabulary
    positions = torch.arange(LENGTH).repeat(2).expand(2, -1)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(device, precision):
            packed = _logits(model, rows, positions, device)
            alone = _logits(model, rows[:1, LENGTH:], positions[:1, LENGTH:], device)
    finally:
        model.train(was_training)
    change = float((packed[0, :LENGTH] - packed[1, :LENGTH]).abs().max())
    exact = precision == "fp32" and next(model.parameters()).dtype == torch.float32
    leak, rounding = (_LEAK, _ROUNDING) if exact else (_LEAK_16_BIT, _ROUNDING_16_BIT)
    if not float((packed[0, LENGTH:] - packed[1, LENGTH:]).abs().max()) <= leak * change:
        raise _refusal(model, "a document would see the one before it")
    if not float((packed[0, LENGTH:] - alone[0]).abs().max()) <= rounding * change:
        raise _refusal(model, "a document would be computed otherwise than alone")


def _logits(model: Any, ids: torch.Tensor, positions: torch.Tensor, device: torch.device) -> torch.Tensor:
    arguments = {"input_ids": ids.to(device), "position_ids": positions.to(device)}
    logits: torch.Tensor = model(**arguments, use_cache=False).logits
    return logits[:, -ids.shape[1] :].float()


def _refusal(model: Any, why: str) -> BadConfiguration:
    attention = getattr(model.config, "_attn_implementation", None)
    return BadConfiguration(
        f"sft_args.overlength pack cannot be used with {type(model).__name__}"
        + (f" and attention {attention}" if attention else "")
        + f": {why}; use truncate or drop, or another run_conf.model_args.attn_implementation or peft_conf.peft_type"
    )
