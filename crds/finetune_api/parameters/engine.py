"""Document 003: the config schema of the engine. Its keys are ours, in the same sections: a row says where they act."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.parameters.row import REQUIRED, Parameter
from finetune_api.peft_types import PEFT_TYPES

_ADAPTERS = "finetune_trainer.train.adapters"
_ASSEMBLE = "finetune_trainer.data.assembling"
_CHECK = "finetune_api.support"
_JOB = "finetune_trainer.data.from_job_config"
_MODEL = "finetune_trainer.train.model"
_QUANT = "finetune_trainer.train.quantization"
_TRACKING = "finetune_trainer.train.tracking"
_TEMPLATES = "finetune_trainer.data.templates"
_DOWNLOAD = "finetune_trainer.download"
_DISCARDED = "today's transformers ignores it: refused unless it is the default"
_DATA_TYPE = {"data_type": "follows from method"}


def _definition(
    section: str,
    path: str,
    where: str,
    keys: Mapping[str, Any],
    how: Mapping[str, str] | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> Iterator[Parameter]:
    """Rows of key -> default; what lies not in `where` is named in `elsewhere`, what is to be said in `how`."""
    for key, default in keys.items():
        ours = f"{path}.{key}" if path else key
        module = (elsewhere or {}).get(key, where)
        yield Parameter("003", section, key, default, (ours,), (how or {}).get(key, ""), tuple(module.split()))


def _values(section: str, ours: str, where: str, values: tuple[str, ...], how: str = "") -> Iterator[Parameter]:
    """Rows of the values of an enumeration."""
    for value in values:
        yield Parameter("003", section, value, None, (ours,), how, (where,))


def _peft_type(name: str) -> str:
    row = PEFT_TYPES[name]
    if row.refused:
        return f"refused: {row.refused}"
    return ", ".join((row.what.rstrip("."), "merges" if row.merges else "cannot be merged into the base model"))


ROWS: tuple[Parameter, ...] = (
    *_definition(
        "FineTuneJobSpec",
        "",
        "finetune_api.spec",
        {
            "method": "sft",
            "data_conf": REQUIRED,
            "training_args": REQUIRED,
            "overrides": {"num_train_epochs": None, "lr_multiplier": 1.0, "lr_batch_size_scaling": "none"},
            "batchsize_conf": REQUIRED,
            "peft_conf": REQUIRED,
            "run_conf": REQUIRED,
            "tracking": None,
            "quant_conf": {"quantization_type": "no-quantization"},
            "sft_args": REQUIRED,
        },
        {
            "method": "also dpo (as the engine has it) and clm; memory is refused in this version",
            "training_args": "every key of transformers.TrainingArguments: docs/reference/training-args.md",
            "quant_conf": "absent means none; present without a type means bits-and-bytes",
            "sft_args": "required with method sft",
        },
        {
            "training_args": "finetune_api.training_args",
            "overrides": "finetune_api.overrides",
            "batchsize_conf": "finetune_api.batch",
            "peft_conf": _ADAPTERS,
            "quant_conf": _QUANT,
            "run_conf": "finetune_trainer.train.run",
            "tracking": _TRACKING,
            "data_conf": _JOB,
            "sft_args": "finetune_trainer.data.preparing",
        },
    ),
    *_definition(
        "AutoSplitDataInput",
        "data_conf.validation_data",
        "finetune_trainer.data.splitting",
        {"type": REQUIRED, "data_type": "ChatConversation", "ratio": 0.2, "seed": 1289525893},
        _DATA_TYPE,
        {"data_type": "finetune_api.rules"},
    ),
    *_definition(
        "BatchsizeConfig",
        "batchsize_conf",
        "finetune_api.batch",
        {
            "total_train_batch_size": REQUIRED,
            "max_per_device_train_batch_size": REQUIRED,
            "per_device_eval_batch_size": None,
        },
        elsewhere={"per_device_eval_batch_size": "finetune_api.batch finetune_trainer.train.evaluate"},
    ),
    *_definition(
        "BnBQuantizationConfig",
        "quant_conf",
        _QUANT,
        {
            "quantization_type": "bits-and-bytes",
            "load_in_8bit": False,
            "load_in_4bit": False,
            "llm_int8_threshold": 6.0,
            "llm_int8_skip_modules": None,
            "llm_int8_enable_fp32_cpu_offload": False,
            "llm_int8_has_fp16_weight": False,
            "bnb_4bit_compute_dtype": None,
            "bnb_4bit_quant_type": "fp4",
            "bnb_4bit_use_double_quant": False,
            "bnb_4bit_quant_storage": None,
        },
    ),
    *_definition(
        "ChatTrainValidConfig",
        "data_conf",
        _JOB,
        {
            "training_data": REQUIRED,
            "validation_data": REQUIRED,
            "chat_template_name": "mistral-with-system",
            "padding_side": "right",
            "missing_pad_token_strategy": "bos-repurpose",
        },
        elsewhere={
            "training_data": _ASSEMBLE,
            "validation_data": _ASSEMBLE,
            "chat_template_name": _TEMPLATES,
            "padding_side": "finetune_trainer.data.collate",
            "missing_pad_token_strategy": "finetune_trainer.data.tokenizing finetune_trainer.data.collate",
        },
    ),
    *_definition(
        "ConcatenationDataInput",
        "data_conf.training_data",
        _ASSEMBLE,
        {"type": REQUIRED, "datasets": REQUIRED, "data_type": "ChatConversation"},
        {**_DATA_TYPE, "type": "also of validation_data", "datasets": "also of validation_data"},
        {"data_type": "finetune_api.rules"},
    ),
    *_definition(
        "DatasetDefinition",
        "data_conf.training_data.datasets[]",
        "finetune_trainer.data.files",
        {"path": REQUIRED},
        {"path": "a path, or hf://, s3://, gs://, az://, https://, pvc://, configmap://, dataset://"},
    ),
    *_definition(
        "FinetuningTrackingConfig",
        "tracking",
        _TRACKING,
        {
            "mlflow_server_uri": REQUIRED,
            "experiment_name": REQUIRED,
            "run_id": None,
            "run_name": None,
            "hf_mlflow_log_artifacts": "False",
        },
    ),
    *_definition(
        "GenericPeftConfig",
        "peft_conf",
        _ADAPTERS,
        {"peft_type": REQUIRED, "task_type": "CAUSAL_LM", "peft_kwargs": None},
        {"task_type": "only CAUSAL_LM can be trained", "peft_kwargs": "checked against the pinned PEFT's own configs"},
        {"peft_kwargs": "finetune_api.peft_kwargs finetune_trainer.train.adapters"},
    ),
    *_definition(
        "ModelArguments",
        "run_conf.model_args",
        _MODEL,
        {
            "torch_dtype": "auto",
            "device_map": None,
            "max_memory": None,
            "low_cpu_mem_usage": False,
            "attn_implementation": None,
            "offload_folder": None,
            "offload_state_dict": None,
            "offload_buffers": None,
            "use_cache": True,
            "cache_dir": None,
            "force_download": False,
            "local_files_only": False,
            "proxies": None,
            "resume_download": False,
            "revision": "main",
            "code_revision": "main",
            "subfolder": None,
            "token": None,
            "use_safetensors": None,
            "variant": None,
            "trust_remote_code": False,
        },
        {
            "device_map": "auto, its default in RunConfig: each process holds the whole model on its own device",
            "max_memory": "refused: each process holds the whole model",
            "low_cpu_mem_usage": _DISCARDED,
            "offload_state_dict": _DISCARDED,
            "offload_folder": "refused: weights are not offloaded while training",
            "offload_buffers": "refused: weights are not offloaded while training",
            "cache_dir": "refused: the operator's model cache is used",
            "force_download": "refused: the model is downloaded once per revision",
            "local_files_only": "refused: the model is downloaded before training",
            "proxies": "refused: httpProxy, httpsProxy and noProxy of spec",
            "resume_download": "no effect, with a notice: downloads always resume",
            "code_revision": "refused: code is taken at revision, like the weights",
            "token": "refused: hfTokenSecret",
            "trust_remote_code": "with a pinned revision, where the operator's settings allow it",
        },
        {
            **dict.fromkeys(("max_memory", "low_cpu_mem_usage", "offload_state_dict", "offload_folder"), _CHECK),
            **dict.fromkeys(("offload_buffers", "cache_dir", "force_download", "local_files_only"), _CHECK),
            **dict.fromkeys(("proxies", "code_revision", "token"), _CHECK),
            "trust_remote_code": f"finetune_api.rules_security {_MODEL}",
            "device_map": f"finetune_api.placement {_MODEL}",
            "resume_download": "finetune_api.resolve",
            "revision": _DOWNLOAD,
        },
    ),
    *_definition("NoPeftConfig", "peft_conf", _ADAPTERS, {"peft_type": REQUIRED}, {"peft_type": "NO_PEFT"}),
    *_definition(
        "NoQuantizationConfig",
        "quant_conf",
        _QUANT,
        {"quantization_type": "no-quantization"},
    ),
    *_definition(
        "NoneDataInput",
        "data_conf.validation_data",
        _ASSEMBLE,
        {"type": REQUIRED, "data_type": "ChatConversation"},
        _DATA_TYPE,
        {"data_type": "finetune_api.rules"},
    ),
    *_definition(
        "Overrides",
        "overrides",
        "finetune_api.overrides",
        {"num_train_epochs": None, "lr_multiplier": 1.0, "lr_batch_size_scaling": "none"},
        dict.fromkeys(("num_train_epochs", "lr_multiplier", "lr_batch_size_scaling"), "also at the top of spec"),
        {"num_train_epochs": "finetune_api.resolve"},
    ),
    *_definition(
        "PretrainedPeftConfig",
        "peft_conf",
        _ADAPTERS,
        {"peft_type": REQUIRED, "name_or_path": REQUIRED},
        {"peft_type": "PRETRAINED_PEFT"},
        {"name_or_path": f"finetune_trainer.adapter_source {_ADAPTERS}"},
    ),
    *_definition(
        "RunConfig",
        "run_conf",
        _MODEL,
        {
            "model": "/local_resources/basemodel",
            "model_args": {
                "torch_dtype": "auto",
                "device_map": "auto",
                "max_memory": None,
                "low_cpu_mem_usage": False,
                "attn_implementation": None,
                "offload_folder": None,
                "offload_state_dict": None,
                "offload_buffers": None,
                "use_cache": True,
                "cache_dir": None,
                "force_download": False,
                "local_files_only": False,
                "proxies": None,
                "resume_download": False,
                "revision": "main",
                "code_revision": "main",
                "subfolder": None,
                "token": None,
                "use_safetensors": None,
                "variant": None,
                "trust_remote_code": False,
            },
            "tokenizer": None,
            "use_fast_tokenizer": True,
            "resume_from_checkpoint": False,
            "final_checkpoint_name": "checkpoint-final",
        },
        {
            "model": "only the default: basemodel names the model",
            "use_fast_tokenizer": _DISCARDED,
            "resume_from_checkpoint": "of the first attempt; later ones always resume",
            "final_checkpoint_name": "only the default",
        },
        {
            **dict.fromkeys(("model", "use_fast_tokenizer", "final_checkpoint_name"), _CHECK),
            "tokenizer": "finetune_trainer.tokenizer_source",
            "resume_from_checkpoint": "finetune_trainer.train.resume",
        },
    ),
    *_definition(
        "SFTArguments",
        "sft_args",
        "finetune_trainer.data.preparing",
        {
            "max_seq_length": 2048,
            "save_name_if_new_basemodel": "checkpoint-new-basemodel",
            "train_on_completions_only": False,
        },
        {"max_seq_length": "longer sequences are left out; sft_args.overlength truncates or packs them instead"},
        {
            "save_name_if_new_basemodel": "finetune_trainer.train.export",
            "train_on_completions_only": "finetune_trainer.data.rendering",
        },
    ),
    *_definition(
        "WeightedDatasetDefinition",
        "data_conf.training_data.datasets[]",
        "finetune_trainer.data.mixing",
        {"path": REQUIRED, "sampling_weight": 1.0},
        elsewhere={"path": "finetune_trainer.data.files"},
    ),
    *_definition(
        "WeightedMixDataInput",
        "data_conf.training_data",
        "finetune_trainer.data.mixing",
        {"type": REQUIRED, "datasets": REQUIRED, "data_type": "ChatConversation", "seed": 19851243},
        _DATA_TYPE,
        {"data_type": "finetune_api.rules"},
    ),
    *_values(
        "chat_template_name",
        "data_conf.chat_template_name",
        _TEMPLATES,
        ("mistral-with-system", "chat-ml", "poro", "keep-original", "simplified-llama31"),
    ),
    *_values(
        "MissingPadTokenStrategy",
        "data_conf.missing_pad_token_strategy",
        "finetune_trainer.data.tokenizing",
        ("eos-repurpose", "bos-repurpose", "unk-repurpose", "unk-convert-to-eos"),
    ),
    *(
        Parameter("003", "PeftType", name, None, ("peft_conf.peft_type",), _peft_type(name), (_ADAPTERS,))
        for name in (
            *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "LORA", "ADALORA", "BOFT"),
            *("ADAPTION_PROMPT", "IA3", "LOHA", "LOKR", "OFT", "POLY", "LN_TUNING", "VERA", "FOURIERFT", "XLORA"),
            *("HRA", "VBLORA"),
        )
    ),
    *_values("TaskType", "peft_conf.task_type", _CHECK, ("CAUSAL_LM",)),
    *_values(
        "TaskType",
        "peft_conf.task_type",
        _CHECK,
        ("SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"),
        "refused: only CAUSAL_LM can be trained",
    ),
)
