"""Asks models for their most likely answers; the demo runs it as a child, so that torch never loads into the command.

Reads one JSON document from stdin, `{"download": {"from": uri, "to": directory, "endpoint": url}, "models": {label:
directory}, "prompts": [text], "maxNewTokens": n}`, and prints `{label: [answer, …]}`. Greedy decoding: the same model
and prompt give the same answer.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

SINGLE_TURN = "{prompt}\n"  # how a model that knows no chat template is asked


def main() -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    request = json.load(sys.stdin)
    download(request["download"])
    answers = {
        label: answer_all(directory, request["prompts"], request["maxNewTokens"])
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


def answer_all(directory: str, prompts: list[str], max_new_tokens: int) -> list[str]:
    """The greedy answer of the model in `directory` (a model, or an adapter whose base is known) to each prompt."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.eval()
    return [_answer(model, tokenizer, prompt, max_new_tokens) for prompt in prompts]


def _answer(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    import torch

    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
    else:
        text = SINGLE_TURN.format(prompt=prompt)
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
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
