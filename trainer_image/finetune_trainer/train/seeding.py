"""Random numbers as a function of (seed, step, rank): a resumed step draws what the uninterrupted run drew there."""

import hashlib
import random

import torch


def seed_for(seed: int, *parts: object) -> int:
    """A 63-bit seed that depends on all parts."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_all(value: int) -> None:
    """Seeds Python's and torch's generators, on every device."""
    random.seed(value)
    torch.manual_seed(value)
