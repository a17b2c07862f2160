"""A job of Lamini's, as its Python client is called: `finetune convert examples/convert/lamini.py` reads it."""

from lamini import Lamini

llm = Lamini(model_name="s3://models/tiny-llama")
llm.tune(
    data_or_dataset_id="s3://datasets/pairs.jsonl",
    finetune_args={
        "max_finetuning_examples": 40,
        "max_steps": 60,
        "gradient_accumulation_steps": 2,
        "max_length": 256,
        "r_value": 16,
        "optim": "adamw_hf",
    },
    gpu_config={"gpus": 1, "nodes": 1},
)
