"""The reference's log probabilities of all answers, computed once before training and kept beside the checkpoints' job.

They stand in a file of the job's volume, so that a resumed run goes on with the very same numbers; on a fresh volume
they are computed again, from the same weights. Pairs that a mix repeats are computed once.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune_trainer.data.preference import Preference
from finetune_trainer.train.distributed import World, autocast
from finetune_trainer.train.loss import to_device
from finetune_trainer.train.preference import PreferenceLearning

FILE = "reference-log-probs.safetensors"
LogProbs = list[tuple[float, float]]


def log_probs_of(
    objective: PreferenceLearning,
    parts: Sequence[Sequence[Preference]],
    *,
    folder: Path,
    identity: dict[str, Any],
    batch_size: int,
    world: World,
    precision: str,
    beat: Callable[[], None] = lambda: None,
) -> list[LogProbs]:
    """(chosen, rejected) of each pair of each part, on every rank. identity: what the model was made of."""
    pairs = list({id(pair): pair for part in parts for pair in part}.values())
    key = _key(pairs, identity)
    found = world.from_main(_read(folder / FILE, key) if world.main else None)
    if found is None:
        found = _compute(objective, pairs, batch_size, world, precision, beat)
        if world.main:
            _write(folder / FILE, key, found)
    by_pair = {id(pair): (chosen, rejected) for pair, (chosen, rejected) in zip(pairs, found, strict=True)}
    return [[by_pair[id(pair)] for pair in part] for part in parts]


def _compute(
    objective: PreferenceLearning,
    pairs: Sequence[Preference],
    batch_size: int,
    world: World,
    precision: str,
    beat: Callable[[], None],
) -> list[list[float]]:
    examples = objective.examples(pairs)
    order = sorted(range(len(pairs)), key=lambda row: (-examples.lengths[row], row))
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    told = torch.zeros(len(pairs), 2, dtype=torch.float64)
    for rows in batches[world.rank :: world.size]:
        batch = to_device(examples.collate([examples[row] for row in rows]), world.device)
        with autocast(world.device, precision):
            log_probs = objective.reference_log_probs(batch)
        told[rows] = torch.stack(log_probs.chunk(2), dim=1).double().cpu()
        beat()
    summed = world.sum(told.flatten().tolist())  # each pair is one process's: the others add 0
    return [summed[at : at + 2] for at in range(0, len(summed), 2)]


def _key(pairs: Sequence[Preference], identity: dict[str, Any]) -> str:
    """Changes with whatever changes the numbers."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
    for pair in pairs:
        for side in (pair.chosen, pair.rejected):
            digest.update(repr((side.input_ids, side.labels)).encode())
    return digest.hexdigest()


def _read(path: Path, key: str) -> list[list[float]] | None:
    """What an earlier attempt computed, if it was of the same model and pairs."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            values: list[list[float]] = file.get_tensor("log_probs").tolist()
            return values
    except (OSError, SafetensorError):
        return None


def _write(path: Path, key: str, log_probs: list[list[float]]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    save_file({"log_probs": torch.tensor(log_probs, dtype=torch.float64)}, aside, metadata={"key": key})
    aside.replace(path)
