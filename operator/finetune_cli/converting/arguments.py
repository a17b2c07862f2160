"""transformers.TrainingArguments as training_args, batchsize_conf and run_conf: for every source that takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.training_args import REMOVED as REMOVED_ARGUMENTS
from finetune_api.training_args import RENAMED, RENAMED_VALUES, STRATEGY_KEYS, refusal, snapshot, translate
from finetune_cli.converting.conversion import COMPUTED, Code, Conversion, show, whole

ANYPRECISION = "adamw_anyprecision"
TORCHDISTX = "it needs torchdistx, which today's PyTorch has not; with its default types the arithmetic is AdamW's"
# What says where files go, or what this trainer does anyway: (why it is left out, the values that are; None: all).
LEFT_OUT: dict[str, tuple[str, tuple[Any, ...] | None]] = {
    "output_dir": ("checkpoints go to the job's own volume, and to checkpointsRemote if given", None),
    "overwrite_output_dir": ("every job has its own volume", None),
    "logging_dir": ("metrics go to MLflow: give tracking", None),
    "run_name": ("give tracking.run_name, or let the run have the job's name", None),
    "report_to": ("metrics go to MLflow if tracking is given", ("none", "mlflow", "all", ["none"], ["mlflow"], [])),
    "do_train": ("a FineTuneJob always trains", (True,)),
    "do_eval": ("eval_strategy says when", None),
    "disable_tqdm": ("there are no progress bars", None),
    "remove_unused_columns": ("the trainer knows its own columns", None),
    "label_names": ("the trainer knows its own columns", None),
    "ddp_find_unused_parameters": ("every parameter that is trained is used", (False,)),
    "save_safetensors": ("weights are always saved as safetensors", (True,)),
    "include_num_input_tokens_seen": ("tokens are always counted", None),
}
BATCH_KEYS = {
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
}


def put_arguments(
    conversion: Conversion,
    given: Mapping[str, Any],
    *,
    prefix: str,
    processes: int,
    per_device: int,
    per_device_why: str,
    defaults: Mapping[str, Any],
    known: Iterable[str] = (),
) -> None:
    """Translate `given`, and write the source's `defaults` for what it leaves out.

    per_device: the source's batch per device where none is given. known: further names to suggest for a misspelt one.
    """
    arguments = {key: value for key, value in given.items() if value is not None}
    _batch(conversion, arguments, prefix, processes, per_device, per_device_why, defaults)
    _warmup(conversion, arguments, prefix)
    _epochs_beside_steps(conversion, arguments, prefix)
    if arguments.get("optim") == ANYPRECISION and arguments.get("optim_args"):
        conversion.refuse(f"{prefix}.optim_args", arguments.pop("optim_args"), f"of {ANYPRECISION}, {TORCHDISTX}")
    for key, value in arguments.items():
        _argument(conversion, key, value, prefix, known)
    for key, value in defaults.items():
        written = conversion.get(f"training_args.{key}") is not None
        if key not in arguments and not written and key != "gradient_accumulation_steps":
            conversion.default(f"training_args.{key}", value, f"{prefix}.{key}")


def _batch(
    conversion: Conversion,
    arguments: dict[str, Any],
    prefix: str,
    processes: int,
    per_device: int,
    why: str,
    defaults: Mapping[str, Any],
) -> None:
    """The total batch from the batch per device, accumulation and the number of processes."""
    for old, new in BATCH_KEYS.items():
        if old in arguments:
            arguments.setdefault(new, arguments.pop(old))
    key = f"{prefix}.per_device_train_batch_size"
    most = arguments.pop("per_device_train_batch_size", None)
    if most is None:
        most = per_device
        conversion.default("batchsize_conf.max_per_device_train_batch_size", most, key, why)
    elif whole(conversion, key, most):
        conversion.put("batchsize_conf.max_per_device_train_batch_size", most, key, most)
    key = f"{prefix}.gradient_accumulation_steps"
    accumulation = arguments.pop("gradient_accumulation_steps", None)
    path = "batchsize_conf.total_train_batch_size"
    usual = defaults.get("gradient_accumulation_steps", 1)
    steps = usual if accumulation is None else accumulation
    if (accumulation is None or whole(conversion, key, accumulation)) and isinstance(most, int):
        sum_up = f"processes x batch per device x accumulation = {processes} x {most} x {steps}"
        if accumulation is None:
            conversion.default(path, processes * most * steps, key, sum_up, old=usual)
        else:
            conversion.put(path, processes * most * steps, key, accumulation, sum_up)
    evaluated = arguments.pop("per_device_eval_batch_size", None)
    key = f"{prefix}.per_device_eval_batch_size"
    if evaluated is not None and whole(conversion, key, evaluated):
        conversion.put("batchsize_conf.per_device_eval_batch_size", evaluated, key, evaluated)


def _warmup(conversion: Conversion, arguments: dict[str, Any], prefix: str) -> None:
    """transformers takes warmup_steps where it is above 0, else warmup_ratio; today both are one argument."""
    steps, ratio = arguments.get("warmup_steps"), arguments.get("warmup_ratio")
    if steps is not None and ratio is not None:
        loser = "warmup_steps" if steps == 0 else "warmup_ratio"
        winner = "warmup_ratio" if loser == "warmup_steps" else "warmup_steps"
        conversion.drop(f"{prefix}.{loser}", arguments.pop(loser), f"{winner} decides")


def _epochs_beside_steps(conversion: Conversion, arguments: dict[str, Any], prefix: str) -> None:
    steps = arguments.get("max_steps")
    if isinstance(steps, int) and steps > 0 and "num_train_epochs" in arguments:
        conversion.drop(f"{prefix}.num_train_epochs", arguments.pop("num_train_epochs"), f"max_steps ({steps}) decides")


def _argument(conversion: Conversion, key: str, value: Any, prefix: str, known: Iterable[str]) -> None:
    name = f"{prefix}.{key}"
    if key in LEFT_OUT and (LEFT_OUT[key][1] is None or value in (LEFT_OUT[key][1] or ())):
        conversion.drop(name, value, LEFT_OUT[key][0])
    elif isinstance(value, Code):
        conversion.refuse(name, value, COMPUTED)
    elif key in STRATEGY_KEYS and value is False:  # YAML's reading of an unquoted no
        _translated(conversion, key, "no", name)
    elif key in ("use_cpu", "no_cuda"):
        _on_cpu(conversion, name, value)
    elif key == "resume_from_checkpoint" and value:
        path = "run_conf.resume_from_checkpoint"
        conversion.put(path, "auto" if value is True else value, name, value)
    elif key == "optim" and value == ANYPRECISION:
        conversion.put("training_args.optim", "adamw_torch", name, value, TORCHDISTX)
    elif key not in snapshot() and key not in RENAMED and key not in REMOVED_ARGUMENTS:
        conversion.unknown(name, value, [*snapshot(), *RENAMED, *known])
    elif reason := refusal(key, value):
        conversion.refuse(name, value, f"{reason}; remove it")
    else:
        _translated(conversion, key, value, name)


def _translated(conversion: Conversion, key: str, value: Any, name: str) -> None:
    translated, _ = translate({key: value})
    if not translated:
        conversion.drop(name, value, "it asks for nothing")
    for new, new_value in translated.items():
        why = ""
        if new != key:
            why = "its name in today's transformers"
        elif key in RENAMED_VALUES and value in RENAMED_VALUES[key]:
            why = f"{show(value)} no longer exists in transformers"
        conversion.put(f"training_args.{new}", new_value, name, value, why)


def _on_cpu(conversion: Conversion, name: str, value: Any) -> None:
    if value is True:
        conversion.put("finetuningGpus", 0, name, value)
    else:
        conversion.drop(name, value, "it asks for nothing")
