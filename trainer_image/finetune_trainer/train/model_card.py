"""The README.md of an exported model: what it is, how it was made, how to use it."""

import math
from dataclasses import dataclass
from typing import Any

from finetune_api.locations import parse_location

LARGEST = 700  # a loss whose exponential is still a number


@dataclass(frozen=True)
class Card:
    """The facts of a card. losses: training loss first and last, evaluation loss last; None where unknown."""

    name: str
    base: str
    data: tuple[str, ...]
    method: str
    adapter: str | None
    settings: dict[str, Any]
    first_loss: float | None
    loss: float | None
    eval_loss: float | None


def model_card(card: Card, kind: str) -> str:
    """Markdown with the hub's front matter. kind: adapter, merged or model."""
    location = parse_location(card.base)
    header = [
        "---",
        *([f"base_model: {location.container}"] if location.scheme == "hf" else []),
        f"library_name: {'peft' if kind == 'adapter' else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags:",
        "- finetune-operator",
        f"- {card.method}",
        *([f"- {card.adapter.lower()}"] if card.adapter else []),
        "---",
    ]
    what = {
        "adapter": f"A {card.adapter} adapter for `{card.base}`.",
        "merged": f"`{card.base}` with a {card.adapter} adapter merged into it.",
        "model": f"`{card.base}`, all weights fine-tuned.",
    }[kind]
    body = [f"# {card.name}", "", f"{what} Trained by finetune-operator, method {card.method}.", ""]
    body += ["## Training", "", "| | |", "|---|---|"]
    body += [f"| {name} | {_cell(value)} |" for name, value in card.settings.items() if value is not None]
    losses = {
        "first training loss": card.first_loss,
        "last training loss": card.loss,
        "evaluation loss": card.eval_loss,
    }
    if card.method == "clm" and card.eval_loss is not None and card.eval_loss < LARGEST:
        losses["evaluation perplexity"] = math.exp(card.eval_loss)
    body += [f"| {name} | {value:.4f} |" for name, value in losses.items() if value is not None]
    usage = _usage(kind, plain=card.method == "clm")
    body += ["", "Data:", *(f"- `{path}`" for path in card.data), "", "## Use", "", "```python", *usage, "```"]
    return "\n".join([*header, "", *body]) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _usage(kind: str, plain: bool) -> list[str]:
    """plain: the model goes on with a text; otherwise it answers a message."""
    load = "AutoPeftModelForCausalLM" if kind == "adapter" else "AutoModelForCausalLM"
    asked = [
        'messages = [{"role": "user", "content": "Hello!"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
        ")",
    ]
    return [
        *(["from peft import AutoPeftModelForCausalLM"] if kind == "adapter" else []),
        "from transformers import " + ("AutoTokenizer" if kind == "adapter" else "AutoModelForCausalLM, AutoTokenizer"),
        "",
        'folder = "."  # where this file lies',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = {load}.from_pretrained(folder)",
        *(['inputs = tokenizer("Once upon a time", return_tensors="pt")'] if plain else asked),
        "answer = model.generate(**inputs, max_new_tokens=64)",
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
