"""The reference model beside every kind of adapter: the base model, or the adapter that training went on from."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("peft_types", Path(__file__).parents[1] / "test_peft_types.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
KWARGS: dict[str, dict[str, Any]] = _module.KWARGS


def rewards(hand: Any, model: Any, before: Any, rows: list[Any]) -> tuple[float, float]:
    """Mean rewards of the chosen and rejected answers, with beta 0.1."""
    import torch

    with torch.no_grad():
        found = [
            [0.1 * (hand.log_prob(model, side) - hand.log_prob(before, side)).item() for side in sides]
            for sides in ((pair.chosen, pair.rejected) for pair in rows)
        ]
    return sum(one for one, _ in found) / len(found), sum(one for _, one in found) / len(found)


@pytest.mark.parametrize("kind", KWARGS)
def test_the_reference_of_a_new_adapter_is_the_base_model(
    kind: str, train_here: Any, make_dpo: Any, base_model: Path, other_pairs: Path, hand: Any
) -> None:
    """The last evaluation's rewards are those of the exported adapter against the base model's files."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    peft = {"peft_conf": {"peft_type": kind, "peft_kwargs": KWARGS[kind]}}
    arguments = {"max_steps": 2, "learning_rate": 0.02, "lr_scheduler_type": "constant"}
    config = make_dpo(validation=other_pairs, training_args=arguments, spec_more=peft, per_device=4)
    run = train_here(config)
    _, rows = hand.load(config, base_model)
    base = AutoModelForCausalLM.from_pretrained(base_model).eval()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), str(run.final)).eval()

    def with_task(input_ids: Any) -> Any:
        task = {"task_ids": torch.zeros(1, dtype=torch.long)} if kind in ("MULTITASK_PROMPT_TUNING", "POLY") else {}
        output = adapted(input_ids=input_ids, **task)
        output.logits = output.logits[:, -input_ids.shape[1] :]
        return output

    chosen, rejected = rewards(hand, with_task, base, rows)
    last = run.history()[-1]
    assert last["eval_rewards/chosen"] == pytest.approx(chosen, rel=1e-3, abs=1e-5)
    assert last["eval_rewards/rejected"] == pytest.approx(rejected, rel=1e-3, abs=1e-5)
    assert chosen != 0.0


def test_the_reference_of_a_pretrained_adapter_is_that_adapter(
    train_here: Any, make_config: Any, make_dpo: Any, base_model: Path, other_pairs: Path, hand: Any, tmp_path: Path
) -> None:
    """As in TRL, which copies the adapter; also when the run is interrupted and goes on."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = train_here(make_config(lora=True, training_args={"max_steps": 3})).final
    peft = {"peft_conf": {"peft_type": "PRETRAINED_PEFT", "name_or_path": str(adapter)}}
    arguments = {"learning_rate": 5e-3, "num_train_epochs": 1}
    config = make_dpo(validation=other_pairs, training_args=arguments, spec_more=peft, per_device=4)
    whole = train_here(config)
    assert train_here(config, tmp_path, stop_after=1).error is not None
    resumed = train_here(config, tmp_path)
    _, rows = hand.load(config, base_model)

    def load(folder: Path) -> Any:
        return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), str(folder)).eval()

    chosen, rejected = rewards(hand, load(whole.final), load(adapter), rows)
    for run in (whole, resumed):
        assert run.losses == whole.losses
        last = run.history()[-1]
        assert last["eval_rewards/chosen"] == pytest.approx(chosen, rel=1e-3, abs=1e-5)
        assert last["eval_rewards/rejected"] == pytest.approx(rejected, rel=1e-3, abs=1e-5)
    assert whole.losses[1] == pytest.approx(0.693147, abs=1e-6)
    assert abs(chosen - rejected) > 1e-3


def test_the_reference_of_a_quantised_model_is_the_quantised_model(
    train_here: Any, make_dpo: Any, make_model: Any
) -> None:
    quantised = {
        "quant_conf": {"quantization_type": "bits-and-bytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    }
    run = train_here(make_dpo(lora=True, training_args={"max_steps": 2}, spec_more=quantised, per_device=4))
    assert run.losses[1] == pytest.approx(0.693147, abs=1e-6)
    assert run.losses[2] != run.losses[1]
