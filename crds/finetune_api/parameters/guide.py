"""Document 002: the items of a guide on hyperparameters, as settings."""

from finetune_api.parameters.row import rows

_OPTIMIZER = "finetune_trainer.train.optimizer"
_PRECISION = "finetune_trainer.train.distributed"

ROWS = (
    *rows(
        "002",
        "Batch Size",
        {
            "batch size": (
                None,
                "batchsize_conf.total_train_batch_size batchsize_conf.max_per_device_train_batch_size overrides.auto",
                "finetune_api.batch",
                "the largest per device that fits is found with overrides.auto: [per_device_batch]",
            )
        },
    ),
    *rows(
        "002",
        "Sequence Length",
        {
            "padding_side": ("left", "data_conf.padding_side", "finetune_trainer.data.collate"),
            "pad_token": (
                "unk_token",
                "data_conf.missing_pad_token_strategy",
                "finetune_trainer.data.tokenizing",
                "unk-repurpose",
            ),
            "padding": ("max_length", "sft_args.padding clm_args.padding", "finetune_trainer.data.collate"),
            "max_length": (20, "sft_args.max_seq_length clm_args.block_size", "finetune_trainer.data.preparing"),
        },
    ),
    *rows(
        "002",
        "Epochs and steps",
        {
            "gradient accumulation": (
                None,
                "batchsize_conf.total_train_batch_size",
                "finetune_api.batch",
                "total / (processes x batch per device)",
            ),
            "gradient checkpointing": (None, "training_args.gradient_checkpointing", "finetune_trainer.train.model"),
            "num_train_epochs": (None, "training_args.num_train_epochs", "finetune_trainer.steps"),
            "max_steps": (
                None,
                "training_args.max_steps",
                "finetune_trainer.steps",
                "the guide says that epochs win; max_steps does, as in transformers, and a notice says so",
            ),
        },
    ),
    *rows("002", "Learning Rate", {"learning rate": (None, "training_args.learning_rate", _OPTIMIZER)}),
    *rows(
        "002",
        "Schedulers",
        {
            "linear": (None, "training_args.lr_scheduler_type", _OPTIMIZER),
            "cosine": (None, "training_args.lr_scheduler_type", _OPTIMIZER),
            "constant": (None, "training_args.lr_scheduler_type", _OPTIMIZER, "with warmup: constant_with_warmup"),
            "warmup ratio": (0.1, "training_args.warmup_steps", _OPTIMIZER, "below 1, a share of all steps"),
            "warmup steps": (None, "training_args.warmup_steps", _OPTIMIZER),
        },
    ),
    *rows("002", "Regularisation", {"weight decay": (0, "training_args.weight_decay", _OPTIMIZER)}),
    *rows("002", "Optimiser", {"AdamW": (None, "training_args.optim", _OPTIMIZER, "adamw_torch, adamw_torch_fused")}),
    *rows(
        "002",
        "BFloat16 vs Float16",
        {
            "bfloat16": (None, "training_args.bf16 overrides.auto", _PRECISION, "auto: [precision] takes it if it can"),
            "float16": (
                None,
                "training_args.fp16 overrides.auto",
                _PRECISION,
                "auto: [precision] without bf16",
            ),
            "float32": (None, "training_args.bf16 training_args.fp16", _PRECISION, "neither"),
            "overflow": (
                None,
                "training_args.fp16",
                "finetune_trainer.train.loop",
                "a loss that is NaN or 0 is found and the job fails with what to set, or falls back",
            ),
        },
    ),
)
