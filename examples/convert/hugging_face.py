"""A training script with transformers: `finetune convert examples/convert/hugging_face.py` reads and never runs it."""

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

model = AutoModelForCausalLM.from_pretrained("s3://models/tiny-llama")
tokenizer = AutoTokenizer.from_pretrained("s3://models/tiny-llama")
dataset = load_dataset("json", data_files="s3://datasets/sentences.jsonl")["train"].train_test_split(test_size=0.1)


def tokenize(rows):
    return tokenizer(rows["text"], truncation=True, padding="max_length", max_length=64)


tokenized = dataset.map(tokenize, batched=True, remove_columns=["text"])
arguments = TrainingArguments(
    output_dir="./results",
    evaluation_strategy="epoch",
    save_strategy="epoch",
    learning_rate=1e-3,
    warmup_ratio=0.1,
    per_device_train_batch_size=8,
    num_train_epochs=2,
    weight_decay=0.01,
)
Trainer(model=model, args=arguments, train_dataset=tokenized["train"], eval_dataset=tokenized["test"]).train()
