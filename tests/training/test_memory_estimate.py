"""The memory estimate against torch: weights, gradients and optimizer to the byte, activations by the profiler."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from finetune_api.training_args import SUPPORTED
from finetune_trainer.memory_estimate import Largest, Model, Tensor, Training, estimate, read_sizes
from finetune_trainer.planning import read_model
from finetune_trainer.train.optimizer import build_optimizer
from finetune_trainer.train.settings import OptimizerSettings

MakeModel = Callable[..., Path]
ROWS, LENGTH, VOCABULARY = 8, 150, 500
LLAMA = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 256, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {
    "vocab_size": VOCABULARY, "n_embd": 128, "n_layer": 3, "n_head": 8, "n_positions": 256, "bos_token_id": 0,
    "eos_token_id": 0, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0,
}  # fmt: skip
KWARGS: dict[str, dict[str, Any]] = {
    "LORA": {"r": 4, "target_modules": ["q_proj", "down_proj"], "modules_to_save": ["lm_head"]},
    "ADALORA": {"init_r": 6, "target_modules": ["q_proj"], "total_step": 10},
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "PROMPT_TUNING": {"num_virtual_tokens": 5},
    "PREFIX_TUNING": {"num_virtual_tokens": 5},
    "LOHA": {"r": 4, "target_modules": ["q_proj", "up_proj"]},
}


@pytest.fixture(scope="session")
def wide_model(make_model: MakeModel) -> Path:
    """Small, but with matrices above the 4096 weights that bitsandbytes begins to quantise at."""
    return make_model(hidden_size=64, intermediate_size=160, num_hidden_layers=1)


def adapted(model: Any, kind: str) -> Any:
    import peft

    if kind == "NO_PEFT":
        return model
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](task_type="CAUSAL_LM", **KWARGS[kind])
    return peft.get_peft_model(model, config)


def optimizer_settings(name: str, extra: dict[str, str]) -> OptimizerSettings:
    return OptimizerSettings(name, 1e-3, 0.0, 0.9, 0.999, 1e-8, extra, "constant", {}, 0, 1.0)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize(
    ("kind", "optim", "extra"),
    [
        *(("NO_PEFT", optim, {}) for optim in SUPPORTED["optim"].choices),
        ("NO_PEFT", "sgd", {"momentum": "0.9"}),
        ("NO_PEFT", "rmsprop", {"momentum": "0.9", "centered": "true"}),
        *((kind, "adamw_torch", {}) for kind in KWARGS),
    ],
)
def test_bytes_are_those_of_torch(wide_model: Path, kind: str, optim: str, extra: dict[str, str], dtype: str) -> None:
    from transformers import AutoModelForCausalLM

    held = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    model = adapted(AutoModelForCausalLM.from_pretrained(wide_model, dtype=held), kind)
    optimizer = build_optimizer(model, optimizer_settings(optim, extra))
    model(input_ids=torch.arange(5)[None], labels=torch.arange(5)[None]).loss.backward()
    optimizer.step()
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    gradients = sum(one.numel() * one.element_size() for one in model.parameters() if one.requires_grad)
    state = sum(
        one.numel() * one.element_size()
        for values in optimizer.state.values()
        for key, one in values.items()  # but for the counts of steps, and the one table of 8-bit values
        if isinstance(one, torch.Tensor) and one.dim() and not key.startswith("qmap")
    )
    training = Training(
        dtype=dtype,
        on_cpu=True,
        optim=optim,
        optim_args=",".join(f"{key}={value}" for key, value in extra.items()),
        peft_type=kind,
        peft_kwargs=KWARGS.get(kind, {}),
    )
    found = estimate(read_model(wide_model), training, None, distributed="auto-single-process")
    assert found
    counted = 16 if kind == "ADALORA" else 0  # the ranks that it keeps in tensors
    assert (found.weights, found.gradients, found.optimizer) == pytest.approx((weights, gradients, state), abs=counted)


@pytest.mark.parametrize(("architecture", "config"), [("llama", LLAMA), ("gpt2", GPT2)])
@pytest.mark.parametrize("kind", ["NO_PEFT", "LORA"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_near_what_the_profiler_sees(
    architecture: str, config: dict[str, Any], kind: str, checkpointing: bool, precision: str
) -> None:
    """Within a quarter: the estimate decides between batch sizes, not between bytes."""
    import peft
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    given = AutoConfig.for_model(architecture, **config)
    model = AutoModelForCausalLM.from_config(given)
    tensors = {name: Tensor(tuple(one.shape), one.element_size()) for name, one in model.named_parameters()}
    sizes = read_sizes(json.loads(given.to_json_string(use_diff=False)), tensors)
    kwargs = {"r": 4, "target_modules": "all-linear"}
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if kind == "LORA":
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **kwargs))
        if checkpointing:
            model.enable_input_require_grads()
    model.train()
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH))
    step(model, ids, precision)  # gradients are there before: what comes on top of them are activations
    measured = peak(lambda: step(model, ids, precision))
    training = Training(
        precision=precision, on_cpu=True, peft_type=kind, peft_kwargs=kwargs, gradient_checkpointing=checkpointing
    )
    found = estimate(Model(tensors, sizes), training, Largest(ROWS, LENGTH), distributed="auto-single-process")
    assert found
    assert found.activations == pytest.approx(measured, rel=0.25)


def step(model: Any, ids: torch.Tensor, precision: str) -> None:
    """Forward and backward as the loop does it: summed cross-entropy in fp32 over chosen positions."""
    context = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    rows, columns = torch.ones(ROWS, LENGTH - 1, dtype=torch.bool).nonzero(as_tuple=True)
    with context:
        logits = model(input_ids=ids, use_cache=False).logits
        chosen = logits.flatten(0, 1).index_select(0, rows * LENGTH + columns).float()
        del logits
        loss = torch.nn.functional.cross_entropy(chosen, ids[:, 1:].reshape(-1), reduction="sum")
        del chosen
    loss.backward()


def peak(action: Any) -> int:
    """The most memory that torch held at once, beyond what it held before."""
    with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as profiler:
        action()
    events = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
