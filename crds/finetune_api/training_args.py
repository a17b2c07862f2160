"""training_args: transformers.TrainingArguments, key by key: supported, owned by the operator, translated or refused.

No key is accepted and then ignored. The tables below say what happens to each; the field list itself (names, kinds,
defaults) is the snapshot of the pinned transformers, so an upgrade that adds a key refuses it until someone decides.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from finetune_api.base import FreeForm, SpecModel
from finetune_api.methods import METHOD_DEFAULTS

# --- what our training loop does -------------------------------------------------------------------------------------
# name -> limits of the value. `choices` narrows an enum; `minimum` and `above` bound a number.


@dataclass(frozen=True)
class Limits:
    """Bounds that the trainer puts on a value beyond its kind."""

    choices: tuple[str, ...] = ()
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None


_ANY = Limits()
_RATIO_OR_STEPS = Limits(above=0, maximum=1_000_000_000)
_SEED = Limits(minimum=0, maximum=4_294_967_295)

SUPPORTED: dict[str, Limits] = {
    "learning_rate": Limits(above=0, maximum=1_000),
    "lr_scheduler_type": Limits(
        choices=(
            "linear",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "constant",
            "constant_with_warmup",
            "inverse_sqrt",
            "cosine_with_min_lr",
            "cosine_warmup_with_min_lr",
            "warmup_stable_decay",
        )
    ),
    "lr_scheduler_kwargs": _ANY,
    "warmup_steps": Limits(minimum=0, maximum=1_000_000_000),
    "weight_decay": Limits(minimum=0, maximum=1_000),
    "adam_beta1": Limits(minimum=0, maximum=1),
    "adam_beta2": Limits(minimum=0, maximum=1),
    "adam_epsilon": Limits(minimum=0, maximum=1),
    "optim": Limits(
        choices=(
            *("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"),
            *("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "paged_adamw_32bit"),
            *("lion_8bit", "lion_32bit", "paged_lion_8bit", "paged_lion_32bit"),
            *("rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"),
        )
    ),
    "optim_args": _ANY,
    "max_grad_norm": Limits(minimum=0, maximum=1_000_000_000),
    "num_train_epochs": Limits(above=0, maximum=100_000),
    "max_steps": Limits(minimum=-1, maximum=1_000_000_000),
    "logging_strategy": _ANY,
    "logging_steps": _RATIO_OR_STEPS,
    "logging_first_step": _ANY,
    "eval_strategy": _ANY,
    "eval_steps": _RATIO_OR_STEPS,
    "eval_delay": Limits(minimum=0, maximum=1_000_000_000),
    "eval_on_start": _ANY,
    "save_strategy": _ANY,
    "save_steps": _RATIO_OR_STEPS,
    "save_total_limit": Limits(minimum=1, maximum=10_000),
    "load_best_model_at_end": _ANY,
    "metric_for_best_model": Limits(choices=("loss", "eval_loss")),
    "greater_is_better": _ANY,
    "seed": _SEED,
    "data_seed": _SEED,
    "bf16": _ANY,
    "fp16": _ANY,
    "tf32": _ANY,
    "gradient_checkpointing": _ANY,
    "gradient_checkpointing_kwargs": _ANY,
    "dataloader_num_workers": Limits(minimum=0, maximum=1_024),
    "dataloader_pin_memory": _ANY,
    "dataloader_prefetch_factor": Limits(minimum=1, maximum=1_024),
    "dataloader_persistent_workers": _ANY,
    "label_smoothing_factor": Limits(minimum=0, maximum=1),
    "neftune_noise_alpha": Limits(above=0, maximum=1_000),
    "train_sampling_strategy": Limits(choices=("random", "sequential", "group_by_length")),
    "use_cpu": _ANY,
    "full_determinism": _ANY,
    "log_level": _ANY,
}

# --- what the operator decides ---------------------------------------------------------------------------------------
# name -> what to use instead. The library's default value (and those in HARMLESS) asks for nothing: accepted.

OWNED: dict[str, str] = {
    "gradient_accumulation_steps": "it follows from batchsize_conf.total_train_batch_size",
    "per_device_train_batch_size": (
        "use batchsize_conf.total_train_batch_size and batchsize_conf.max_per_device_train_batch_size"
    ),
    "per_device_eval_batch_size": "use batchsize_conf.per_device_eval_batch_size",
    "output_dir": "checkpoints go to the job's own volume, and to checkpointsRemote if given",
    "resume_from_checkpoint": "use run_conf.resume_from_checkpoint",
    "report_to": "use tracking for MLflow",
    "run_name": "use tracking.run_name",
    "deepspeed": "use distributedType",
    "fsdp": "use distributedType: custom-accelerate-config with customAccelerateConfig",
    "fsdp_config": "use distributedType: custom-accelerate-config with customAccelerateConfig",
    "accelerator_config": "use distributedType: custom-accelerate-config with customAccelerateConfig",
    "parallelism_config": "use distributedType: custom-accelerate-config with customAccelerateConfig",
    "push_to_hub": "use checkpointsRemote to upload the result",
    "hub_token": "never put a token into a manifest; use hfTokenSecret",
    "hub_model_id": "use checkpointsRemote to upload the result",
    "hub_strategy": "use checkpointsRemote to upload the result",
    "hub_private_repo": "use checkpointsRemote to upload the result",
    "hub_always_push": "use checkpointsRemote to upload the result",
    "hub_revision": "use checkpointsRemote to upload the result",
    "project": "use tracking.experiment_name",
    "trackio_space_id": "use tracking for MLflow",
    "trackio_bucket_id": "use tracking for MLflow",
    "trackio_static_space_id": "use tracking for MLflow",
    "local_rank": "the launcher sets it",
    "ddp_backend": "the launcher takes nccl on GPUs and gloo on CPUs",
    "do_train": "a FineTuneJob always trains",
    "do_eval": "use eval_strategy",
    "do_predict": "a FineTuneJob does not predict",
    "enable_jit_checkpoint": "the trainer always writes a checkpoint on SIGTERM",
    "disable_tqdm": "there are no progress bars; progress stands in status, /progress and MLflow",
    "auto_find_batch_size": "use overrides.auto: [per_device_batch]",
}
ALWAYS_OWNED = (  # even the library's default would be misread as a choice
    "gradient_accumulation_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
)
HARMLESS: dict[str, tuple[Any, ...]] = {  # other values than the default that ask for what is so anyway
    "report_to": ("none", ["none"], []),
    "push_to_hub": (False,),
    "disable_tqdm": (True,),
    "remove_unused_columns": (False,),
    "prediction_loss_only": (True,),
    "logging_nan_inf_filter": (False,),
    "ddp_find_unused_parameters": (False,),
    "log_on_each_node": (False,),
}

# --- why the rest is refused -----------------------------------------------------------------------------------------
# Keys of the snapshot in none of the tables above are refused unless they have their default; the reason, if known.

_LOSS_ONLY = "evaluation computes the loss only, as a sum over targets"
_DDP = "every process holds the whole model, and DDP's own settings serve"
UNSUPPORTED_REASON: dict[str, str] = {
    "average_tokens_across_devices": "the loss is always weighted by tokens across devices",
    "batch_eval_metrics": _LOSS_ONLY,
    "bf16_full_eval": "evaluation runs in the precision of training",
    "dataloader_drop_last": "the short last batch is filled with masked rows, so that no sample is lost or doubled",
    "dataloader_in_order": "batches come in order, or a resumed run would differ",
    "dataloader_multiprocessing_context": "workers start as torch starts them",
    "ddp_broadcast_buffers": _DDP,
    "ddp_bucket_cap_mb": _DDP,
    "ddp_find_unused_parameters": "every trained weight takes part in every step",
    "ddp_static_graph": _DDP,
    "ddp_timeout": "the trainer's watchdog ends what hangs",
    "debug": "use log_level",
    "eval_accumulation_steps": _LOSS_ONLY,
    "eval_do_concat_batches": _LOSS_ONLY,
    "eval_use_gather_object": _LOSS_ONLY,
    "fp16_full_eval": "evaluation runs in the precision of training",
    "ignore_data_skip": "a resumed run always goes on with the next sample",
    "include_for_metrics": _LOSS_ONLY,
    "include_num_input_tokens_seen": "see status.dataset.tokens and tokens_per_second",
    "label_names": "labels follow from the method",
    "length_column_name": "the trainer counts lengths itself",
    "liger_kernel_config": "liger-kernel is not in the trainer image",
    "log_level_replica": "only the first process logs",
    "log_on_each_node": "only the first process logs",
    "logging_nan_inf_filter": "the loss is always reported as it is",
    "optim_target_modules": "it is for GaLore and APOLLO, which are not in the trainer image",
    "prediction_loss_only": _LOSS_ONLY,
    "remove_unused_columns": "the trainer knows its own columns",
    "restore_callback_states_from_checkpoint": "a resumed run restores all of its state",
    "save_on_each_node": "checkpoints lie on the job's volume, once",
    "save_only_model": "a checkpoint without optimizer state could not be resumed",
    "skip_memory_metrics": "memory is estimated before training, see status.dataset.memory",
    "torch_compile": "batches differ in length, and each length would be compiled anew",
    "torch_compile_backend": "torch_compile is not supported either",
    "torch_compile_mode": "torch_compile is not supported either",
    "torch_empty_cache_steps": "if memory is short, lower batchsize_conf.max_per_device_train_batch_size",
    "use_cache": "set it in run_conf.model_args",
    "use_liger_kernel": "liger-kernel is not in the trainer image",
}
UNSUPPORTED_DEFAULT_REASON = "the trainer does not implement it in this version"

# --- names that transformers removed or renamed ----------------------------------------------------------------------


@dataclass(frozen=True)
class Renamed:
    """A removed name, its successor, and the value the old value becomes (the same unless `values` says otherwise)."""

    new: str
    kind: Literal["bool", "float", "str", "object", "int"] = "str"
    values: Mapping[Any, Any] = field(default_factory=dict)


RENAMED: dict[str, Renamed] = {
    "evaluation_strategy": Renamed("eval_strategy"),
    "warmup_ratio": Renamed("warmup_steps", kind="float"),
    "group_by_length": Renamed(
        "train_sampling_strategy", kind="bool", values={True: "group_by_length", False: "random"}
    ),
    "no_cuda": Renamed("use_cpu", kind="bool"),
    "activation_checkpointing": Renamed("gradient_checkpointing", kind="bool"),
    "activation_checkpointing_kwargs": Renamed("gradient_checkpointing_kwargs", kind="object"),
    "per_gpu_train_batch_size": Renamed("per_device_train_batch_size", kind="int"),
    "per_gpu_eval_batch_size": Renamed("per_device_eval_batch_size", kind="int"),
}
# Still named so in the pinned library too: translated without a notice.
SILENTLY_RENAMED = ("activation_checkpointing", "activation_checkpointing_kwargs")

# Values that other systems name and that cannot work here: refused with the reason, not as an unknown word.
REFUSED_VALUES: dict[str, dict[str, str]] = {
    "optim": {
        "adamw_anyprecision": "needs torchdistx, which is maintained no more; use adamw_torch, or adamw_8bit for memory"
    },
}

RENAMED_VALUES: dict[str, dict[str, str]] = {
    "optim": {"adamw_hf": "adamw_torch_fused", "adamw_apex_fused": "adamw_torch_fused"},
}

# Removed without successor: (kind, the values that ask for nothing today, what is so instead).
REMOVED: dict[str, tuple[Literal["bool", "float", "str", "int"], tuple[Any, ...], str]] = {
    "save_safetensors": ("bool", (True,), "weights are always saved as safetensors"),
    "overwrite_output_dir": (
        "bool",
        (False, True),
        "every job has its own volume; see run_conf.resume_from_checkpoint",
    ),
    "logging_dir": ("str", (), "metrics go to MLflow, see tracking"),
    "use_mps_device": ("bool", (False,), "Apple GPUs are not used"),
    "half_precision_backend": ("str", ("auto",), "use bf16 or fp16"),
    "fp16_backend": ("str", ("auto",), "use bf16 or fp16"),
    "fp16_opt_level": ("str", (), "use bf16 or fp16"),
    "use_ipex": ("bool", (False,), "removed from transformers"),
    "jit_mode_eval": ("bool", (False,), "removed from transformers"),
    "past_index": ("int", (-1,), "removed from transformers"),
    "tpu_num_cores": ("int", (), "TPUs are not used"),
    "torchdynamo": ("str", (), "removed from transformers"),
    "ray_scope": ("str", ("last",), "removed from transformers"),
    "include_inputs_for_metrics": ("bool", (False,), "removed from transformers"),
    "include_tokens_per_second": ("bool", (False, True), "tokens per second are always reported"),
    "dispatch_batches": ("bool", (), "removed from transformers"),
    "split_batches": ("bool", (False,), "use batchsize_conf"),
    "push_to_hub_model_id": ("str", (), "use checkpointsRemote to upload the result"),
    "push_to_hub_organization": ("str", (), "use checkpointsRemote to upload the result"),
    "push_to_hub_token": ("str", (), "never put a token into a manifest; use hfTokenSecret"),
}

# Of the removed ones, those whose every value is taken and has no effect, which a notice says.
WITHOUT_EFFECT = ("logging_dir",)

# Two spellings of "no" reach us: kubectl reads an unquoted `no` as false (YAML 1.1).
STRATEGY_KEYS = ("save_strategy", "eval_strategy", "logging_strategy", "evaluation_strategy")


@cache
def snapshot() -> dict[str, dict[str, Any]]:
    """The fields of the pinned transformers.TrainingArguments by name."""
    text = resources.files("finetune_api").joinpath("snapshots/training_arguments.json").read_text(encoding="utf-8")
    return {described["name"]: described for described in json.loads(text)["fields"]}


def default_of(name: str) -> Any:
    """The library's default of a key."""
    return snapshot()[name].get("default")


