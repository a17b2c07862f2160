"""Every adapter type of finetune_api/peft_types.py: the losses of PEFT used by hand in a plain loop, an exact resume,
an adapter that others can load, and a merge where the table says that there is one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_api.peft_types import ON_QUANTISED, PEFT_TYPES

KWARGS: dict[str, dict[str, Any]] = {
    "LORA": {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"},
    "ADALORA": {"init_r": 4, "target_r": 2, "target_modules": ["q_proj", "v_proj"]},
    "IA3": {},
    "LOHA": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "LOKR": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "OFT": {"oft_block_size": 8, "target_modules": ["q_proj", "v_proj"]},
    "BOFT": {"boft_block_size": 4, "target_modules": ["q_proj", "v_proj"]},
    "VERA": {"r": 8, "target_modules": ["q_proj", "o_proj"]},
    "FOURIERFT": {"n_frequency": 50, "target_modules": ["q_proj", "v_proj"]},
    "HRA": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
    "VBLORA": {"r": 4, "num_vectors": 8, "vector_length": 16, "target_modules": ["q_proj", "v_proj"]},
    "LN_TUNING": {},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 2},
    "POLY": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
TASKS = ("MULTITASK_PROMPT_TUNING", "POLY")
RATE, ROWS, STEPS = 0.02, 6, 4
ARGUMENTS = {
    "max_steps": STEPS,
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.5,
    "save_steps": 2,
}


def test_every_type_is_tried_here() -> None:
    assert set(KWARGS) == {name for name, row in PEFT_TYPES.items() if row.refused is None}


def config_of(make_config: Any, kind: str, **spec: Any) -> Any:
    peft = {"peft_type": kind, "peft_kwargs": KWARGS[kind]}
    return make_config(per_device=4, total=ROWS, training_args=ARGUMENTS, spec={"peft_conf": peft, **spec})


class ByHand:
    """PEFT as its documentation has it: one row at a time, labels given to the model, no padding."""

    def __init__(self, kind: str, base: Path, quantised: bool = False) -> None:
        from peft import get_peft_model
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        from finetune_trainer.train.seeding import seed_all, seed_for

        how = {"quantization_config": BitsAndBytesConfig(**NF4)} if quantised else {}
        model = AutoModelForCausalLM.from_pretrained(base, **how)
        kwargs = {**KWARGS[kind], **({"total_step": STEPS} if kind == "ADALORA" else {})}
        seed_all(seed_for(42, "adapter"))
        self.model = get_peft_model(model, PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **kwargs))
        self.kind = kind

    def train(self, rows: list[Any], order: list[int]) -> list[float]:
        import torch
        from torch.nn.functional import cross_entropy

        trained = [one for one in self.model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
        self.model.train()
        losses = []
        for step in range(STEPS):
            chosen = [rows[number] for number in order[step * ROWS : step * ROWS + ROWS]]
            total, loss, entropy = sum(len(row) - 1 for row in chosen), 0.0, 0.0
            for row in chosen:
                # A row's first token is no target, though PEFT would predict it from a virtual token.
                labels = torch.tensor([[-100, *row.labels[1:]]])
                output = self(torch.tensor([row.input_ids]), labels=labels)
                loss = loss + output.loss * (len(row) - 1) / total
                logits = output.logits[0, -len(row) : -1]
                entropy += cross_entropy(logits, labels[0, 1:], reduction="sum").item() / total
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 0.5)
            optimizer.step()
            if self.kind == "ADALORA":
                self.model.base_model.update_and_allocate(step + 1)
            losses.append(entropy)
        return losses

    def __call__(self, ids: Any, **arguments: Any) -> Any:
        import torch

        if self.kind in TASKS:
            arguments["task_ids"] = torch.zeros(len(ids), dtype=torch.long)
        return self.model(input_ids=ids, **arguments)


class WithoutChance:
    """POLY draws its skills' weights for each row while it trains: rows one by one would draw otherwise."""

    def __init__(self, temperature: float, logits: Any) -> None:
        self.rsample = logits.sigmoid


def logits_of(model: Any, ids: Any, **arguments: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=ids, **arguments).logits[:, -ids.shape[1] :]


