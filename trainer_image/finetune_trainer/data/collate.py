"""Examples to one padded batch. Padding is masked by position, never by token id: a tokenizer's pad may be its BOS or
EOS, which also stand inside the text and must be attended to and learnt there."""

from collections.abc import Sequence
from typing import Any

from finetune_trainer.data.example import IGNORED, Example


def collate(
    examples: Sequence[Example], pad_input_id: int, padding_side: str, pad_to: int | None = None
) -> dict[str, Any]:
    """Int64 tensors input_ids, labels and attention_mask of shape (len(examples), length).

    length is the longest example's, or `pad_to` where given; a longer example is an error, never cut. If one of the
    examples is packed, position_ids too, which begin anew at each document: they tell a causal model (called without
    attention_mask) which tokens belong together. Padding is then at position 0, so that no token attends to it.
    """
    import torch  # here, since the download pod imports this package and must not load torch

    longest = max(len(example) for example in examples)
    length = longest if pad_to is None else pad_to
    if longest > length:
        raise ValueError(f"an example of {longest} tokens does not fit into pad_to={pad_to}")
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side must be left or right, not {padding_side!r}")
    shape = (len(examples), length)
    batch = {
        "input_ids": torch.full(shape, pad_input_id, dtype=torch.long),
        "labels": torch.full(shape, IGNORED, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
    }
    if any(len(example.starts) > 1 for example in examples):
        batch["position_ids"] = torch.zeros(shape, dtype=torch.long)
    for row, example in enumerate(examples):
        start = 0 if padding_side == "right" else length - len(example)
        span = slice(start, start + len(example))
        batch["input_ids"][row, span] = torch.tensor(example.input_ids)
        batch["labels"][row, span] = torch.tensor(example.labels)
        batch["attention_mask"][row, span] = 1
        if "position_ids" in batch:
            ends = (*example.starts[1:], len(example))
            documents = zip(example.starts, ends, strict=True)
            batch["position_ids"][row, span] = torch.cat([torch.arange(end - begin) for begin, end in documents])
    return batch