def harmless_values(name: str) -> tuple[Any, ...] | None:
    """The values of a key that the trainer does not act upon and that ask for nothing; None if the key is supported."""
    if name in SUPPORTED:
        return None
    if name in ALWAYS_OWNED:
        return ()
    if name in REMOVED:
        return REMOVED[name][1]
    return (*HARMLESS.get(name, ()), default_of(name))


def refusal(name: str, value: Any) -> str | None:
    """Why this key with this value is refused, or None. `name` must be a known key."""
    if name in RENAMED:
        renamed = RENAMED[name]
        return refusal(renamed.new, renamed.values.get(value, value) if _hashable(value) else value)
    if _hashable(value) and value in REFUSED_VALUES.get(name, ()):
        return f"training_args.{name}: {value} {REFUSED_VALUES[name][value]}"
    allowed = harmless_values(name)
    if (
        name in WITHOUT_EFFECT
        or allowed is None
        or value is None
        or any(value == one and type(value) is type(one) for one in allowed)
    ):
        return None
    return refusal_text(name)


def refusal_text(name: str) -> str:
    """The sentence that refuses a key, naming what to use instead."""
    if name in OWNED:
        return f"training_args.{name} is set by the operator; {OWNED[name]}"
    if name in REMOVED:
        return f"training_args.{name} does not exist any more; {REMOVED[name][2]}"
    return f"training_args.{name} is not supported: {UNSUPPORTED_REASON.get(name, UNSUPPORTED_DEFAULT_REASON)}"


