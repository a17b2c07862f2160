"""ZeRO stage 1 (Rajbhandari et al. 2020, arXiv:1910.02054): each process keeps the optimizer's state of its share of
the weights, updates them, and sends them to the others.

Any optimizer will do, since a share is made of whole weights: an optimizer skips a weight that has no gradient, and
makes state only for those that it updates. The state is gathered for a checkpoint and has the form that one process
would have written, so a run may resume with another number of processes, or unsplit.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


class ShardedOptimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """`inner` over all weights, of which this rank updates its own. Gradients must be the same on all ranks."""

    def __init__(self, inner: torch.optim.Optimizer, rank: int, size: int, control: Any) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self.param_groups = inner.param_groups
        self.state = inner.state
        self._rank, self._size, self._control = rank, size, control
        self._weights = [weight for group in inner.param_groups for weight in group["params"]]
        self._owners = share_out([weight.numel() for weight in self._weights], size)

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Updates this rank's weights, then exchanges all of them."""
        others = [weight for weight, owner in zip(self._weights, self._owners, strict=True) if owner != self._rank]
        gradients = [weight.grad for weight in others]
        for weight in others:
            weight.grad = None
        self.inner.step()
        for weight, gradient in zip(others, gradients, strict=True):
            weight.grad = gradient
        with torch.no_grad():
            pending = [
                dist.broadcast(weight.data, src=owner, async_op=True)
                for weight, owner in zip(self._weights, self._owners, strict=True)
            ]
            for work in pending:
                if work is not None:
                    work.wait()

    def gathered(self) -> dict[str, Any]:
        """The whole state on rank 0, as `inner` alone would have it; every rank must ask."""
        document: dict[str, Any] = self.inner.state_dict()
        for index, owner in enumerate(self._owners):
            if owner == 0:
                continue
            if self._rank == owner:
                dist.send_object_list([_on_cpu(document["state"].get(index))], dst=0, group=self._control)
            elif self._rank == 0:
                box: list[Any] = [None]
                dist.recv_object_list(box, src=owner, group=self._control)
                if box[0] is not None:
                    document["state"][index] = box[0]
        document["state"] = {index: document["state"][index] for index in sorted(document["state"])}
        return document

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of a whole state, what is this rank's."""
        own = {index: kept for index, kept in state_dict["state"].items() if self._owners[index] == self._rank}
        self.inner.load_state_dict({**state_dict, "state": own})
        self.param_groups, self.state = self.inner.param_groups, self.inner.state


def share_out(sizes: list[int], count: int) -> list[int]:
    """The owner of each weight: the largest first, each to whom has least."""
    loads, owners = [0] * count, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda one: (-sizes[one], one)):
        owner = loads.index(min(loads))
        owners[index] = owner
        loads[owner] += sizes[index]
    return owners


def _on_cpu(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    return state
