"""Document 000: the arguments of Lamini's `tune`, with its defaults."""

from finetune_api.parameters.row import REQUIRED, rows

_CONVERT = "finetune_cli.converting.lamini"
_SETTINGS = "finetune_trainer.train.settings"
_LATER = "Memory Tuning is not in this version; the defaults and the form without experts are accepted, others refused"

ROWS = (
    *rows(
        "000",
        "finetune_args",
        {
            "max_finetuning_examples": (None, "data_conf.max_examples", "finetune_trainer.data.assembling"),
            "max_steps": (
                100,
                "training_args.max_steps",
                "finetune_trainer.steps",
                "beats num_train_epochs, unless only that is given; 0 and below: not set",
            ),
            "gradient_accumulation_steps": (
                2,
                "batchsize_conf.total_train_batch_size",
                "finetune_api.batch",
                "total = gpus x nodes x 1 x gradient_accumulation_steps: Lamini's batch per device is 1, packed",
            ),
            "learning_rate": (9.0e-4, "training_args.learning_rate", "finetune_trainer.train.optimizer"),
            "num_train_epochs": (10, "training_args.num_train_epochs", "finetune_trainer.steps", "max_steps beats it"),
            "save_steps": (60, "training_args.save_steps", "finetune_trainer.timetable finetune_trainer.train.loop"),
            "max_length": (
                2048,
                "sft_args.max_seq_length sft_args.overlength",
                "finetune_trainer.data.preparing",
                "examples are packed to this length: overlength pack",
            ),
            "optim": (
                "adafactor",
                "training_args.optim",
                "finetune_trainer.train.optimizer",
                "adamw_hf and adamw_apex_fused become adamw_torch_fused; adamw_anyprecision, which needs torchdistx, "
                "becomes adamw_torch: the same arithmetic at its default types",
            ),
            "r_value": (
                64,
                "peft_conf.peft_kwargs.r peft_conf.peft_kwargs.lora_alpha",
                "finetune_trainer.train.adapters",
                "LoRA on all linear layers; lora_alpha = r_value, so that the adapter's scale is 1 at any rank",
            ),
            **{
                key: (default, "", _CONVERT, _LATER)
                for key, default in {
                    "index_method": "IndexIVFPQ",
                    "index_k": 2,
                    "index_max_size": 65536,
                    "index_pq_m": 8,
                    "index_pq_nbits": 8,
                    "index_ivf_nlist": 2048,
                    "index_ivf_nprobe": 48,
                    "index_hnsw_m": 32,
                    "index_hnsw_efConstruction": 16,
                    "index_hnsw_efSearch": 8,
                }.items()
            },
        },
    ),
    *rows(
        "000",
        "gpu_config",
        {
            "gpus": (
                1,
                "finetuningGpus",
                "finetune_operator.plan.validate finetune_operator.builders.train_job",
                "per node; more than the operator's settings allow on a node is capped, with a condition",
            ),
            "nodes": (1, "nodes", "finetune_trainer.rendezvous", "one pod each; the total batch is spread over all"),
        },
    ),
    *rows(
        "000",
        "data_or_dataset_id",
        {
            "data_or_dataset_id": (
                REQUIRED,
                "data_conf.training_data.datasets[].path data_conf.input_key data_conf.output_key",
                "finetune_trainer.data.files finetune_trainer.data.rows",
                "a JSONL or CSV file of input and output; a dataset id becomes dataset://id",
            )
        },
    ),
    *rows(
        "000",
        "tune",
        {
            "model_name": (None, "basemodel", "finetune_trainer.download", "a Hugging Face id: hf://org/name"),
            "input_key": ("input", "data_conf.input_key", "finetune_trainer.data.rows"),
            "output_key": ("output", "data_conf.output_key", "finetune_trainer.data.rows"),
        },
        beyond=True,
    ),
)
