"""bitsandbytes' optimizers by transformers' names: state in 8 bits, or paged out of a GPU's memory when that is short.

They work on CPU too, where nothing is paged. Embeddings keep a state of 32 bits, as with transformers: their gradients
are too uneven for 8.
"""

import warnings
from typing import Any

import torch

from finetune_trainer.errors import BadConfiguration
from finetune_trainer.train.settings import OptimizerSettings

NAMES = (
    *("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit"),
    *("lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit"),
    *("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
)


def build_bnb_optimizer(
    model: Any, groups: list[dict[str, Any]], settings: OptimizerSettings, extra: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer of one of NAMES over the parameter groups."""
    try:
        import bitsandbytes.optim

        library: Any = bitsandbytes.optim
    except (ImportError, RuntimeError) as error:
        raise BadConfiguration(
            f"training_args.optim {settings.name} needs bitsandbytes, which does not load here ({error}); "
            "use adamw_torch_fused or adafactor"
        ) from None
    name = settings.name
    bits = 8 if "8bit" in name else 32
    common: dict[str, Any] = {"lr": settings.learning_rate, "optim_bits": bits, **extra}
    betas = (settings.beta1, settings.beta2)
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    if "adamw" in name:
        optimizer = library.AdamW(
            groups, betas=betas, eps=settings.epsilon, is_paged=name.startswith("paged"), **common
        )
    elif "lion" in name:
        optimizer = library.Lion(groups, betas=betas, is_paged=name.startswith("paged"), **common)
    else:
        optimizer = library.RMSprop(groups, **common)
    if bits == 8:
        manager = library.GlobalOptimManager.get_instance()
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                manager.register_module_override(module, "weight", {"optim_bits": 32})
    built: torch.optim.Optimizer = optimizer
    return built
