"""Optimizers beside AdamW, SGD and Adafactor: each against its update written out, or the library used by hand; and
noise on embeddings (NEFTune) against transformers' own hook."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STEPS = 4
RATE = 2e-3


@pytest.fixture(scope="module")
def wide(make_model: Callable[..., Path]) -> Path:
    """Wide enough for matrices of 4096 weights, from which on bitsandbytes keeps 8 bits."""
    return make_model(hidden_size=64, intermediate_size=128)


@pytest.fixture
def reference(make_config: Any, wide: Path) -> Callable[..., list[float]]:
    """reference(config, make) -> the losses of a plain loop over whole batches with the optimizer that make() builds
    from a model."""

    def run(config: Any, make: Callable[[Any], Any], before: Callable[[int], None] = lambda step: None) -> list[float]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from finetune_trainer.data import load_training_data, prepare_tokenizer
        from finetune_trainer.train.sampler import epoch_order

        tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(wide)).tokenizer
        rows = load_training_data(config, tokenizer, Path("/nowhere")).train
        order = epoch_order([len(row) for row in rows], seed=42, epoch=0, sampling="random")
        model = AutoModelForCausalLM.from_pretrained(wide).train()
        optimizer = make(model)
        losses = []
        for step in range(STEPS):
            batch = [rows[number] for number in order[step * 8 : step * 8 + 8]]
            longest = max(map(len, batch))
            ids = torch.tensor([row.input_ids + [0] * (longest - len(row)) for row in batch])
            labels = torch.tensor([row.labels + [-100] * (longest - len(row)) for row in batch])
            before(step)
            loss = model(input_ids=ids, labels=labels).loss
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        return losses

    return run


def job(make_config: Any, wide: Path, **arguments: Any) -> Any:
    given = {"max_steps": STEPS, "learning_rate": RATE, "lr_scheduler_type": "constant", "save_steps": 2, **arguments}
    return make_config(model=wide, training_args=given)


class ByHand:
    """Adagrad and RMSprop as their papers have them, over all weights of a model."""

    def __init__(self, model: Any, update: Callable[[Any, Any], Any]) -> None:
        import torch

        self.weights = list(model.parameters())
        self.squares = [torch.zeros_like(weight) for weight in self.weights]
        self.update = update

    def step(self) -> None:
        import torch

        with torch.no_grad():
            for weight, square in zip(self.weights, self.squares, strict=True):
                weight.sub_(RATE * self.update(weight.grad, square))


def adagrad(gradient: Any, square: Any) -> Any:
    square += gradient**2
    return gradient / (square.sqrt() + 1e-10)


def rmsprop(gradient: Any, square: Any) -> Any:
    square.mul_(0.9).add_(0.1 * gradient**2)
    return gradient / (square.sqrt() + 1e-6)


@pytest.mark.parametrize(
    ("name", "extra", "update"),
    [("adagrad", {}, adagrad), ("rmsprop", {"optim_args": "alpha=0.9,eps=1e-6"}, rmsprop)],
)
def test_optimizers_of_torch_by_hand(
    train_here: Any, make_config: Any, wide: Path, reference: Any, name: str, extra: dict[str, str], update: Any
) -> None:
    config = job(make_config, wide, optim=name, **extra)
    expected = reference(config, lambda model: ByHand(model, update))
    assert list(train_here(config).losses.values()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "bits", "extra"),
    [
        ("adamw_8bit", "AdamW", 8, {"weight_decay": 0.1, "adam_beta2": 0.95}),
        ("adamw_bnb_8bit", "AdamW", 8, {}),
        ("paged_adamw_8bit", "AdamW", 8, {}),
        ("paged_adamw_32bit", "AdamW", 32, {}),
        ("lion_8bit", "Lion", 8, {"learning_rate": 2e-4}),
        ("lion_32bit", "Lion", 32, {"learning_rate": 2e-4}),
        ("paged_lion_8bit", "Lion", 8, {"learning_rate": 2e-4}),
        ("paged_lion_32bit", "Lion", 32, {"learning_rate": 2e-4}),
        ("rmsprop_bnb", "RMSprop", 32, {}),
        ("rmsprop_bnb_8bit", "RMSprop", 8, {"optim_args": "alpha=0.9"}),
        ("rmsprop_bnb_32bit", "RMSprop", 32, {}),
    ],
)
def test_optimizers_of_bitsandbytes(
    train_here: Any,
    make_config: Any,
    wide: Path,
    reference: Any,
    name: str,
    kind: str,
    bits: int,
    extra: dict[str, Any],
) -> None:
    """The library by hand gives the same losses; state is held in 8 bits where that is asked for, but not of
    embeddings; resumed in the middle, the losses are the same."""
    import bitsandbytes
    import torch

    config = job(make_config, wide, optim=name, **extra)

    def make(model: Any) -> Any:
        vectors = [weight for weight in model.parameters() if weight.ndim == 1]
        matrices = [weight for weight in model.parameters() if weight.ndim > 1]
        decay = extra.get("weight_decay", 0.0)
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        given: dict[str, Any] = {"alpha": 0.9} if "optim_args" in extra else {}
        if kind != "RMSprop":
            given["betas"] = (0.9, extra.get("adam_beta2", 0.999))
        rate = extra.get("learning_rate", RATE)
        optimizer = getattr(bitsandbytes.optim, kind)(groups, lr=rate, optim_bits=bits, **given)
        if bits == 8:
            bitsandbytes.optim.GlobalOptimManager.get_instance().register_module_override(
                model.get_input_embeddings(), "weight", {"optim_bits": 32}
            )
        return optimizer

    expected = reference(config, make)
    run = train_here(config)
    assert list(run.losses.values()) == pytest.approx(expected, rel=1e-5)
    state = torch.load(run.checkpoints / "checkpoint-4/optimizer.pt", weights_only=True)["state"]
    kinds = {one["__bnb_optimizer_quant_state__"]["state1"].dtype for one in state.values()}
    assert kinds == ({torch.uint8, torch.float32} if bits == 8 else {torch.float32})
    first = train_here(config, stop_after=2)
    assert train_here(config, work=first.work).losses == pytest.approx(run.losses, rel=1e-6)


def test_noise_on_embeddings_is_that_of_transformers(
    train_here: Any, make_config: Any, wide: Path, reference: Any
) -> None:
    """Its hook in a plain loop with the seeds of our steps; none in evaluation; resumed exactly."""
    import torch
    from transformers.integrations.neftune import neftune_post_forward_hook

    from finetune_trainer.train.seeding import seed_all, seed_for

    config = job(make_config, wide, optim="adamw_torch", neftune_noise_alpha=5.0)

    def make(model: Any) -> Any:
        embeddings = model.get_input_embeddings()
        embeddings.neftune_noise_alpha = 5.0
        embeddings.register_forward_hook(neftune_post_forward_hook)
        return torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)

    expected = reference(config, make, before=lambda step: seed_all(seed_for(42, "step", step, 0)))
    run = train_here(config)
    assert list(run.losses.values()) == pytest.approx(expected, rel=1e-5)
    plain = train_here(job(make_config, wide, optim="adamw_torch"))
    assert run.losses != plain.losses
    first = train_here(config, stop_after=2)
    assert train_here(config, work=first.work).losses == run.losses


def test_noise_is_left_out_of_evaluation(train_here: Any, make_config: Any, wide: Path) -> None:
    def evaluated(**arguments: Any) -> float:
        given = {"max_steps": 1, "learning_rate": RATE, "eval_on_start": True, **arguments}
        split = {"type": "AUTO_SPLIT"}
        run = train_here(make_config(model=wide, validation=split, training_args={"eval_strategy": "epoch", **given}))
        return float(run.eval_losses[0])

    assert evaluated(neftune_noise_alpha=5.0) == evaluated()
    assert math.isfinite(evaluated())
