"""Method dpo in a manifest: TRL's DPOConfig key by key, what its losses can be combined with, its own defaults."""

import json
from importlib import resources
from importlib.metadata import version
from typing import Any, get_args

import pytest

from finetune_api.dpo_config import DEFAULTS, OURS, REFUSED, snapshot, where_instead
from finetune_api.methods import METHOD_DEFAULTS, DPOArguments, LossType
from finetune_api.resolve import resolve
from finetune_api.rules import check_rules
from finetune_api.spec import FineTuneJobSpec
from finetune_api.training_args import snapshot as training_arguments

DATASETS = {"type": "CONCATENATION", "datasets": [{"path": "/data/pairs.jsonl"}]}
SPEC: dict[str, Any] = {
    "basemodel": "/model",
    "method": "dpo",
    "finetuningGpus": 0,
    "data_conf": {"training_data": DATASETS, "validation_data": {"type": "NONE"}},
    "training_args": {},
    "batchsize_conf": {"total_train_batch_size": 8, "max_per_device_train_batch_size": 8},
    "peft_conf": {"peft_type": "LORA"},
    "run_conf": {},
}


def problems(**changes: Any) -> dict[str, str]:
    """What the rules say of a spec with changed sections, by path."""
    spec = {**SPEC, **changes}
    return {".".join(map(str, one.path)): one.message for one in check_rules(spec)}


# --- every field of DPOConfig ----------------------------------------------------------------------------------------


def test_every_field_of_trls_config_is_ours_or_refused_with_a_reason() -> None:
    own = {name for name in snapshot() if name not in training_arguments()}
    assert own == set(OURS) | set(REFUSED)
    assert not set(OURS) & set(REFUSED)
    assert set(OURS.values()) <= set(DPOArguments.model_fields)
    assert set(DPOArguments.model_fields) - set(OURS.values()) == {"overlength"}


def test_every_default_that_trl_changes_is_decided() -> None:
    assert {name for name in snapshot() if name in training_arguments()} == set(DEFAULTS)
    assert METHOD_DEFAULTS["dpo"]["learning_rate"] == snapshot()["learning_rate"]["default"]


def test_the_defaults_are_trls_where_no_reason_speaks_against() -> None:
    ours = DPOArguments()
    differing = {name: getattr(ours, key) for name, key in OURS.items() if getattr(ours, key) != _default(name)}
    assert differing == {"max_length": 2048}  # document 003's length; longer pairs are left out, not cut in silence


def _default(name: str) -> Any:
    value = snapshot()[name]["default"]
    return value[0] if name == "loss_type" else value


def test_the_snapshot_is_of_the_installed_version() -> None:
    text = resources.files("finetune_api").joinpath("snapshots/dpo_config.json").read_text(encoding="utf-8")
    assert json.loads(text)["version"] == version("trl"), "run make generate"


@pytest.mark.parametrize("name", sorted({*OURS, *REFUSED}))
def test_a_key_of_trls_config_in_training_args_is_refused_by_name(name: str) -> None:
    said = problems(training_args={name: 1})[f"training_args.{name}"]
    assert said == where_instead(name)
    assert f"training_args.{name}" in said
    assert (f"dpo_args.{OURS[name]}" if name in OURS else REFUSED[name]) in said


# --- what goes together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"dpo_args": {"label_smoothing": 0.1}}, "dpo_args.label_smoothing", "use robust or exo_pair"),
        ({"dpo_args": {"loss_type": "exo_pair"}}, "dpo_args.label_smoothing", "above 0"),
        (
            {"dpo_args": {"loss_type": "apo_zero", "f_divergence_type": "forward_kl"}},
            "dpo_args.f_divergence_type",
            "apo_zero is defined with reverse_kl only",
        ),
        ({"dpo_args": {"f_alpha_divergence_coef": 0.3}}, "dpo_args.f_alpha_divergence_coef", "alpha_divergence"),
        ({"dpo_args": {"discopop_tau": 0.1}}, "dpo_args.discopop_tau", "loss_type: discopop"),
        ({"dpo_args": {"loss_type": "sft", "use_weighting": True}}, "dpo_args.use_weighting", "has none"),
        ({"dpo_args": {"loss_type": "sft", "ld_alpha": 0.5}}, "dpo_args.ld_alpha", "has none"),
        ({"dpo_args": {"loss_type": "aot"}}, "dpo_args.loss_type", "choose another loss_type"),
        ({"dpo_args": {"loss_type": "aot_unpaired"}}, "dpo_args.loss_type", "accumulation"),
        ({"dpo_args": {"sync_ref_model": True}}, "dpo_args.sync_ref_model", "peft_type: NO_PEFT"),
        (
            {
                "dpo_args": {"sync_ref_model": True, "precompute_ref_log_probs": True},
                "peft_conf": {"peft_type": "NO_PEFT"},
            },
            "dpo_args.sync_ref_model",
            "cannot be computed before",
        ),
        ({"dpo_args": {"ref_model_sync_steps": 8}}, "dpo_args.ref_model_sync_steps", "sync_ref_model: true"),
        ({"dpo_args": {"ref_model_mixup_alpha": 0.5}}, "dpo_args.ref_model_mixup_alpha", "sync_ref_model: true"),
        (
            {"training_args": {"label_smoothing_factor": 0.1}},
            "training_args.label_smoothing_factor",
            "dpo_args.label_smoothing",
        ),
        (
            {"data_conf": {**SPEC["data_conf"], "chat_template_name": "none"}},
            "data_conf.chat_template_name",
            "needs a chat template",
        ),
        ({"data_conf": {**SPEC["data_conf"], "input_key": "q"}}, "data_conf.input_key", "remove input_key"),
        ({"sft_args": {}}, "sft_args", "no effect with method dpo"),
    ],
)
def test_what_would_have_no_effect_is_refused(changes: dict[str, Any], where: str, says: str) -> None:
    found = problems(**changes)
    assert set(found) == {where}
    assert says in found[where]


@pytest.mark.parametrize("loss_type", [one for one in get_args(LossType) if not one.startswith("aot")])
def test_every_other_loss_is_accepted(loss_type: str) -> None:
    smoothing = {"label_smoothing": 0.1} if loss_type in ("robust", "exo_pair") else {}
    assert problems(dpo_args={"loss_type": loss_type, **smoothing}) == {}


def test_a_resolved_spec_is_accepted_again() -> None:
    resolved = resolve(FineTuneJobSpec.model_validate(SPEC)).spec.to_dict()
    assert resolved["dpo_args"]["beta"] == 0.1
    assert list(check_rules(resolved)) == []


# --- defaults --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_is_trls_unless_given() -> None:
    assert resolve(FineTuneJobSpec.model_validate(SPEC)).learning_rate == 1e-6
    given = {**SPEC, "training_args": {"learning_rate": 5e-5}}
    assert resolve(FineTuneJobSpec.model_validate(given)).learning_rate == 5e-5
    conversations = {**SPEC, "method": "sft", "sft_args": {}}
    assert resolve(FineTuneJobSpec.model_validate(conversations)).learning_rate == 5e-5


def test_dropout_that_is_turned_off_is_said() -> None:
    dropped = {**SPEC, "peft_conf": {"peft_type": "LORA", "peft_kwargs": {"lora_dropout": 0.1}}}
    assert "peft_kwargs.lora_dropout has no effect" in " ".join(
        resolve(FineTuneJobSpec.model_validate(dropped)).notices
    )
    kept = {**dropped, "dpo_args": {"disable_dropout": False}}
    assert resolve(FineTuneJobSpec.model_validate(kept)).notices == []
