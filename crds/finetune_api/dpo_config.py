"""TRL's DPOConfig, key by key: which key of ours it is, or why it is refused.

A configuration of the engine (document 003) writes these keys into training_args, beside those of TrainingArguments.
Here they stand in dpo_args. The list of fields is the snapshot of the pinned TRL, so that an upgrade that adds one
fails a test until someone decides.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

OURS: dict[str, str] = {  # DPOConfig's name -> ours in dpo_args
    "max_length": "max_seq_length",
    "beta": "beta",
    "loss_type": "loss_type",
    "label_smoothing": "label_smoothing",
    "precompute_ref_log_probs": "precompute_ref_log_probs",
    "disable_dropout": "disable_dropout",
    "ld_alpha": "ld_alpha",
    "f_divergence_type": "f_divergence_type",
    "f_alpha_divergence_coef": "f_alpha_divergence_coef",
    "use_weighting": "use_weighting",
    "discopop_tau": "discopop_tau",
    "sync_ref_model": "sync_ref_model",
    "ref_model_mixup_alpha": "ref_model_mixup_alpha",
    "ref_model_sync_steps": "ref_model_sync_steps",
}
REFUSED: dict[str, str] = {
    "model_init_kwargs": "use run_conf.model_args",
    "trust_remote_code": "code from a model repository is never executed; remove it",
    "router_aux_loss_coef": "the balancing loss of mixture-of-experts models is not added; remove it",
    "dataset_num_proc": "rows are tokenised by all cores anyway; remove it",
    "truncation_mode": "dpo_args.overlength: truncate keeps the start; remove it",
    "padding_free": "TRL itself ignores it today; remove it",
    "pad_to_multiple_of": "sequences are padded to the longest of a batch; remove it",
    "precompute_ref_batch_size": "batchsize_conf.per_device_eval_batch_size is used; remove it",
    "loss_weights": "one loss is trained, dpo_args.loss_type; remove it",
    "activation_offloading": "use training_args.gradient_checkpointing",
    "pad_token": "use data_conf.missing_pad_token_strategy",
}
# Keys of TrainingArguments for which DPOConfig has another default: what is so here, and why.
DEFAULTS: dict[str, str] = {
    "learning_rate": "1e-6 with method dpo here too",
    "logging_steps": "500, as with every method",
    "gradient_checkpointing": "off, as with every method: it trades speed for memory",
    "bf16": "chosen by the device, as with every method",
}


@cache
def snapshot() -> dict[str, dict[str, Any]]:
    """What DPOConfig adds to TrainingArguments, or has another default for, by name."""
    text = resources.files("finetune_api").joinpath("snapshots/dpo_config.json").read_text(encoding="utf-8")
    return {described["name"]: described for described in json.loads(text)["fields"]}


def where_instead(name: str) -> str | None:
    """What a user who wrote training_args.NAME should write; None for a key that is not DPOConfig's own."""
    if name in OURS:
        return f"training_args.{name} is an argument of method dpo; write it as dpo_args.{OURS[name]}"
    if name in REFUSED:
        return f"training_args.{name} of DPOConfig is not supported: {REFUSED[name]}"
    return None
