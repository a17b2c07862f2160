"""resolve: from what the user wrote to what will run, with every default filled and every surprise said once.

Pure and idempotent: resolving a resolved spec changes nothing, so the trainer may resolve what it reads.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from finetune_api.accelerate_config import render_accelerate_config
from finetune_api.batch import BatchPlan, plan_batch
from finetune_api.methods import METHOD_ARGUMENTS, METHOD_DEFAULTS
from finetune_api.overrides import LIFTED_KEYS, scale_learning_rate
from finetune_api.peft_types import CANNOT_MERGE
from finetune_api.rules import world_size
from finetune_api.rules_evaluation import EVENT_KEYS, has_events
from finetune_api.rules_training import WHOLE_OR_RATIO
from finetune_api.sharding import sharding_of
from finetune_api.spec import FineTuneJobSpec
from finetune_api.training_args import SUPPORTED, default_of, translate

# Chart-level defaults that depend on nothing. storageClass, gpuResource and finetuningImage are the operator's to fill.
DEFAULTS: dict[str, Any] = {
    "finetuningGpus": 1,
    "memoryPerGpu": 64,
    "cpusPerGpu": 8,
    "mergeAdapter": True,
    "downloadsReservedSize": "64Gi",
    "checkpointsReservedSize": "512Gi",
    "nodes": 1,
    "cpuProcesses": 1,
    "suspend": False,
    "maxAttempts": 3,
    "stepTimeoutSeconds": 1800,
    "terminationGracePeriodSeconds": 120,
    "checkpointsRetention": "Retain",
    "adoptCheckpoints": False,
    "runTensorboard": False,
}
# Keys that may change while an attempt lives: they are no part of the frozen configuration.
MUTABLE_KEYS = (
    "suspend",
    "labels",
    "annotations",
    "ttlSecondsAfterFinished",
    "maxAttempts",
    "stepTimeoutSeconds",
    "retryWithSmallerBatch",
)

_T = TypeVar("_T")


def filled(value: _T | None) -> _T:
    """The value of a key of DEFAULTS in a resolved spec, where it is never absent: nobody else repeats a default."""
    assert value is not None, "only for keys that resolve() fills"
    return value


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec without open questions."""

    spec: FineTuneJobSpec
    world_size: int
    learning_rate: float | None  # None: the trainer finds it (overrides.auto)
    training_args: dict[str, Any]
    distributed_type: str
    merge_adapter: bool
    notices: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def batch(self, world_size: int | None = None) -> BatchPlan:
        """Per-device batch and accumulation for a number of processes. Raises BatchError if it does not divide."""
        sizes = self.spec.batchsize_conf
        return plan_batch(
            sizes.total_train_batch_size,
            sizes.max_per_device_train_batch_size,
            world_size or self.world_size,
            sizes.per_device_eval_batch_size,
        )

    @property
    def total_batch(self) -> int:
        """Sequences per optimizer step, over all processes."""
        return self.spec.batchsize_conf.total_train_batch_size

    @property
    def on_cpu(self) -> bool:
        """Whether no GPU is asked for."""
        return self.spec.finetuning_gpus == 0

    @property
    def processes_per_node(self) -> int:
        """Training processes in one pod."""
        return self.spec.finetuning_gpus or filled(self.spec.cpu_processes)

    def accelerate_config(self, nodes: int | None = None, processes_per_node: int | None = None) -> dict[str, Any]:
        """The Accelerate config as a dictionary, for the given size or the one asked for."""
        nodes = nodes or filled(self.spec.nodes)
        processes = processes_per_node or self.processes_per_node
        precision = "bf16" if self.training_args["bf16"] else "fp16" if self.training_args["fp16"] else "no"
        return render_accelerate_config(
            self.distributed_type,
            nodes=nodes,
            processes_per_node=processes,
            precision=precision,
            on_cpu=self.on_cpu,
            accumulation=self.batch(nodes * processes).accumulation,
            max_grad_norm=self.training_args["max_grad_norm"],
            custom=self.spec.custom_accelerate_config,
        )


