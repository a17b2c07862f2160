"""Lamini (document 000): the arguments of `llm.tune` or `llm.train`.

Its defaults are written out, since ours differ: 100 steps of adafactor at 9e-4 on packed sequences, LoRA of rank 64.
Memory Tuning, which the index_* keys configure, is not in this version: what remains is LoRA, and a note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.parameters import parameters_of
from finetune_cli.converting.arguments import put_arguments
from finetune_cli.converting.conversion import COMPUTED, Code, Conversion, show, whole
from finetune_cli.converting.places import DATA_SUFFIXES, DATASET_NAME, data_location, datasets, put_model
from finetune_cli.converting.python_source import Source
from finetune_cli.errors import CliError

TUNE_CALLS = ("tune", "train", "tune_and_wait", "train_and_wait")
TUNE_KEYS = ("finetune_args", "gpu_config", "data_or_dataset_id", "model_name", "input_key", "output_key", "dataset_id")
IGNORED_TUNE_KEYS = {
    "is_public": "a model lies where the job's volume or checkpointsRemote is",
    "use_cached_model": "the same job is never trained twice",
    "upload_file_path": "data is read where it lies",
}
DEFAULTS: dict[str, Any] = {row.key: row.default for row in parameters_of("000") if row.section == "finetune_args"}
INDEX_KEYS = tuple(key for key in DEFAULTS if key.startswith("index_"))
OWN_KEYS = ("max_finetuning_examples", "max_length", "r_value", *INDEX_KEYS)
WITHOUT_EXPERTS = {"index_method": "IndexFlatL2", "index_max_size": 1, "index_ivf_nlist": 1}


def read(source: Source) -> dict[str, Any] | None:
    """The arguments in a Python source, of the call or of assignments with their names; None if there are none."""
    found: dict[str, Any] = {}
    for key in TUNE_KEYS:
        if key in source.values:
            found[key] = source.values[key]
    for call in source.find("Lamini"):
        names = dict(zip(("model_name",), call.positional, strict=False))
        found |= {key: value for key, value in {**names, **call.keywords}.items() if key == "model_name"}
    for call in source.find(*TUNE_CALLS):
        if set(call.keywords) & {*TUNE_KEYS, *IGNORED_TUNE_KEYS}:
            names = dict(zip(("data_or_dataset_id", "finetune_args", "gpu_config"), call.positional, strict=False))
            found |= names | call.keywords
    return found if {"finetune_args", "gpu_config", "data_or_dataset_id", "dataset_id"} & set(found) else None


def convert(given: Mapping[str, Any], conversion: Conversion) -> None:
    """The arguments of tune, or finetune_args alone."""
    if not {*TUNE_KEYS} & set(given):
        given = {"finetune_args": given}
    sections: dict[str, Mapping[str, Any]] = {}
    for name in ("finetune_args", "gpu_config"):
        value = given.get(name)
        if value is not None and not isinstance(value, Mapping):
            conversion.refuse(name, value, _unreadable(value))
        sections[name] = value if isinstance(value, Mapping) else {}
    for key, value in given.items():
        if key in IGNORED_TUNE_KEYS:
            conversion.drop(key, value, IGNORED_TUNE_KEYS[key])
        elif key not in TUNE_KEYS:
            conversion.unknown(key, value, TUNE_KEYS)
    if given.get("model_name") is not None:
        put_model(conversion, "model_name", given["model_name"])
    conversion.silent("method", "sft")
    processes = _gpus(sections["gpu_config"], conversion)
    _data(given, conversion)
    _finetune_args(sections["finetune_args"], processes, conversion)


def _gpus(given: Mapping[str, Any], conversion: Conversion) -> int:
    """gpu_config; gpus x nodes."""
    processes = 1
    for key, path in (("gpus", "finetuningGpus"), ("nodes", "nodes")):
        if given.get(key) is None:
            conversion.default(path, 1, f"gpu_config.{key}")
            continue
        number = whole(conversion, f"gpu_config.{key}", given[key])
        if number is not None:
            most = _gpus_of_a_node() if key == "gpus" and number > 1 else number
            why = f"a node has {most} by the operator's setting, to which Lamini lowers it too" if most < number else ""
            conversion.put(path, min(number, most), f"gpu_config.{key}", number, why)
            processes *= min(number, most)
    for key, value in given.items():
        if key not in ("gpus", "nodes"):
            conversion.unknown(f"gpu_config.{key}", value, ("gpus", "nodes"))
    return processes


def _gpus_of_a_node() -> int:
    """FINETUNE_MAX_GPUS_PER_NODE, as the operator reads it. Raises CliError for what is no number."""
    from finetune_operator.settings import SettingsError, load

    try:
        return load().max_gpus_per_node
    except SettingsError as error:
        raise CliError(str(error)) from error


def _data(given: Mapping[str, Any], conversion: Conversion) -> None:
    for key in ("input_key", "output_key"):
        if given.get(key) is not None:
            conversion.put(f"data_conf.{key}", given[key], key, given[key])
        else:
            conversion.default(f"data_conf.{key}", key.removesuffix("_key"), key)
    conversion.choose("data_conf.chat_template_name", "none", "Lamini joins input and output as they are")
    conversion.silent("data_conf.validation_data", {"type": "NONE"})
    key = "dataset_id" if given.get("data_or_dataset_id") is None else "data_or_dataset_id"
    value = given.get(key)
    if value is None:
        return
    is_file = not isinstance(value, str) or "/" in value or value.lower().endswith(DATA_SUFFIXES)
    if not is_file and isinstance(value, str):
        if not DATASET_NAME.match(value):
            conversion.refuse(
                key, value, "a dataset here is a ConfigMap: name it with a-z, 0-9 and '-', or give --data LOCATION"
            )
            return
        found: tuple[str, str] | None = (f"dataset://{value}", "a ConfigMap of that name, see docs/convert.md")
    else:
        found = data_location(conversion, key, value)
    if found:
        location, why = found
        conversion.put("data_conf.training_data", datasets([{"path": location}]), key, value, why, shown=location)


def _finetune_args(given: Mapping[str, Any], processes: int, conversion: Conversion) -> None:
    arguments = dict(given)
    _examples_and_length(arguments, conversion)
    _adapter(arguments, conversion)
    _experts(arguments, conversion)
    _steps(arguments, conversion)
    put_arguments(
        conversion,
        arguments,
        prefix="finetune_args",
        processes=processes,
        per_device=1,
        per_device_why="Lamini trains on one packed sequence at a time",
        defaults={
            key: DEFAULTS[key] for key in ("learning_rate", "save_steps", "optim", "gradient_accumulation_steps")
        },
        known=(*DEFAULTS, "optim_args"),
    )


def _examples_and_length(arguments: dict[str, Any], conversion: Conversion) -> None:
    key = "finetune_args.max_finetuning_examples"
    examples = arguments.pop("max_finetuning_examples", None)
    if examples is not None and whole(conversion, key, examples):
        conversion.put("data_conf.max_examples", examples, key, examples)
    key, length = "finetune_args.max_length", arguments.pop("max_length", None)
    if length is None:
        conversion.default("sft_args.max_seq_length", DEFAULTS["max_length"], key)
    elif whole(conversion, key, length):
        conversion.put("sft_args.max_seq_length", length, key, length)
    conversion.choose("sft_args.overlength", "pack", "Lamini packs examples to max_length")
    conversion.choose(
        "sft_args.train_on_completions_only",
        False,
        "Lamini does not say whether inputs are learnt too; set it to true to learn outputs only",
    )


def _adapter(arguments: dict[str, Any], conversion: Conversion) -> None:
    key, rank = "finetune_args.r_value", arguments.pop("r_value", None)
    conversion.silent("peft_conf.peft_type", "LORA")
    path = "peft_conf.peft_kwargs"
    if rank is None:
        rank = DEFAULTS["r_value"]
        conversion.default(f"{path}.r", rank, key)
    elif whole(conversion, key, rank):
        conversion.put(f"{path}.r", rank, key, rank)
    conversion.choose(f"{path}.lora_alpha", rank, "as r_value, so that the adapter's scale is 1; Lamini names none")
    conversion.choose(f"{path}.target_modules", "all-linear", "Lamini does not say which modules it adapts")


def _experts(arguments: dict[str, Any], conversion: Conversion) -> None:
    """The keys of Memory Tuning: gone if they are defaults or switch it off, else an error for each."""
    given = {key: arguments.pop(key) for key in INDEX_KEYS if key in arguments}
    # Lamini's own name of the bucket count differs between its pages.
    if "nlist" in arguments:
        given["index_ivf_nlist"] = arguments.pop("nlist")
    off = all(given.get(key) == value for key, value in WITHOUT_EXPERTS.items())
    if not off:
        conversion.notes.append(
            "Memory Tuning (a mixture of memory experts), Lamini's default, is not in this version: this job trains "
            "one LoRA adapter, as Lamini does with "
            + ", ".join(f"{key}: {show(value)}" for key, value in WITHOUT_EXPERTS.items())
        )
    for key, value in given.items():
        name = f"finetune_args.{key}"
        if off:
            conversion.drop(name, value, "these values switch Memory Tuning off, which leaves LoRA")
        elif value is None or (value == DEFAULTS[key] and type(value) is type(DEFAULTS[key])):
            conversion.drop(name, value, "Lamini's default of Memory Tuning, which is not in this version")
        else:
            conversion.refuse(name, value, "Memory Tuning is not in this version yet; remove it to train LoRA")


def _steps(arguments: dict[str, Any], conversion: Conversion) -> None:
    """max_steps decides before epochs, and what was given before what is Lamini's default."""
    steps, epochs = arguments.get("max_steps"), arguments.get("num_train_epochs")
    unset = isinstance(steps, int) and not isinstance(steps, bool) and steps <= 0
    if unset:
        conversion.drop("finetune_args.max_steps", arguments.pop("max_steps"), "0 and below mean that it is not set")
    if steps is None and epochs is None:
        default = DEFAULTS["max_steps"]
        conversion.default("training_args.max_steps", default, "finetune_args.max_steps", "it beats num_train_epochs")
    elif steps is None:
        conversion.notes.append("finetune_args.max_steps is not given: num_train_epochs, which is, decides")
    elif unset and epochs is None:
        conversion.default(
            "training_args.num_train_epochs", DEFAULTS["num_train_epochs"], "finetune_args.num_train_epochs"
        )


def _unreadable(value: Any) -> str:
    if isinstance(value, Code):
        return COMPUTED
    return "give a mapping"