def _hashable(value: Any) -> bool:
    return isinstance(value, str | bool | int | float)


def translate(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Today's names for removed ones, and a notice for each; the keys that ask for nothing are left out."""
    translated: dict[str, Any] = {}
    notices: list[str] = []
    for name, value in given.items():
        if value is None:
            continue
        new, new_value = name, value
        if name in RENAMED:
            renamed = RENAMED[name]
            new, new_value = renamed.new, renamed.values.get(value, value) if _hashable(value) else value
            if name not in SILENTLY_RENAMED:
                notices.append(f"training_args.{name} was renamed; taken as {new}: {json.dumps(new_value)}")
        if new in RENAMED_VALUES and _hashable(new_value) and new_value in RENAMED_VALUES[new]:
            successor = RENAMED_VALUES[new][new_value]
            notices.append(f"training_args.{new}: {new_value} no longer exists; {successor} is used")
            new_value = successor
        if name in REMOVED:
            notices.append(f"training_args.{name} has no effect: {REMOVED[name][2]}")
        elif new in SUPPORTED:
            translated[new] = new_value
    return translated, notices


# --- the model -------------------------------------------------------------------------------------------------------

_KINDS: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": Annotated[str, Field(max_length=1024)],
    "object": FreeForm,
    "list": Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=64)],
    "any": FreeForm,
}
_INT_BOUND = 2_147_483_647