def resolve(spec: FineTuneJobSpec) -> ResolvedSpec:
    """Fills defaults, merges overrides, translates removed names and does the arithmetic."""
    raw = copy.deepcopy(spec.to_dict())
    notices: list[str] = []
    _merge_overrides(raw)
    _resolve_training_args(raw, notices)
    _resolve_sections(raw, notices)
    _resolve_merge(raw, notices)
    for key, value in DEFAULTS.items():
        raw.setdefault(key, value)
    raw.setdefault("retryWithSmallerBatch", "per_device_batch" in (raw["overrides"].get("auto") or ()))
    processes = world_size(raw)
    raw.setdefault("distributedType", "auto-single-process" if processes == 1 else "auto-ddp")
    notices.extend(_sharding_notices(raw, processes))
    resolved = FineTuneJobSpec.model_validate(raw)
    overrides = raw["overrides"]
    given = raw["training_args"].get("learning_rate")
    learning_rate = None
    if given is not None:
        learning_rate = scale_learning_rate(
            given,
            overrides["lr_multiplier"],
            overrides["lr_batch_size_scaling"],
            resolved.batchsize_conf.total_train_batch_size,
        )
    return ResolvedSpec(
        spec=resolved,
        world_size=processes,
        learning_rate=learning_rate,
        training_args=_final_training_args(raw, learning_rate),
        distributed_type=raw["distributedType"],
        merge_adapter=raw["mergeAdapter"] and raw["peft_conf"]["peft_type"] != "NO_PEFT",
        notices=notices,
        warnings=_warnings(raw),
    )


def _merge_overrides(raw: dict[str, Any]) -> None:
    """The lifted keys go where document 003 has them; both and different was refused before."""
    overrides = raw.setdefault("overrides", {})
    for key in LIFTED_KEYS:
        lifted = raw.pop(key, None)
        if lifted is not None:
            overrides[key] = lifted
    overrides.setdefault("lr_multiplier", 1.0)
    overrides.setdefault("lr_batch_size_scaling", "none")


def _resolve_training_args(raw: dict[str, Any], notices: list[str]) -> None:
    arguments, translated = translate(raw["training_args"])
    notices.extend(translated)
    epochs_given = "num_train_epochs" in arguments or "num_train_epochs" in raw["overrides"]
    max_steps = arguments.get("max_steps", -1)
    if max_steps > 0 and epochs_given:
        notices.append(f"max_steps ({max_steps}) wins over num_train_epochs")
        arguments.pop("num_train_epochs", None)
        raw["overrides"].pop("num_train_epochs", None)
    if max_steps <= 0:
        arguments["max_steps"] = -1
    least = raw["overrides"].get("min_update_steps")
    if least is not None and (max_steps > 0 or epochs_given):
        winner = "max_steps" if max_steps > 0 else "num_train_epochs"
        notices.append(f"overrides.min_update_steps ({least}) has no effect beside {winner}")
        del raw["overrides"]["min_update_steps"]
        least = None
    open_keys = _left_open(raw, by_steps=max_steps > 0 or least is not None)
    of_method = METHOD_DEFAULTS.get(raw.get("method", "sft"), {})
    for name in SUPPORTED:
        default = of_method.get(name, default_of(name))
        if default is not None and name not in open_keys:
            arguments.setdefault(name, default)
    raw["training_args"] = arguments


def _left_open(raw: dict[str, Any], by_steps: bool) -> set[str]:
    """The training_args that get no default, since another key decides: given as well, they would contradict it."""
    left = {"num_train_epochs"} if by_steps else set()
    if "learning_rate" in (raw["overrides"].get("auto") or ()):
        left.add("learning_rate")
    if has_events(raw):
        left |= set(EVENT_KEYS)
    return left


def _resolve_sections(raw: dict[str, Any], notices: list[str]) -> None:
    tracking = raw.get("tracking")
    if tracking and tracking.get("run_id") and tracking.pop("run_name", None):
        notices.append("tracking.run_name has no effect beside tracking.run_id, whose name stays")
    if raw["run_conf"]["model_args"].pop("resume_download", False):
        notices.append("run_conf.model_args.resume_download has no effect: downloads always resume")
    raw.setdefault("quant_conf", {"quantization_type": "no-quantization"})
    method = raw.get("method", "sft")
    if method != "sft":  # whose arguments are required, as in document 003
        raw.setdefault(METHOD_ARGUMENTS[method], {})
    if method == "dpo":
        notices.extend(_dropout_notices(raw))
    if raw["training_args"].get("save_strategy") == "no":
        notices.append("save_strategy is no: without checkpoints a retry or a preemption starts over")


def _dropout_notices(raw: dict[str, Any]) -> list[str]:
    """Dropout that was asked for and is turned off by another key's default."""
    if raw["dpo_args"].get("disable_dropout", True) is not True:
        return []
    kwargs = raw["peft_conf"].get("peft_kwargs") or {}
    given = [f"peft_kwargs.{key}" for key, value in kwargs.items() if "dropout" in key and value]
    if ((raw["run_conf"].get("model_hyperparameters") or {}).get("dropout") or 0) > 0:
        given.append("run_conf.model_hyperparameters.dropout")
    return [f"{key} has no effect: dpo_args.disable_dropout is true (the default); set it to false" for key in given]