@pytest.mark.parametrize("kind", KWARGS)
def test_a_type_trains_as_by_hand_resumes_exports_and_merges(
    kind: str, train_here: Any, make_config: Any, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel
    from peft.tuners.poly import router
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(router, "RelaxedBernoulli", WithoutChance)
    config = config_of(make_config, kind)
    run = train_here(config)

    by_hand = ByHand(kind, base_model)
    assert run.losses == pytest.approx(losses_by_hand(config, base_model, by_hand), rel=2e-5)

    ids = torch.arange(24).reshape(2, 12) + 7
    by_hand.model.eval()
    task = {"task_ids": torch.zeros(2, dtype=torch.long)} if kind in TASKS else {}
    wanted = logits_of(by_hand.model, ids, **task)
    base = AutoModelForCausalLM.from_pretrained(base_model)
    assert (wanted - logits_of(base, ids)).abs().max() > 1e-3
    adapted = PeftModel.from_pretrained(base, run.final).eval()
    torch.testing.assert_close(logits_of(adapted, ids), wanted, rtol=1e-4, atol=2e-5)
    assert adapted.generate(input_ids=ids[:1], max_new_tokens=2, eos_token_id=None).shape[1] == ids.shape[1] + 2
    merged = run.checkpoints / "checkpoint-final-merged"
    assert merged.exists() == PEFT_TYPES[kind].merges
    if merged.exists():
        plain = AutoModelForCausalLM.from_pretrained(merged)
        torch.testing.assert_close(logits_of(plain, ids), wanted, rtol=1e-4, atol=2e-5)
        assert run.report.model.merged == str(merged)
    else:
        assert any("cannot be merged" in notice for notice in config.notices)

    shutil.copytree(run.checkpoints / "checkpoint-2", tmp_path / "checkpoints" / "checkpoint-2")
    again = train_here(config, tmp_path)
    assert again.report.resumed_from_step == 2
    assert again.losses == run.losses


def losses_by_hand(config: Any, base_model: Path, by_hand: ByHand) -> dict[int, float]:
    from transformers import AutoTokenizer

    from finetune_trainer.data import load_training_data, prepare_tokenizer
    from finetune_trainer.train.sampler import epoch_order

    tokenizer = prepare_tokenizer(config, AutoTokenizer.from_pretrained(base_model)).tokenizer
    rows = load_training_data(config, tokenizer, Path("/nowhere")).train
    order = epoch_order([len(row) for row in rows], seed=42, epoch=0, sampling="random")
    return dict(enumerate(by_hand.train(rows, order), 1))


@pytest.mark.parametrize("kind", ON_QUANTISED)
def test_a_type_trains_on_quantised_weights_as_by_hand(
    kind: str, train_here: Any, make_config: Any, make_model: Any
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = make_model(hidden_size=64)  # bitsandbytes quantises blocks of 64 weights
    config = config_of(make_config, kind, basemodel=str(base), quant_conf=NF4)
    run = train_here(config)
    assert run.losses == pytest.approx(losses_by_hand(config, base, ByHand(kind, base, quantised=True)), rel=5e-5)
    merged = run.checkpoints / "checkpoint-final-merged"
    assert merged.exists() == PEFT_TYPES[kind].merges
    if merged.exists():  # into the original weights, not into the quantised ones
        ids = torch.arange(12)[None] + 7
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run.final).eval()
        plain = AutoModelForCausalLM.from_pretrained(merged)
        assert not hasattr(plain.config, "quantization_config")
        torch.testing.assert_close(logits_of(plain, ids), logits_of(adapted, ids), rtol=1e-4, atol=2e-5)


def test_every_position_is_padded_as_if_it_were_not(train_here: Any, make_config: Any) -> None:
    """padding_side left would put padding between a learned prompt and its row."""
    config = config_of(make_config, "PROMPT_TUNING")
    left = config.model_copy(deep=True)
    left.spec["data_conf"]["padding_side"] = "left"
    assert train_here(left).losses == train_here(config).losses


def test_adalora_ends_with_the_ranks_asked_for(train_here: Any, make_config: Any) -> None:
    run = train_here(config_of(make_config, "ADALORA"))
    stored = json.loads((run.final / "adapter_config.json").read_text(encoding="utf-8"))
    kept = [sum(pattern) for pattern in stored["rank_pattern"].values()]
    assert sum(kept) == 2 * len(kept)
    assert stored["total_step"] == STEPS


def test_a_schedule_of_adalora_that_does_not_fit_the_run_is_refused(train_here: Any, make_config: Any) -> None:
    from finetune_trainer.errors import BadConfiguration

    config = config_of(make_config, "ADALORA")
    config.spec["peft_conf"]["peft_kwargs"] = {**KWARGS["ADALORA"], "total_step": 100}
    with pytest.raises(BadConfiguration, match="does not fit a run of 4 steps; leave total_step out"):
        train_here(config)


def test_a_prompt_may_begin_as_a_text(train_here: Any, make_config: Any, base_model: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = config_of(make_config, "PROMPT_TUNING")
    config.spec["peft_conf"]["peft_kwargs"].update(prompt_tuning_init="TEXT", prompt_tuning_init_text="the cat sat")
    config.spec["training_args"].update(max_steps=1, learning_rate=1e-30)
    run = train_here(config)
    ids = AutoTokenizer.from_pretrained(base_model)("the cat sat")["input_ids"]
    ids = (ids * 4)[:4]
    embeddings = AutoModelForCausalLM.from_pretrained(base_model).get_input_embeddings().weight[ids]
    stored = load_file(run.final / "adapter_model.safetensors")["prompt_embeddings"]
    assert stored.tolist() == embeddings.tolist()
    said = json.loads((run.final / "adapter_config.json").read_text(encoding="utf-8"))
    assert said["tokenizer_name_or_path"] == said["base_model_name_or_path"] == str(base_model)
