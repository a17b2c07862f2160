"""What the API knows and this version does not do yet: one table, so that nothing is accepted and then ignored.

Each row names a key, the values that are fine, and the sentence that refuses any other. Admission (CEL), `finetune
validate` and the operator all take their refusals from here; implementing a feature means removing its row.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from finetune_api.constants import MODEL_DIR
from finetune_api.methods import LossType
from finetune_api.peft_types import PEFT_TYPES, TRAINABLE
from finetune_api.violations import Violation


@dataclass(frozen=True)
class Refusal:
    """A key (path from spec) that may only have one of `allowed`, or be absent."""

    path: tuple[str, ...]
    allowed: tuple[str | bool | int, ...]
    message: str
    absent_allowed: bool = True


_DISCARDED = "today's transformers ignores it, so it would have no effect; remove it"

REFUSALS: tuple[Refusal, ...] = (
    Refusal(("method",), ("sft", "dpo", "clm"), "method memory (Memory Tuning) is not supported in this version"),
    Refusal(
        ("dpo_args", "loss_type"),
        tuple(one for one in get_args(LossType) if not one.startswith("aot")),
        "aot and aot_unpaired compare the pairs of one device's batch with one another, so the loss would change with "
        "the number of devices and with accumulation; choose another loss_type",
    ),
    Refusal(
        ("quant_conf", "llm_int8_enable_fp32_cpu_offload"),
        (False,),
        "layers on the CPU cannot be trained through; remove it, and use load_in_4bit if memory is short",
    ),
    Refusal(
        ("peft_conf", "peft_type"),
        ("NO_PEFT", "PRETRAINED_PEFT", *TRAINABLE),
        "; ".join(row.refused for row in PEFT_TYPES.values() if row.refused),
    ),
    Refusal(("peft_conf", "task_type"), ("CAUSAL_LM",), "only task_type CAUSAL_LM can be trained"),
    Refusal(("runTensorboard",), (False,), "TensorBoard is not run; metrics go to MLflow, see tracking"),
    Refusal(("logsRemote",), (), "logs are not uploaded; read them with kubectl logs, and metrics in MLflow"),
    Refusal(("run_conf", "model"), (MODEL_DIR,), "the model is given by basemodel; leave run_conf.model out"),
    Refusal(("run_conf", "use_fast_tokenizer"), (True,), f"use_fast_tokenizer: {_DISCARDED}"),
    Refusal(("run_conf", "final_checkpoint_name"), ("checkpoint-final",), "the final checkpoint is checkpoint-final"),
    Refusal(
        ("run_conf", "model_args", "max_memory"),
        (),
        "each process holds the whole model, or its share, on its own device; leave max_memory out",
    ),
    Refusal(
        ("run_conf", "model_args", "proxies"),
        (),
        "use httpProxy, httpsProxy and noProxy of spec; they reach every program in the pod",
    ),
    Refusal(("run_conf", "model_args", "low_cpu_mem_usage"), (False,), f"low_cpu_mem_usage: {_DISCARDED}"),
    Refusal(("run_conf", "model_args", "offload_state_dict"), (), f"offload_state_dict: {_DISCARDED}"),
    Refusal(("run_conf", "model_args", "offload_folder"), (), "weights are not offloaded while training; remove it"),
    Refusal(
        ("run_conf", "model_args", "offload_buffers"), (False,), "weights are not offloaded while training; remove it"
    ),
    Refusal(("run_conf", "model_args", "cache_dir"), (), "the operator's model cache is used; remove cache_dir"),
    Refusal(
        ("run_conf", "model_args", "force_download"),
        (False,),
        "the operator downloads the model once per revision; pin another revision to download again",
    ),
    Refusal(
        ("run_conf", "model_args", "local_files_only"),
        (False,),
        "the operator downloads the model before training; remove local_files_only",
    ),
    Refusal(
        ("run_conf", "model_args", "code_revision"),
        ("main",),
        "code is taken at model_args.revision, like the weights; remove code_revision",
    ),
    Refusal(
        ("run_conf", "model_args", "token"),
        (),
        "never put a token into a manifest; use hfTokenSecret with the name and key of a Secret",
    ),
)


def check_support(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Violations of the table by raw spec data; keys of a wrong type are left to the schema."""
    for refusal in REFUSALS:
        *sections, key = refusal.path
        section: Any = spec
        for name in sections:
            section = section.get(name) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping):
            continue
        value = section.get(key)
        if value is None:
            if not refusal.absent_allowed:
                yield Violation(refusal.path, refusal.message)
        elif not any(value == one and type(value) is type(one) for one in refusal.allowed):
            yield Violation(refusal.path, refusal.message)
