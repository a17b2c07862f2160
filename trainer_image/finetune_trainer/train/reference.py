"""The reference model of preference learning: the model as it was before training, without holding it twice.

What was added to a base model is switched off; what began with weights of its own (a pretrained adapter, trained
biases, all weights with NO_PEFT) is exchanged for a frozen copy of those weights while the reference speaks.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

FILE = "reference.safetensors"


class Reference(Protocol):
    """Makes a model its own reference for a while."""

    def speaking(self) -> contextlib.AbstractContextManager[Any]:
        """Within it the model answers as it did before training."""
        ...


class AdapterOff:
    """The base model below a new adapter."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def speaking(self) -> contextlib.AbstractContextManager[Any]:
        context: contextlib.AbstractContextManager[Any] = self._model.disable_adapter()
        return context


class AsItIs:
    """The model itself, while it is still untrained."""

    def speaking(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


class FrozenCopy:
    """The trained weights as they were when this was made. Exchanging pointers costs no time, the copy its memory."""

    def __init__(self, model: Any) -> None:
        self._trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        self._copy = {name: one.detach().clone() for name, one in self._trained.items()}

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        live = {name: one.data for name, one in self._trained.items()}
        self._show(self._copy)
        try:
            yield
        finally:
            self._show(live)

    def _show(self, weights: dict[str, torch.Tensor]) -> None:
        for name, one in self._trained.items():
            one.data = weights[name]

    def follow(self, share: float) -> None:
        """Moves the copy by a share of the way towards the trained weights (TR-DPO)."""
        for name, one in self._trained.items():
            self._copy[name].mul_(1.0 - share).add_(one.detach(), alpha=share)

    def save(self, folder: Path) -> None:
        """Writes the copy, for a run in which it moves."""
        from safetensors.torch import save_file

        save_file({name: one.contiguous() for name, one in self._copy.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Puts back what `save` wrote."""
        from safetensors.torch import load_file

        for name, one in load_file(folder / FILE).items():
            self._copy[name].copy_(one)


def reference_of(model: Any, peft_type: str, peft_kwargs: dict[str, Any], *, untrained: bool = False) -> Reference:
    """The reference of a model that has not been trained yet. untrained: it is only asked before training begins.

    Biases that are trained in place stay trained when PEFT switches an adapter off: they need the copy.
    """
    if peft_type not in ("NO_PEFT", "PRETRAINED_PEFT") and peft_kwargs.get("bias", "none") == "none":
        return AdapterOff(model)
    return AsItIs() if untrained else FrozenCopy(model)


@contextlib.contextmanager
def as_reference(model: Any, reference: Reference, device: torch.device) -> Iterator[None]:
    """Evaluation mode, no gradients, the reference's weights.

    Autocast must not cache: it would hand the reference the trained weights that it cast before, or the other way
    round.
    """
    kind = device.type
    uncached = torch.autocast(
        kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False
    )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), uncached, reference.speaking():
            yield
    finally:
        model.train(was_training)
