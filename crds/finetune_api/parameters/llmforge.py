"""Document 001: the training YAML of Anyscale's LLMForge, and below it what its configuration takes besides."""

from finetune_api.parameters.row import REQUIRED, rows

_CONVERT = "finetune_cli.converting.llmforge"
_ADAPTERS = "finetune_trainer.train.adapters"
_OPTIMIZER = "finetune_trainer.train.optimizer"
_CHECKPOINTS = "finetune_trainer.timetable finetune_trainer.train.loop"

ROWS = (
    *rows(
        "001",
        "GPU resources",
        {
            "num_devices": (
                16,
                "finetuningGpus",
                "finetune_operator.plan.validate finetune_operator.builders.train_job",
                "GPUs of one node, since this version trains on one; more than a node has are capped",
            )
        },
    ),
    *rows(
        "001",
        "worker_resources",
        {
            "accelerator_type:A10G": (
                0.001,
                "acceleratorType",
                "finetune_operator.builders.request",
                "the part after the colon; the operator's settings say which node label it means. The number only asks "
                "Ray for such a node",
            )
        },
    ),
    *rows(
        "001",
        "Learning rate",
        {
            "learning_rate": (1e-4, "training_args.learning_rate", _OPTIMIZER),
            "lr_scheduler_type": (
                "cosine",
                "training_args.lr_scheduler_type",
                _OPTIMIZER,
                "cosine is the default there, linear here",
            ),
            "num_warmup_steps": (10, "training_args.warmup_steps", _OPTIMIZER, "10 is the default there"),
        },
    ),
    *rows(
        "001",
        "Batch size",
        {
            "train_batch_size_per_device": (
                16,
                "batchsize_conf.total_train_batch_size batchsize_conf.max_per_device_train_batch_size",
                "finetune_api.batch",
                "total = num_devices x train_batch_size_per_device",
            ),
            "eval_batch_size_per_device": (
                16,
                "batchsize_conf.per_device_eval_batch_size",
                "finetune_trainer.train.evaluate",
            ),
            "context_length": (
                512,
                "sft_args.max_seq_length sft_args.overlength",
                "finetune_trainer.data.preparing",
                "longer examples are truncated there: overlength truncate",
            ),
        },
    ),
    *rows(
        "001",
        "Number of epochs",
        {
            "num_epochs": (10, "training_args.num_train_epochs", "finetune_trainer.steps"),
            "min_update_steps": (
                100,
                "overrides.min_update_steps",
                "finetune_trainer.steps",
                "without num_epochs: epochs = ceil(min_update_steps / steps per epoch)",
            ),
            "min_num_update_steps": (
                None,
                "overrides.min_update_steps",
                "finetune_trainer.steps",
                "the document's other name of min_update_steps",
            ),
        },
    ),
    *rows(
        "001",
        "Validation and checkpointing",
        {
            "checkpoint_every_n_epochs": (
                5,
                "evaluation_conf.every_n_epochs",
                _CHECKPOINTS,
                "validation and checkpoint together",
            ),
            "max_num_checkpoints": (
                10,
                "evaluation_conf.max_events",
                _CHECKPOINTS,
                "without checkpoint_every_n_epochs, so many events over the whole run",
            ),
            "num_checkpoints_to_keep": (
                1,
                "evaluation_conf.keep_best",
                "finetune_trainer.train.checkpoint_folder",
                "the best by validation loss, beside the newest; without validation data save_total_limit",
            ),
        },
    ),
    *rows(
        "001",
        "lora_config",
        {
            "r": (8, "peft_conf.peft_kwargs.r", _ADAPTERS),
            "lora_alpha": (16, "peft_conf.peft_kwargs.lora_alpha", _ADAPTERS),
            "lora_dropout": (0.05, "peft_conf.peft_kwargs.lora_dropout", _ADAPTERS),
            "target_modules": (
                [
                    *("q_proj", "v_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
                    *("embed_tokens", "lm_head"),
                ],
                "peft_conf.peft_kwargs.target_modules",
                _ADAPTERS,
            ),
            "task_type": ("CAUSAL_LM", "peft_conf.task_type", _ADAPTERS),
            "modules_to_save": ([], "peft_conf.peft_kwargs.modules_to_save", _ADAPTERS),
            "bias": ("none", "peft_conf.peft_kwargs.bias", _ADAPTERS),
            "fan_in_fan_out": (False, "peft_conf.peft_kwargs.fan_in_fan_out", _ADAPTERS),
            "init_lora_weights": (True, "peft_conf.peft_kwargs.init_lora_weights", _ADAPTERS),
        },
    ),
    *rows(
        "001",
        "configuration",
        {
            "model_id": (REQUIRED, "basemodel", "finetune_trainer.download", "hf://<model_id>"),
            "train_path": (
                REQUIRED,
                "data_conf.training_data.datasets[].path",
                "finetune_trainer.data.files",
                "JSONL of messages",
            ),
            "valid_path": (None, "data_conf.validation_data.datasets[].path", "finetune_trainer.data.files"),
            "initial_base_model_ckpt_path": (
                None,
                "basemodel",
                "finetune_trainer.download",
                "the weights to begin with, instead of model_id's",
            ),
            "initial_adapter_model_ckpt_path": (
                None,
                "peft_conf.name_or_path",
                _ADAPTERS,
                "peft_type PRETRAINED_PEFT: the adapter brings its own configuration",
            ),
            "padding": ("longest", "sft_args.padding", "finetune_trainer.data.collate"),
            "gradient_accumulation_steps": (1, "batchsize_conf.total_train_batch_size", "finetune_api.batch"),
            "weight_decay": (None, "training_args.weight_decay", _OPTIMIZER),
            "gradient_checkpointing": (
                None,
                "training_args.gradient_checkpointing",
                "finetune_trainer.train.model",
            ),
            "flash_attention_2": (
                True,
                "run_conf.model_args.attn_implementation",
                "finetune_trainer.train.model",
                "true: flash_attention_2; not given: the model's own choice",
            ),
            "liger_kernel": (None, "", _CONVERT, "only enabled: false; Liger's kernels are not in this version"),
            "deepspeed": (
                None,
                "distributedType",
                "finetune_trainer.train.sharding",
                "stages 1 and 3 by the file's name, with torch's own means (ADR 0013); others are refused",
            ),
            "task": (
                "causal_lm",
                "method sft_args.train_on_completions_only",
                _CONVERT,
                "causal_lm: sft on all tokens; instruction_tuning: on completions only; preference_tuning: dpo; "
                "classification and vision are refused",
            ),
            "preference_tuning_config": (None, "dpo_args.beta", _CONVERT, "beta; the scaling of Ray is dropped"),
            "logger": (None, "tracking", "finetune_trainer.train.tracking", "mlflow only; wandb is refused"),
            "generation_config": (None, "data_conf.chat_template_name", _CONVERT, "a prompt format is refused"),
            "checkpoint_and_evaluation_frequency": (
                None,
                "evaluation_conf.every_n_epochs",
                _CHECKPOINTS,
                "the later name of checkpoint_every_n_epochs: a strategy of epochs, and a value",
            ),
            "classifier_config": (None, "", _CONVERT, "refused: classification cannot be trained"),
            "vision_language_config": (None, "", _CONVERT, "refused: images cannot be trained on"),
            "embedding_scaling_technique": (None, "", _CONVERT, "only none: the context is not extended"),
            "output_dir": (None, "", _CONVERT, "dropped: checkpoints go to the job's own volume"),
            "artifact_storage": (None, "", _CONVERT, "dropped: checkpointsRemote names where results go"),
            "dataset_size_scaling_factor": (None, "", _CONVERT, "dropped: it only scales Ray's data blocks"),
            "trainer_resources": (None, "", _CONVERT, "dropped: memoryPerGpu and cpusPerGpu ask for resources"),
        },
        beyond=True,
    ),
)
