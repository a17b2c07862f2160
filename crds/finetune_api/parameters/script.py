"""Document 004: a Hugging Face script that trains gpt2 on plain text, and the hyperparameters that it lists."""

from finetune_api.parameters.row import rows

_OPTIMIZER = "finetune_trainer.train.optimizer"
_MODEL = "finetune_trainer.train.fresh_model"
_CONVERT = "finetune_cli.converting.training_arguments"
_BATCH = "batchsize_conf.total_train_batch_size batchsize_conf.max_per_device_train_batch_size"
_SIZES = "with run_conf.from_scratch, since pretrained weights have their sizes"

ROWS = (
    *rows(
        "004",
        "Training Hyperparameters",
        {
            "Learning Rate": (None, "training_args.learning_rate", _OPTIMIZER),
            "Batch Size": (None, _BATCH, "finetune_api.batch"),
            "Epochs": (None, "training_args.num_train_epochs", "finetune_trainer.steps"),
            "Weight Decay": (None, "training_args.weight_decay", _OPTIMIZER),
            "Warmup Steps": (None, "training_args.warmup_steps", _OPTIMIZER),
            "Gradient Clipping": (None, "training_args.max_grad_norm", "finetune_trainer.train.loop"),
        },
    ),
    *rows(
        "004",
        "Model Hyperparameters",
        {
            "Number of Layers": (None, "run_conf.model_hyperparameters.num_hidden_layers", _MODEL, _SIZES),
            "Number of Attention Heads": (None, "run_conf.model_hyperparameters.num_attention_heads", _MODEL, _SIZES),
            "Hidden Size": (None, "run_conf.model_hyperparameters.hidden_size", _MODEL, _SIZES),
            "Dropout Rate": (None, "run_conf.model_hyperparameters.dropout", _MODEL, "of any model"),
            "Vocabulary Size": (None, "run_conf.model_hyperparameters.vocab_size", _MODEL, _SIZES),
        },
    ),
    *rows(
        "004",
        "Fine-Tuning Hyperparameters",
        {
            "Learning rate": (None, "training_args.learning_rate", _OPTIMIZER),
            "Batch size": (None, _BATCH, "finetune_api.batch"),
            "Epochs": (None, "training_args.num_train_epochs", "finetune_trainer.steps"),
            "Optimizer type": (None, "training_args.optim", _OPTIMIZER),
            "Scheduler type": (None, "training_args.lr_scheduler_type", _OPTIMIZER),
        },
    ),
    *rows("004", "model", {"model_name": ("gpt2", "basemodel", "finetune_trainer.download", "hf://gpt2")}),
    *rows(
        "004",
        "load_dataset",
        {
            "path": (
                "wikitext",
                "data_conf.training_data.datasets[].path",
                "finetune_trainer.data.sources",
                "hf://datasets/Salesforce/wikitext, where that dataset lies today",
            ),
            "name": (
                "wikitext-2-raw-v1",
                "data_conf.training_data.datasets[].config",
                "finetune_trainer.data.sources",
            ),
        },
    ),
    *rows(
        "004",
        "TrainingArguments",
        {
            "output_dir": ("./results", "", _CONVERT, "dropped: checkpoints go to the job's own volume"),
            "evaluation_strategy": (
                "epoch",
                "training_args.eval_strategy",
                "finetune_trainer.train.loop",
                "its name in today's transformers",
            ),
            "learning_rate": (5e-5, "training_args.learning_rate", _OPTIMIZER),
            "per_device_train_batch_size": (8, _BATCH, "finetune_api.batch", "total = GPUs x 8"),
            "per_device_eval_batch_size": (
                8,
                "batchsize_conf.per_device_eval_batch_size",
                "finetune_trainer.train.evaluate",
            ),
            "num_train_epochs": (3, "training_args.num_train_epochs", "finetune_trainer.steps"),
            "weight_decay": (0.01, "training_args.weight_decay", _OPTIMIZER),
            "warmup_steps": (500, "training_args.warmup_steps", _OPTIMIZER),
            "logging_dir": ("./logs", "", _CONVERT, "dropped: metrics go to MLflow, see tracking"),
            "logging_steps": (10, "training_args.logging_steps", "finetune_trainer.train.loop"),
            "save_strategy": ("epoch", "training_args.save_strategy", "finetune_trainer.train.loop"),
            "fp16": (True, "training_args.fp16", "finetune_trainer.train.distributed"),
        },
    ),
    *rows(
        "004",
        "Trainer",
        {
            "train_dataset": (
                "train",
                "data_conf.training_data.datasets[].split",
                "finetune_trainer.data.sources",
            ),
            "eval_dataset": (
                "validation",
                "data_conf.validation_data.datasets[].split",
                "finetune_trainer.data.sources",
            ),
        },
    ),
    *rows(
        "004",
        "save_pretrained",
        {
            "model": (
                "./fine_tuned_gpt2",
                "checkpointsRemote",
                "finetune_trainer.train.export",
                "always saved as checkpoint-final; checkpointsRemote copies it",
            ),
            "tokenizer": (
                "./fine_tuned_gpt2",
                "checkpointsRemote",
                "finetune_trainer.train.export",
                "saved beside the model",
            ),
        },
    ),
    *rows(
        "004",
        "tokenizer",
        {
            "text column": ("text", "clm_args.text_key", "finetune_trainer.data.text"),
            "truncation": (True, "clm_args.overlength", "finetune_trainer.data.text", "truncate"),
            "padding": ("max_length", "clm_args.padding", "finetune_trainer.data.collate"),
            "max_length": (128, "clm_args.block_size", "finetune_trainer.data.text"),
        },
    ),
)
