"""Anyscale LLMForge (document 001): its training YAML.

What it leaves out has LLMForge's default, written out: a cosine schedule with 10 steps of warmup, at least 100 update
steps where num_epochs is absent, validation and a checkpoint after every epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from finetune_api.parameters import parameters_of
from finetune_cli.converting.adapter import put_lora
from finetune_cli.converting.conversion import Conversion, show, whole
from finetune_cli.converting.places import data_location, datasets, model_location, put_model

LEFT_OUT = {row.key: row.how.removeprefix("dropped: ") for row in parameters_of("001") if row.how.startswith("dropped")}
# Same meaning and value under another name.
RENAMED = {
    "weight_decay": "training_args.weight_decay",
    "gradient_checkpointing": "training_args.gradient_checkpointing",
    "padding": "sft_args.padding",
}
DEFAULTS: dict[str, tuple[str, Any]] = {
    "learning_rate": ("training_args.learning_rate", 1e-4),
    "lr_scheduler_type": ("training_args.lr_scheduler_type", "cosine"),
    "num_warmup_steps": ("training_args.warmup_steps", 10),
}
TASKS = {
    "causal_lm": ("sft", False),
    "instruction_tuning": ("sft", True),
    "preference_tuning": ("dpo", None),
}
REFUSED_TASKS = ("classification", "vision_language")
REFUSED_SECTIONS = ("classifier_config", "vision_language_config")
TEMPLATE = "the prompt format of the model itself, as in LLMForge"
DEFAULT_BATCH = 1  # per device, of LLMForge's own reference
STAGE = re.compile(r"(?:zero|stage)[-_]?([0-3])")


def convert(given: Mapping[str, Any], conversion: Conversion) -> None:
    """The keys of the YAML."""
    rest = {key: value for key, value in given.items() if value is not None}
    take: Callable[[str], Any] = lambda key: rest.pop(key, None)  # noqa: E731
    _task(take, conversion)
    _model(take, conversion)
    _data(take, conversion)
    _hardware(take, conversion)
    _batch(take, conversion)
    _schedule(take, conversion)
    _events(take, conversion)
    _adapter(take, conversion)
    _logger(take, conversion)
    for key, value in rest.items():
        _other(key, value, conversion)


def _task(take: Callable[[str], Any], conversion: Conversion) -> None:
    task, preferences = take("task"), take("preference_tuning_config")
    if preferences is not None and task is None:
        task = "preference_tuning"
    if task is None:
        conversion.silent("method", "sft")
        conversion.default("sft_args.train_on_completions_only", False, "task", old="causal_lm")
    elif task not in TASKS:
        known = task in REFUSED_TASKS
        reason = "can be trained here" if known else "is a task of LLMForge"
        conversion.refuse("task", task, f"only {', '.join(TASKS)} {reason}; set one of them")
        conversion.silent("method", "sft")
        conversion.silent("sft_args", {})
    else:
        method, completions = TASKS[task]
        conversion.put("method", method, "task", task)
        if completions is None:
            conversion.silent("dpo_args", {})
            rows = "rows need prompt_messages, chosen_messages and rejected_messages here, see docs/convert.md"
            conversion.notes.append(f"task preference_tuning: {rows}")
        else:
            conversion.put("sft_args.train_on_completions_only", completions, "task", task)
    for key in REFUSED_SECTIONS:
        given = take(key)
        if given is not None:
            conversion.refuse(key, given, f"only {', '.join(TASKS)} can be trained here; remove it")
    for key, value in _mapping(preferences).items():
        name = f"preference_tuning_config.{key}"
        if key == "beta":
            conversion.put("dpo_args.beta", value, name, value)
        elif key == "logprob_processor_scaling_config":
            conversion.drop(name, value, "the reference model's probabilities are computed by the training itself")
        else:
            conversion.unknown(name, value, ("beta",))


def _model(take: Callable[[str], Any], conversion: Conversion) -> None:
    model, weights = take("model_id"), take("initial_base_model_ckpt_path")
    if weights is not None:
        put_model(conversion, "initial_base_model_ckpt_path", weights)
        if model is not None:
            conversion.drop("model_id", model, "initial_base_model_ckpt_path has weights and tokenizer")
    elif model is not None:
        put_model(conversion, "model_id", model)
    attention = take("flash_attention_2")
    path = "run_conf.model_args.attn_implementation"
    if attention is True:
        conversion.put(path, "flash_attention_2", "flash_attention_2", attention)
    elif attention is not None:
        conversion.drop("flash_attention_2", attention, "the model takes its usual attention")
    liger = take("liger_kernel")
    if isinstance(liger, Mapping) and liger.get("enabled") in (False, None):
        conversion.drop("liger_kernel", liger, "it is not enabled")
    elif liger is not None and liger is not False:
        conversion.put("training_args.use_liger_kernel", True, "liger_kernel", liger)


def _data(take: Callable[[str], Any], conversion: Conversion) -> None:
    conversion.silent("data_conf.validation_data", {"type": "NONE"})
    for key, path in (("train_path", "data_conf.training_data"), ("valid_path", "data_conf.validation_data")):
        value = take(key)
        found = None if value is None else data_location(conversion, key, value)
        if found:
            conversion.put(path, datasets([{"path": found[0]}]), key, value, found[1], shown=found[0])
    conversion.choose("data_conf.chat_template_name", "keep-original", TEMPLATE)
    section = "dpo_args" if conversion.get("method") == "dpo" else "sft_args"
    length = take("context_length")
    if length is None:
        why = "LLMForge takes the 95th percentile of the data's lengths, or the model's context if that is longer"
        conversion.choose(f"{section}.max_seq_length", 2048, f"context_length is not given, and {why}")
    elif whole(conversion, "context_length", length):
        conversion.put(f"{section}.max_seq_length", length, "context_length", length)
    conversion.choose(f"{section}.overlength", "truncate", "LLMForge truncates examples to context_length")
    formatting = take("generation_config")
    if formatting is not None:
        fix = "a prompt format cannot be given; set data_conf.chat_template_name, or a chat template in the tokenizer"
        conversion.refuse("generation_config", formatting, f"{fix}, and remove it")


def _hardware(take: Callable[[str], Any], conversion: Conversion) -> None:
    devices = take("num_devices")
    if devices is None:
        conversion.default("finetuningGpus", 1, "num_devices")
    elif whole(conversion, "num_devices", devices):
        why = "on one node; an operator whose nodes have fewer takes those, and keeps the total batch"
        conversion.put("finetuningGpus", devices, "num_devices", devices, why)
    resources = take("worker_resources")
    if resources is not None and not isinstance(resources, Mapping):
        conversion.refuse("worker_resources", resources, "give a mapping, such as accelerator_type:A10G: 0.001")
    for key, value in _mapping(resources).items():
        prefix, _, kind = key.partition(":")
        name = f"worker_resources.{key}"
        if prefix in ("accelerator_type", "anyscale/accelerator_shape") and kind:
            conversion.put(
                "acceleratorType",
                kind,
                name,
                value,
                "the operator's settings say which nodes these are; the number only asks Ray for one",
            )
        else:
            conversion.refuse(name, value, "give accelerator_type:KIND, or set memoryPerGpu and cpusPerGpu")
    engine = take("deepspeed")
    if engine is not None:
        _deepspeed(engine, conversion)


def _deepspeed(engine: Any, conversion: Conversion) -> None:
    text = json.dumps(engine)
    found = STAGE.search(text) or re.search(r'"stage": ([0-3])', text)
    stage = found[1] if found else None
    if stage in ("1", "3"):
        conversion.put("distributedType", f"auto-deepspeed-stage{stage}", "deepspeed", engine)
    else:
        fix = "only ZeRO stages 1 and 3 have a distributedType; remove it to train with data parallelism (auto-ddp)"
        conversion.refuse("deepspeed", engine, fix)


def _batch(take: Callable[[str], Any], conversion: Conversion) -> None:
    devices = conversion.get("finetuningGpus") or 1
    size, accumulation = take("train_batch_size_per_device"), take("gradient_accumulation_steps")
    key, path = "train_batch_size_per_device", "batchsize_conf.max_per_device_train_batch_size"
    if size is None:
        size = DEFAULT_BATCH
        conversion.default(path, size, key)
    elif whole(conversion, key, size):
        conversion.put(path, size, key, size)
    steps, given, old = 1, key, size
    if accumulation is not None and whole(conversion, "gradient_accumulation_steps", accumulation):
        steps, given, old = accumulation, "gradient_accumulation_steps", accumulation
    if isinstance(size, int):
        why = f"devices x batch per device x accumulation = {devices} x {size} x {steps}"
        conversion.put("batchsize_conf.total_train_batch_size", devices * size * steps, given, old, why)
    evaluated = take("eval_batch_size_per_device")
    if evaluated is not None and whole(conversion, "eval_batch_size_per_device", evaluated):
        conversion.put("batchsize_conf.per_device_eval_batch_size", evaluated, "eval_batch_size_per_device", evaluated)


def _schedule(take: Callable[[str], Any], conversion: Conversion) -> None:
    for key, (path, default) in DEFAULTS.items():
        value = take(key)
        if value is None:
            conversion.default(path, default, key)
        else:
            conversion.put(path, value, key, value)
    epochs, steps, other = take("num_epochs"), take("min_update_steps"), take("min_num_update_steps")
    key = "min_update_steps" if steps is not None else "min_num_update_steps"
    if steps is not None and other is not None and steps != other:
        conversion.refuse("min_num_update_steps", other, f"min_update_steps ({steps}) means the same; keep one")
    steps = other if steps is None else steps
    if epochs is not None:
        conversion.put("training_args.num_train_epochs", epochs, "num_epochs", epochs)
        if steps is not None:
            conversion.drop(key, steps, "it counts only without num_epochs")
    elif steps is None:
        why = "num_epochs is not given either: epochs = ceil(100 / steps per epoch)"
        conversion.default("overrides.min_update_steps", 100, "min_update_steps", why)
    else:
        conversion.put("overrides.min_update_steps", steps, key, steps, "num_epochs is not given")


def _events(take: Callable[[str], Any], conversion: Conversion) -> None:
    """Validation and checkpoint together; without validation data checkpoints alone."""
    every, most, keep = (
        take(key) for key in ("checkpoint_every_n_epochs", "max_num_checkpoints", "num_checkpoints_to_keep")
    )
    often = take("checkpoint_and_evaluation_frequency")
    if often is not None:
        key, frequency = "checkpoint_and_evaluation_frequency", _mapping(often)
        number = frequency.get("value", frequency.get("frequency"))
        if frequency.get("strategy") != "epochs":
            conversion.refuse(
                key, often, "give epochs, or remove it and set eval_steps and save_steps of training_args"
            )
        elif whole(conversion, key, number):
            conversion.notes.append(f"{key}: {show(often)} means checkpoint_every_n_epochs: {number}")
            every = number if every is None else every
    # --validation may give the data that the file lacks.
    conversion.later.append(lambda: _put_events(every, most, keep, conversion))


def _put_events(every: Any, most: Any, keep: Any, conversion: Conversion) -> None:
    if conversion.get("data_conf.validation_data.type") == "NONE":
        _checkpoints_alone(every, most, keep, conversion)
        return
    if every is not None:
        conversion.put("evaluation_conf.every_n_epochs", every, "checkpoint_every_n_epochs", every)
    if most is not None:
        conversion.put("evaluation_conf.max_events", most, "max_num_checkpoints", most)
    if every is None and most is None:
        conversion.default("evaluation_conf.every_n_epochs", 1, "checkpoint_every_n_epochs")
    if keep is None:
        conversion.default("evaluation_conf.keep_best", 1, "num_checkpoints_to_keep", "by validation loss")
    else:
        conversion.put("evaluation_conf.keep_best", keep, "num_checkpoints_to_keep", keep, "by validation loss")


def _checkpoints_alone(every: Any, most: Any, keep: Any, conversion: Conversion) -> None:
    key = "checkpoint_every_n_epochs"
    epochs = conversion.get("training_args.num_train_epochs")
    without = "there is no validation data"
    if every in (None, 1) and most is None:
        conversion.default("training_args.save_strategy", "epoch", key, without, old=1)
    elif every is None:
        conversion.put("training_args.save_steps", 1 / most, "max_num_checkpoints", most, f"a share; {without}")
    elif every == 1 and most is None:
        conversion.put("training_args.save_strategy", "epoch", key, every, without)
    elif isinstance(epochs, int) and isinstance(every, int) and most is None and every < epochs:
        conversion.put("training_args.save_steps", every / epochs, key, every, f"a share of all steps; {without}")
    else:
        conversion.refuse(
            key, every, f"{without}; give valid_path, --validation LOCATION, or max_num_checkpoints alone"
        )
    if keep is not None:
        key = "num_checkpoints_to_keep"
        conversion.put("training_args.save_total_limit", keep, key, keep, f"the newest, since {without}")


def _adapter(take: Callable[[str], Any], conversion: Conversion) -> None:
    lora, earlier = take("lora_config"), take("initial_adapter_model_ckpt_path")
    if earlier is not None:
        location = model_location(earlier) if isinstance(earlier, str) else earlier
        conversion.silent("peft_conf.peft_type", "PRETRAINED_PEFT")
        conversion.put("peft_conf.name_or_path", location, "initial_adapter_model_ckpt_path", earlier)
        if lora is not None:
            conversion.drop("lora_config", lora, "the adapter brings its own configuration")
    elif lora is None:
        conversion.silent("peft_conf", {"peft_type": "NO_PEFT"})
    elif isinstance(lora, Mapping):
        put_lora(conversion, lora, "lora_config")
    else:
        conversion.refuse("lora_config", lora, "give the arguments of PEFT's LoraConfig")


def _logger(take: Callable[[str], Any], conversion: Conversion) -> None:
    logger = take("logger")
    if logger is None:
        return
    given = dict(logger) if isinstance(logger, Mapping) else {"provider": logger}
    provider = given.pop("provider", None)
    config = given.pop("provider_config", None)
    given |= _mapping(config)
    if provider != "mlflow":
        conversion.refuse("logger.provider", provider, "metrics go to MLflow; set provider: mlflow, or remove logger")
        return
    names = {"tracking_uri": "mlflow_server_uri", "experiment_name": "experiment_name", "run_name": "run_name"}
    for key, value in given.items():
        if key in names:
            conversion.put(f"tracking.{names[key]}", value, f"logger.{key}", value)
        else:
            conversion.unknown(f"logger.{key}", value, names)
    if conversion.get("tracking.mlflow_server_uri") is None:
        conversion.refuse("logger", logger, "give tracking_uri, the URI of the MLflow server")
    elif conversion.get("tracking.experiment_name") is None:
        conversion.choose("tracking.experiment_name", "llmforge", "the logger names no experiment")


def _other(key: str, value: Any, conversion: Conversion) -> None:
    if key in LEFT_OUT:
        conversion.drop(key, value, LEFT_OUT[key])
    elif key == "embedding_scaling_technique":
        if value == "none":
            conversion.drop(key, value, "nothing is scaled")
        else:
            conversion.refuse(key, value, "the context of a model is not extended; remove it and lower context_length")
    elif key in RENAMED:
        path = RENAMED[key]
        if path.startswith("sft_args.") and conversion.get("method") == "dpo":
            conversion.drop(key, value, "preference pairs are padded to the longest of a batch")
        else:
            conversion.put(path, value, key, value)
    else:
        known = [row.key for row in parameters_of("001")]
        conversion.unknown(key, value, known)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
