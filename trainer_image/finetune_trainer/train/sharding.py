"""How weights and optimizer state lie over the processes: whole on each, or split, as finetune_api.sharding says.

Training, evaluation and checkpoints ask a layout, and otherwise know nothing of it: checkpoints are always whole, in
the form that one process would have written, so that a run may resume on other processes, or split otherwise.
"""

import copy
from pathlib import Path
from typing import Any

import torch

from finetune_api.sharding import Sharding
from finetune_trainer.errors import BadConfiguration
from finetune_trainer.train import checkpoint
from finetune_trainer.train.distributed import World
from finetune_trainer.train.sharded_optimizer import ShardedOptimizer


class Gathered:
    """An optimizer's whole state, where a checkpoint expects the optimizer."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def state_dict(self) -> dict[str, Any]:
        return self._document


class Layout:
    """Each process has all weights: alone, or with gradients averaged over all (DDP). split_optimizer: each keeps the
    optimizer's state of its share (ZeRO stage 1)."""

    def __init__(self, world: World, split_optimizer: bool = False) -> None:
        self.world = world
        self._split_optimizer = split_optimizer and world.size > 1

    @property
    def loading_device(self) -> torch.device:
        """Where a process first puts the model."""
        return self.world.device

    def prepare(self, plain: Any) -> Any:
        """The model as it is called in training; `plain` has its weights as they are now."""
        return self.world.accelerator.prepare_model(plain) if self.world.size > 1 else plain

    def optimizer(self, inner: torch.optim.Optimizer) -> torch.optim.Optimizer:
        if not self._split_optimizer:
            return inner
        return ShardedOptimizer(inner, self.world.rank, self.world.size, self.world.control)

    def load_optimizer(self, folder: Path, optimizer: Any, scaler: Any) -> None:
        checkpoint.load_optimizer(folder, optimizer, scaler)

    def whole(self, plain: Any) -> Any:
        """The model with all its weights, to be saved; every process must ask, and rank 0 gets it."""
        return plain

    def whole_state(self, optimizer: Any) -> Any:
        """An object with the optimizer's whole state_dict; likewise."""
        return Gathered(optimizer.gathered()) if isinstance(optimizer, ShardedOptimizer) else optimizer


class SplitLayout(Layout):
    """Each process has its share of weights, gradients and optimizer state (ZeRO stage 3, FSDP 2): the weights of a
    block are gathered when it computes. Rank 0 keeps the frame of the whole model in host memory, for checkpoints."""

    def __init__(self, world: World, sharding: Sharding) -> None:
        super().__init__(world)
        self._sharding = sharding
        self._frame: Any = None
        world.lockstep = True

    @property
    def loading_device(self) -> torch.device:
        return torch.device("cpu")  # whole, it may not fit on the device

    def prepare(self, plain: Any) -> Any:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        blocks = blocks_of(plain, self._sharding.blocks)
        if self.world.main:
            self._frame = _frame_of(plain)
        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=self._sharding.gather_twice)
        fully_shard(plain, mesh=mesh, reshard_after_forward=False)
        return plain

    def load_optimizer(self, folder: Path, optimizer: Any, scaler: Any) -> None:
        from torch.distributed.tensor import distribute_tensor

        weights = [weight for group in optimizer.param_groups for weight in group["params"]]

        def share(index: int, value: Any) -> Any:
            weight = weights[index]
            if not isinstance(value, torch.Tensor) or value.shape != weight.shape:
                return value
            on_device = value.to(self.world.device)
            return distribute_tensor(on_device, weight.device_mesh, weight.placements, src_data_rank=None)

        def split(document: dict[str, Any]) -> dict[str, Any]:
            state = {
                index: {key: share(index, value) for key, value in kept.items()}
                for index, kept in document["state"].items()
            }
            return {**document, "state": state}

        checkpoint.load_optimizer(folder, optimizer, scaler, adapt=split)

    def whole(self, plain: Any) -> Any:
        from torch.distributed.fsdp import FSDPModule

        for module in plain.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # after an evaluation the last gathered weights are still there
        kept = dict(self._frame.named_parameters()) if self._frame is not None else {}
        with torch.no_grad():
            for name, weight in plain.named_parameters():
                if weight.requires_grad:  # the others are as they were
                    full = weight.full_tensor()
                    if kept:
                        kept[name].copy_(full)
        return self._frame if self._frame is not None else plain

    def whole_state(self, optimizer: Any) -> Any:
        document = optimizer.state_dict()
        state: dict[int, dict[str, Any]] = {}
        for index, kept in sorted(document["state"].items()):
            state[index] = {key: self._full(value) for key, value in sorted(kept.items())}
        return Gathered({**document, "state": state})

    def _full(self, value: Any) -> Any:
        if not hasattr(value, "full_tensor"):
            return value
        full = value.full_tensor()
        return full.cpu() if self.world.main else None


def layout_of(sharding: Sharding, world: World, precision: str) -> Layout:
    """The layout of a job. Raises BadConfiguration for what the manifest could not tell."""
    if not sharding.parameters:
        return Layout(world, split_optimizer=sharding.split == "optimizer")
    if precision == "fp16":
        raise BadConfiguration(
            "this GPU computes in fp16, whose scaling needs whole gradients, but distributedType splits them over the "
            "processes: use auto-ddp or auto-deepspeed-stage1, or set torch_dtype: float32"
        )
    return SplitLayout(world, sharding)


def blocks_of(model: Any, wanted: tuple[str, ...]) -> list[Any]:
    """The modules that are gathered as one: of the wanted classes, or those that transformers does not split either."""
    names = set(wanted)
    if not names:
        for module in model.modules():
            names |= set(getattr(module, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in names]
    missing = set(wanted) - {type(module).__name__ for module in found}
    if missing:
        raise BadConfiguration(
            f"customAccelerateConfig.fsdp_config.fsdp_transformer_layer_cls_to_wrap: the model has no "
            f"{', '.join(sorted(missing))}; leave the key out to take the model's own blocks"
        )
    return found


def _frame_of(model: Any) -> Any:
    """A copy in host memory. Frozen weights are shared with the original, which lets go of them when it is split."""
    memo: dict[int, Any] = {
        id(weight): torch.nn.Parameter(weight.data, requires_grad=False)
        for weight in model.parameters()
        if not weight.requires_grad
    }
    return copy.deepcopy(model, memo)