def _sharding_notices(raw: dict[str, Any], processes: int) -> list[str]:
    """DeepSpeed's stages are its idea, not its library; one process has nothing to split."""
    kind = raw["distributedType"]
    if kind not in ("auto-deepspeed-stage1", "auto-deepspeed-stage3", "custom-accelerate-config"):
        return []
    if processes == 1:
        return [f"{kind} has no effect: one process has nothing to split"]
    split = sharding_of(kind, raw.get("customAccelerateConfig"), processes).split
    what = {"optimizer": "optimizer state is", "everything": "weights, gradients and optimizer state are"}.get(split)
    said = f"{kind}: {what} split over {processes} processes by torch itself; losses and checkpoints are the same"
    return [said] if what else []


def _resolve_merge(raw: dict[str, Any], notices: list[str]) -> None:
    """mergeAdapter is true unless said otherwise, but some adapters cannot be merged."""
    peft_type = raw["peft_conf"]["peft_type"]
    if peft_type in CANNOT_MERGE and "mergeAdapter" not in raw:
        raw["mergeAdapter"] = False
        notices.append(f"a {peft_type} adapter cannot be merged into the model: the result is the adapter alone")


def _final_training_args(raw: dict[str, Any], learning_rate: float | None) -> dict[str, Any]:
    """What the training loop takes: every supported key, dependent defaults filled, overrides applied."""
    arguments: dict[str, Any] = {name: raw["training_args"].get(name) for name in SUPPORTED}
    if has_events(raw):
        arguments |= _like_events(raw["evaluation_conf"])
    arguments["learning_rate"] = learning_rate
    if raw["overrides"].get("num_train_epochs") is not None:
        arguments["num_train_epochs"] = raw["overrides"]["num_train_epochs"]
    if arguments["num_train_epochs"] is None:
        arguments["num_train_epochs"] = default_of("num_train_epochs")  # max_steps decides
    if arguments["eval_strategy"] == "steps" and arguments["eval_steps"] is None:
        arguments["eval_steps"] = arguments["logging_steps"]
    if arguments["data_seed"] is None:
        arguments["data_seed"] = arguments["seed"]
    for name in WHOLE_OR_RATIO:
        if isinstance(arguments[name], float) and arguments[name].is_integer():
            arguments[name] = int(arguments[name])
    arguments["gradient_checkpointing"] = bool(arguments["gradient_checkpointing"])
    if arguments["load_best_model_at_end"] or arguments["save_strategy"] == "best":
        metric = arguments["metric_for_best_model"] or "loss"
        arguments["metric_for_best_model"] = metric
        if arguments["greater_is_better"] is None:
            arguments["greater_is_better"] = not metric.endswith("loss")
    return arguments


def _like_events(evaluation_conf: dict[str, Any]) -> dict[str, Any]:
    """The nearest thing to evaluation_conf's events in transformers' words. The loop goes by evaluation_conf itself."""
    if evaluation_conf.get("every_n_epochs") is not None:
        like = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_steps": default_of("save_steps")}
    else:
        share = min(1 / evaluation_conf["max_events"], 0.999999)  # 1 would be a step, not all of them
        like = {"eval_strategy": "steps", "eval_steps": share, "save_strategy": "steps", "save_steps": share}
    return {**like, "eval_delay": 0}


def _warnings(raw: dict[str, Any]) -> list[str]:
    """What is allowed but was probably not meant."""
    warnings: list[str] = []
    data = raw["data_conf"]
    arguments = raw["training_args"]
    if data["validation_data"]["type"] != "NONE" and arguments.get("eval_strategy") == "no":
        warnings.append(
            "there is validation data but training_args.eval_strategy is no: it is used after training only"
        )
    if data.get("missing_pad_token_strategy") == "eos-repurpose":
        warnings.append("missing_pad_token_strategy eos-repurpose may keep the model from learning where to stop")
    if (
        arguments["max_steps"] > 0
        and arguments.get("save_strategy") == "steps"
        and arguments["save_steps"] > arguments["max_steps"]
    ):
        warnings.append(
            f"save_steps ({arguments['save_steps']}) is beyond max_steps ({arguments['max_steps']}): "
            "no checkpoint is written before the end"
        )
    return warnings
