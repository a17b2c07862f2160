"""Noise on the embeddings while training (NEFTune, arXiv 2310.05914), as transformers adds it.

Uniform, with a size that falls with the length and width of the batch. Drawn from torch's generator, which every step
seeds: a resumed run draws the same.
"""

import math
from typing import Any

import torch


def add_noise(model: Any, alpha: float | None) -> None:
    """Makes the model's input embeddings noisy in training mode; nothing if alpha is None."""
    if alpha is None:
        return

    def noisy(module: Any, given: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        size = alpha / math.sqrt(output.size(1) * output.size(2))
        return output + torch.zeros_like(output).uniform_(-size, size)

    model.get_input_embeddings().register_forward_hook(noisy)
