"""The log of a run: one line for each event, for people who read `kubectl logs`."""

import logging
import math
import warnings
from typing import Any

logger = logging.getLogger("finetune")
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50, "passive": 20, "detail": 20}


def set_up(level: str) -> None:
    """Our own lines at the level asked for; libraries speak only when something is wrong, and draw no bars."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if level in ("passive", "info", "detail", "warning"):
        transformers_logging.set_verbosity_error()
        warnings.filterwarnings("ignore", category=FutureWarning)
    else:
        transformers_logging.set_verbosity(_LEVELS[level])
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(_LEVELS.get(level, 20))


def step_line(step: int, total: int, values: dict[str, Any]) -> str:
    """step 10/100 · epoch 0.31 · loss 2.345 · …"""
    parts = [f"step {step}/{total}"]
    for name, form in (
        ("epoch", "epoch {:.2f}"),
        ("loss", "loss {:.4f}"),
        ("eval_loss", "eval loss {:.4f}"),
        ("eval_perplexity", "perplexity {:.2f}"),
        ("rewards/margins", "margin {:.4g}"),
        ("rewards/accuracies", "accuracy {:.3g}"),
        ("eval_rewards/margins", "margin {:.4g}"),
        ("eval_rewards/accuracies", "accuracy {:.3g}"),
        ("learning_rate", "lr {:.3g}"),
        ("grad_norm", "grad {:.3g}"),
        ("tokens_per_second", "{:.0f} tokens/s"),
    ):
        if values.get(name) is not None:
            parts.append(form.format(values[name]))
    if values.get("eta_seconds") is not None:
        parts.append(f"ETA {duration(values['eta_seconds'])}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """1h05m, 3m20s, 12s."""
    whole = math.ceil(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"
