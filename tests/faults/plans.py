"""Plans of faults: what goes wrong in one job's life, all of it decided by a seed, so that it can be replayed."""

from __future__ import annotations

import functools
import random
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import yaml

# What the pods of a life end with: exit codes of the tries of each role, in order. The last one repeats.
LIVES: dict[str, dict[str, tuple[int, ...]]] = {
    "success": {"download": (0,), "train": (0,)},
    "retry": {"download": (0,), "train": (70, 0)},
    "interrupted": {"download": (0,), "train": (75, 0)},
    "download-retry": {"download": (69, 0), "train": (0,)},
    "fatal": {"download": (0,), "train": (78,)},
    "bad-data": {"download": (65,), "train": (0,)},
}

# The writes of a life without faults, at most; the reference runs count them again and say if there are more.
WRITES = {"success": 14, "retry": 20, "interrupted": 20, "download-retry": 19, "fatal": 14, "bad-data": 9}

KILLS = ("kill-before", "kill-applied", "kill-after")
ANSWERS = ("409", "429", "500", "timeout", "drop-unapplied", "drop-applied")
WATCH = ("410", "close", "drop", "delay")
WATCHED = ("finetunejobs", "jobs", "pods")


@dataclass(frozen=True)
class WriteFault:
    """What happens to the n-th write about the job, counted from 0 over all operators' lives."""

    write: int
    do: str


@dataclass(frozen=True)
class WatchFault:
    """What happens to the n-th event about the job on the watches of a kind."""

    resource: str
    event: int
    do: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    seed: int
    life: str
    writes: tuple[WriteFault, ...] = ()
    watches: tuple[WatchFault, ...] = field(default=())

    @property
    def faults(self) -> int:
        return len(self.writes) + len(self.watches)

    def key(self) -> tuple[Any, ...]:
        """Two plans of the same key are the same plan."""
        return self.life, self.writes, self.watches

    def to_yaml(self) -> str:
        plain = asdict(self)
        plain["writes"] = [dict(one) for one in plain["writes"]]
        plain["watches"] = [dict(one) for one in plain["watches"]]
        return str(yaml.safe_dump(plain, sort_keys=False))


def from_yaml(text: str) -> Plan:
    raw = yaml.safe_load(text)
    return Plan(
        raw["seed"],
        raw["life"],
        tuple(WriteFault(**one) for one in raw.get("writes") or ()),
        tuple(WatchFault(**one) for one in raw.get("watches") or ()),
    )


@functools.cache
def singles() -> tuple[Plan, ...]:
    """Every write of every life with every fault, in an order in which any first hundred are of all sorts."""
    found = [
        Plan(0, life, (WriteFault(write, do),))
        for life, count in WRITES.items()
        for write in range(count)
        for do in (*KILLS, *ANSWERS)
    ]
    random.Random(0).shuffle(found)
    return tuple(found)


def plan_of(seed: int) -> Plan:
    """The plan of a seed. Two of three seeds, as far as they go, are a single fault; the others combine up to five."""
    alone = singles()
    index = seed // 3 * 2 + seed % 3
    if seed % 3 < 2 and index < len(alone):
        return replace(alone[index], seed=seed)
    dice = random.Random(seed)
    life = dice.choice(list(LIVES))
    watches = tuple(
        WatchFault(dice.choice(WATCHED), dice.randint(1, 8), do, 0.7 if do == "delay" else 0.0)
        for do in dice.sample(WATCH, dice.randint(0, 2))
    )
    chosen = sorted(dice.sample(range(WRITES[life]), dice.randint(0 if watches else 1, 3)))
    faults = tuple(WriteFault(write, dice.choice((*KILLS, *ANSWERS))) for write in chosen)
    return Plan(seed, life, faults, watches)