def _annotation(described: Mapping[str, Any]) -> Any:
    """The type of a key in manifests: the snapshot's kinds narrowed by SUPPORTED."""
    name, kinds = described["name"], list(described["kinds"])
    limits = SUPPORTED.get(name, _ANY)
    choices = limits.choices or tuple(described.get("choices", ()))
    if choices and set(kinds) <= {"enum", "str"}:  # a plain text with choices is an enum too
        return Literal[(*choices, *RENAMED_VALUES.get(name, ()), *REFUSED_VALUES.get(name, ()))]
    if kinds == ["object", "str"]:  # a path to a JSON file, or its content: only the content makes sense in a pod
        kinds = ["object"]
    if name == "report_to":
        return Annotated[str, Field(max_length=128)] | _KINDS["list"]
    kind = "str" if kinds == ["list", "str"] else kinds[-1]  # bool|str -> str
    base = _KINDS["str" if kind == "enum" else kind]
    if kind not in ("int", "float"):
        return base
    low = limits.minimum if limits.minimum is not None else (None if limits.above is not None else -_INT_BOUND)
    high = limits.maximum if limits.maximum is not None else _INT_BOUND
    number: type[int] | type[float] = int if kind == "int" else float
    at_least = None if low is None else number(low)
    above = None if limits.above is None else number(limits.above)
    return Annotated[base, Field(ge=at_least, gt=above, le=number(high))]


