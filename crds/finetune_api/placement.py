"""run_conf.model_args.device_map: where the base model goes, as one decision for validation and the trainer.

transformers would take any map at any time and fail, offload layers that cannot be trained there, or give two processes
the same GPU. The policy: with several processes each holds the whole model on its own device; a single process has one
GPU (finetuningGpus: 1), and the model on it; on the CPU there is nothing to place. A map that says the same is fine,
any other is refused instead of ignored.
"""

from collections.abc import Mapping
from typing import Any

SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")


class PlacementError(ValueError):
    """A device_map that would be ignored or cannot be trained with; the message says what to do."""


def place(
    wanted: Any, *, processes: int, on_cpu: bool, local_rank: int = 0, quantised: bool = False
) -> dict[str, int] | None:
    """The device_map for from_pretrained; None to load on the CPU and move the model to its device, which a quantised
    one cannot do. Raises PlacementError."""
    if on_cpu:
        _insist(wanted, ("cpu",), "the job trains on the CPU (finetuningGpus: 0)")
        return None
    if processes > 1:
        _insist(wanted, (), "with several processes each holds the whole model on its own GPU")
        return {"": local_rank} if quantised else None
    _insist(wanted, (0, "0", "cuda", "cuda:0", *SPREAD), "the process has one GPU, which holds the whole model")
    return {"": 0}


def _insist(wanted: Any, fine: tuple[Any, ...], situation: str) -> None:
    """Refuses a map that asks for anything else than the one place there is."""
    devices = list(wanted.values()) if isinstance(wanted, Mapping) else [wanted]
    for device in devices:
        if any(device == one and type(device) is type(one) for one in (None, "auto", *fine)):
            continue
        raise PlacementError(f"device_map {device}: {situation}, so it would have no effect; leave device_map out")
