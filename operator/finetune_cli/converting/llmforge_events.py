"""When LLMForge validates and saves: both together, as an event of evaluation_conf, where there is validation data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finetune_cli.converting.conversion import Conversion, mapping, show, whole

EVERY, MOST, KEEP = "checkpoint_every_n_epochs", "max_num_checkpoints", "num_checkpoints_to_keep"
FREQUENCY = "checkpoint_and_evaluation_frequency"  # the later name of EVERY
WITHOUT = "there is no validation data"


def put_events(take: Callable[[str], Any], conversion: Conversion) -> None:
    """Validation and checkpoint together; without validation data checkpoints alone."""
    every, most, keep = (_number(key, take(key), conversion) for key in (EVERY, MOST, KEEP))
    often = take(FREQUENCY)
    if often is not None:
        frequency = mapping(often)
        if frequency.get("strategy") != "epochs":
            fix = "give epochs, or remove it and set eval_steps and save_steps of training_args"
            conversion.refuse(FREQUENCY, often, fix)
        elif number := whole(conversion, FREQUENCY, frequency.get("value", frequency.get("frequency"))):
            conversion.notes.append(f"{FREQUENCY}: {show(often)} means {EVERY}: {number}")
            every = number if every is None else every
    # --validation may give the data that the file lacks.
    conversion.later.append(lambda: _put_events(every, most, keep, conversion))


def _number(key: str, value: Any, conversion: Conversion) -> int | None:
    return None if value is None else whole(conversion, key, value)


def _put_events(every: int | None, most: int | None, keep: int | None, conversion: Conversion) -> None:
    if conversion.get("data_conf.validation_data.type") == "NONE":
        _checkpoints_alone(every, most, keep, conversion)
        return
    if every is not None:
        conversion.put("evaluation_conf.every_n_epochs", every, EVERY, every)
    if most is not None:
        conversion.put("evaluation_conf.max_events", most, MOST, most)
    if every is None and most is None:
        conversion.default("evaluation_conf.every_n_epochs", 1, EVERY)
    if keep is None:
        conversion.default("evaluation_conf.keep_best", 1, KEEP, "by validation loss")
    else:
        conversion.put("evaluation_conf.keep_best", keep, KEEP, keep, "by validation loss")


def _checkpoints_alone(every: int | None, most: int | None, keep: int | None, conversion: Conversion) -> None:
    epochs = conversion.get("training_args.num_train_epochs")
    strategy, share = "training_args.save_strategy", "training_args.save_steps"
    if every is None and most is None:
        conversion.default(strategy, "epoch", EVERY, WITHOUT, old=1)
    elif every == 1 and most is None:
        conversion.put(strategy, "epoch", EVERY, every, WITHOUT)
    elif every is None and most == 1:
        conversion.put(strategy, "epoch", MOST, most, f"{WITHOUT}; a retry goes on from the last epoch")
    elif every is None and most is not None:
        conversion.put(share, 1 / most, MOST, most, f"a share of all steps; {WITHOUT}")
    elif most is None and every is not None and isinstance(epochs, int) and every < epochs:
        conversion.put(share, every / epochs, EVERY, every, f"a share of all steps; {WITHOUT}")
    else:
        fix = f"{WITHOUT}; give valid_path, --validation LOCATION, or {MOST} alone"
        conversion.refuse(EVERY, every, fix)
    if keep is not None:
        conversion.put("training_args.save_total_limit", keep, KEEP, keep, f"the newest, since {WITHOUT}")