def _description(described: Mapping[str, Any]) -> str:
    name = described["name"]
    if name not in SUPPORTED:
        return _short_refusal(name)
    default = described.get("default")
    text = str(described["help"]).split(". ")[0].rstrip(".") + "."
    for method, defaults in METHOD_DEFAULTS.items():
        if name in defaults:
            text += f" Default with method {method}: {json.dumps(defaults[name])}."
    if "no" in described.get("choices", ()):
        text += ' Write "no" in quotes.'
    return text if default is None else f"{text} Default: {json.dumps(default)}."


def _short_refusal(name: str) -> str:
    """The refusal for `kubectl explain`, which shows the key above it."""
    if name in OWNED:
        return f"Set by the operator; {OWNED[name]}."
    return f"Refused: {UNSUPPORTED_REASON.get(name, 'not implemented')}."


def _model_fields() -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, described in snapshot().items():
        if name not in RENAMED:
            fields[name] = (_annotation(described) | None, Field(None, description=_description(described)))
    for name, renamed in RENAMED.items():
        successor = snapshot()[renamed.new]
        annotation = _annotation(successor) if not renamed.values and renamed.kind != "float" else _KINDS[renamed.kind]
        if name == "warmup_ratio":
            annotation = Annotated[float, Field(ge=0, lt=1)]
        fields[name] = (annotation | None, Field(None, description=f"Old name of {renamed.new}; translated."))
    for name, (kind, _, reason) in REMOVED.items():
        fields[name] = (_KINDS[kind] | None, Field(None, description=f"No longer exists; {reason}."))
    return fields


if TYPE_CHECKING:

    class TrainingArguments(SpecModel):
        """transformers.TrainingArguments with restrictions; the keys are those of the snapshot and of the tables."""

        def __getattr__(self, name: str) -> Any: ...

else:
    TrainingArguments = create_model(
        "TrainingArguments",
        __base__=SpecModel,
        __doc__="transformers.TrainingArguments with restrictions.",
        **_model_fields(),
    )
