"""Makes the quickstart's base model: a small Llama with a byte-level BPE tokenizer, pre-trained on plain sentences.

    python examples/make_base_model.py --out DIR     # under a minute on 2 cores; at once if DIR holds it already

It is trained on the sentences of the chatterbot corpus one by one, without who answered what: a base model that knows
words and no dialogue. The result is what every Llama checkpoint is (config.json, safetensors, tokenizer.json), so that
the demo needs no download. Deterministic on one kind of CPU; DIR/base-model.json says what it was made from.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # also when imported, not run
from make_dialogues import conversations, corpus_folder

STAMP = "base-model.json"
BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
SPECIAL_TOKENS = [BOS, EOS, PAD, "<|im_start|>", "<|im_end|>"]
VOCABULARY = 2048
BLOCK, BATCH, EPOCHS, LEARNING_RATE = 128, 16, 4, 3e-3
THREADS = 2  # fixed, since another number of threads adds up in another order
SEED = 20


def fingerprint() -> str:
    """Changes when the text, this recipe or the libraries that run it do."""
    digest = hashlib.sha256()
    for path in (Path(__file__), *sorted(corpus_folder().glob("*.yml"))):
        digest.update(path.read_bytes())
    for package in ("torch", "transformers", "tokenizers"):
        digest.update(f"{package}={version(package)}\n".encode())
    return digest.hexdigest()


def sentences() -> list[str]:
    """Every statement of the corpus once, in an order that tells nothing about dialogues."""
    return sorted({statement for statements in conversations() for statement in statements if statement})


def train_tokenizer(lines: list[str]):
    """A byte-level BPE tokenizer that begins a text with BOS, as Llama 3's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(lines, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=512
    )


def make_model(tokenizer):
    """A Llama of 1.3 million weights, initialised from SEED."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def blocks(tokenizer, lines: list[str], epoch: int):
    """The sentences in a new order, joined and cut into blocks of BLOCK tokens."""
    import torch

    order = list(lines)
    random.Random(f"{SEED}-{epoch}").shuffle(order)
    ids = [token for line in order for token in [*tokenizer(line)["input_ids"], tokenizer.eos_token_id]]
    whole = len(ids) // BLOCK * BLOCK
    return torch.tensor(ids[:whole]).view(-1, BLOCK)


def pretrain(model, tokenizer, lines: list[str]) -> float:
    """Plain next-token training; returns the last epoch's mean loss."""
    import torch

    epochs = [blocks(tokenizer, lines, epoch).split(BATCH) for epoch in range(EPOCHS)]
    total = sum(map(len, epochs))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=total, pct_start=0.1)
    model.train()
    mean = float("nan")
    for number, batches in enumerate(epochs, start=1):
        losses = []
        for batch in batches:
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        print(f"  epoch {number}/{EPOCHS}: loss {mean:.3f}", flush=True)
    return mean


def make(out: Path) -> bool:
    """Makes the model unless `out` holds it already; returns whether it was made."""
    wanted = fingerprint()
    stamp = out / STAMP
    if stamp.is_file() and json.loads(stamp.read_text())["fingerprint"] == wanted:
        return False
    import torch

    torch.set_num_threads(THREADS)
    lines = sentences()
    print(f"pre-training a small Llama on {len(lines)} sentences", flush=True)
    tokenizer = train_tokenizer(lines)
    model = make_model(tokenizer)
    loss = pretrain(model, tokenizer, lines)
    aside = out.with_name(f"{out.name}.partial-{os.getpid()}")
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    (aside / STAMP).write_text(json.dumps({"fingerprint": wanted, "loss": round(loss, 4)}, indent=1) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(aside, out)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="A small Llama base model, made from text on this machine.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    made = make(out)
    print(f"{out}: made in {time.monotonic() - began:.0f} s" if made else f"{out}: is here already")


if __name__ == "__main__":
    main()
