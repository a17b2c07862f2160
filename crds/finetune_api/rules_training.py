"""The rules of training_args: refused keys, and keys that contradict one another or other sections."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.rules_evaluation import has_events
from finetune_api.training_args import RENAMED, STRATEGY_KEYS, refusal, snapshot, translate
from finetune_api.violations import Violation

WHOLE_OR_RATIO = ("logging_steps", "eval_steps", "save_steps", "warmup_steps")


def check_training_args(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Violations of training_args by raw spec data."""
    given = spec.get("training_args")
    if not isinstance(given, Mapping):
        return
    yield from _refused(given)
    yield from _named_twice(given)
    arguments, _ = translate({key: value for key, value in given.items() if isinstance(key, str)})
    yield from _numbers(arguments)
    yield from _precision(arguments, spec)
    yield from _evaluation(arguments, spec)


def _where(key: str) -> tuple[str, str]:
    return ("training_args", key)


def _refused(given: Mapping[str, Any]) -> Iterator[Violation]:
    for key, value in given.items():
        known = key in snapshot() or key in RENAMED
        if key in STRATEGY_KEYS and isinstance(value, bool):
            yield Violation(
                _where(key), f'{key}: kubectl reads an unquoted no as false (YAML 1.1); write {key}: "no", in quotes'
            )
            continue
        reason = refusal(key, value) if known or key in _removed() else None
        if reason:
            yield Violation(_where(key), reason)


def _removed() -> Mapping[str, Any]:
    from finetune_api.training_args import REMOVED

    return REMOVED


def _named_twice(given: Mapping[str, Any]) -> Iterator[Violation]:
    for old, renamed in RENAMED.items():
        if given.get(old) is not None and given.get(renamed.new) is not None:
            yield Violation(
                _where(old), f"{old} is the old name of {renamed.new}, which is given too; keep {renamed.new}"
            )


def _numbers(arguments: Mapping[str, Any]) -> Iterator[Violation]:
    for key in WHOLE_OR_RATIO:
        value = arguments.get(key)
        if isinstance(value, float) and value >= 1 and not value.is_integer():
            yield Violation(_where(key), f"{key} is {value}; give whole steps, or a share of all steps below 1")


def _precision(arguments: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Violation]:
    if arguments.get("bf16") is True and arguments.get("fp16") is True:
        yield Violation(_where("fp16"), "bf16 and fp16 are both true; keep one (bf16 where the GPU has it)")
    gpus = spec.get("finetuningGpus", 1)
    on_cpu = isinstance(gpus, int) and gpus == 0
    if on_cpu and arguments.get("fp16") is True:
        yield Violation(_where("fp16"), "fp16 needs a GPU, and finetuningGpus is 0; use bf16 or neither")
    if not on_cpu and arguments.get("use_cpu") is True:
        yield Violation(_where("use_cpu"), "use_cpu would leave the GPUs idle; set finetuningGpus: 0 to train on CPU")


def _evaluation(arguments: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Violation]:
    evaluate = arguments.get("eval_strategy", "no")
    save = arguments.get("save_strategy", "steps")
    data = spec.get("data_conf")
    validation = data.get("validation_data") if isinstance(data, Mapping) else None
    without_data = isinstance(validation, Mapping) and validation.get("type") == "NONE"
    if without_data and (evaluate in ("steps", "epoch") or arguments.get("eval_on_start") is True):
        key = "eval_strategy" if evaluate in ("steps", "epoch") else "eval_on_start"
        yield Violation(
            _where(key),
            f"{key} needs validation data, and data_conf.validation_data has type NONE; give data or set no",
        )
    if save == "best" and evaluate == "no":
        yield Violation(
            _where("save_strategy"), "save_strategy best needs evaluation; set eval_strategy: steps or epoch"
        )
    # An event of evaluation_conf is an evaluation with its checkpoint: nothing can be missing.
    if arguments.get("load_best_model_at_end") is True and not has_events(spec):
        yield from _best_model(arguments, evaluate, save)


def _best_model(arguments: Mapping[str, Any], evaluate: Any, save: Any) -> Iterator[Violation]:
    where = _where("load_best_model_at_end")
    if evaluate == "no":
        yield Violation(where, "load_best_model_at_end needs evaluation; set eval_strategy: steps or epoch")
    elif save not in ("best", evaluate):
        yield Violation(
            where,
            f"load_best_model_at_end needs a checkpoint at every evaluation: save_strategy is {save} but eval_strategy "
            f"is {evaluate}; make them equal, or save_strategy: best",
        )
    elif save == "steps":
        every = arguments.get("save_steps", 500)
        interval = arguments.get("eval_steps", arguments.get("logging_steps", 500))
        numbers = all(isinstance(one, int | float) and one >= 1 for one in (every, interval))
        if numbers and every % interval:
            yield Violation(
                where, f"load_best_model_at_end needs save_steps ({every}) to be a multiple of eval_steps ({interval})"
            )
