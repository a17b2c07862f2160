# Every argument of document 000 with its default, as a call of Lamini's Python client.
from lamini import Lamini

llm = Lamini(model_name="meta-llama/Meta-Llama-3.1-8B-Instruct")
llm.tune(
    data_or_dataset_id="faqs.jsonl",
    finetune_args={
        "max_finetuning_examples": 30,
        "max_steps": 100,
        "gradient_accumulation_steps": 2,
        "learning_rate": 9.0e-4,
        "num_train_epochs": 10,
        "save_steps": 60,
        "max_length": 2048,
        "optim": "adafactor",
        "r_value": 64,
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
    },
    gpu_config={"gpus": 1, "nodes": 1},
)
