"""Asks models for their most likely answers; the demo runs it as a child, so that torch never loads into the command.

Reads one JSON document from stdin, `{"download": {"from": uri, "to": directory, "endpoint": url}, "models": {label:
directory}, "template": directory, "prompts": [text], "maxNewTokens": n}`, and prints `{label: [answer, …]}`. All models
are asked in the chat format of `template`, with greedy decoding: the same model and prompt give the same answer.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    request = json.load(sys.stdin)
    download(request["download"])
    answers = {
        label: answer_all(directory, request["template"], request["prompts"], request["maxNewTokens"])
        for label, directory in request["models"].items()
    }
    json.dump(answers, sys.stdout)
    return 0


def download(source: dict[str, str]) -> None:
    """Copy the folder `from` (s3://…) to the directory `to`. The demo's bucket takes any credentials."""
    import fsspec

    os.environ.setdefault("AWS_ACCESS_KEY_ID", "demo")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "demo-secret")
    files = fsspec.filesystem("s3", endpoint_url=source["endpoint"])
    files.get(source["from"].rstrip("/") + "/", source["to"].rstrip("/") + "/", recursive=True)


def answer_all(directory: str, template_of: str, prompts: list[str], max_new_tokens: int) -> list[str]:
    """The greedy answer of the model in `directory` to each prompt, asked in the chat format of `template_of`."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = transformers.AutoTokenizer.from_pretrained(template_of).chat_template
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.eval()
    return [_answer(model, tokenizer, prompt, max_new_tokens) for prompt in prompts]


def _answer(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    import torch

    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


if __name__ == "__main__":
    sys.exit(main())
