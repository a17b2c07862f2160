"""The rules of evaluation_conf and overrides.auto: what needs validation data, and what says the same thing twice."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.training_args import translate
from finetune_api.violations import Violation

# Keys of training_args that say when to evaluate or save, which an event of evaluation_conf does together.
EVENT_KEYS = ("eval_strategy", "eval_steps", "eval_delay", "save_strategy", "save_steps")
NEED_VALIDATION = ("every_n_epochs", "max_events", "keep_best", "early_stopping_patience", "sample_prompts")


def check_evaluation_conf(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Violations of evaluation_conf by raw spec data."""
    given = _mapping(spec.get("evaluation_conf"))
    raw = _mapping(spec.get("training_args"))
    arguments, _ = translate({key: value for key, value in raw.items() if isinstance(key, str)})
    if _mapping(_mapping(spec.get("data_conf")).get("validation_data")).get("type") == "NONE":
        for key in NEED_VALIDATION:
            if given.get(key) is not None:
                yield Violation(
                    ("evaluation_conf", key),
                    f"{key} needs validation data, and data_conf.validation_data has type NONE; give data or remove it",
                )
    if has_events(spec):
        yield from _events(given, raw, arguments)
    else:
        yield from _strategies(given, arguments)
    yield from _retention(given, arguments)
    yield from _without_effect(given)


def has_events(spec: Mapping[str, Any]) -> bool:
    """Whether evaluation_conf says when to validate and save, instead of training_args."""
    given = _mapping(spec.get("evaluation_conf"))
    return given.get("every_n_epochs") is not None or given.get("max_events") is not None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _events(given: Mapping[str, Any], raw: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[Violation]:
    key = "every_n_epochs" if given.get("every_n_epochs") is not None else "max_events"
    for name in (*EVENT_KEYS, "evaluation_strategy"):
        if raw.get(name) is not None:
            yield Violation(
                ("training_args", name),
                f"evaluation_conf.{key} already says when to validate and save, always together; keep it or {name}",
            )


def _strategies(given: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[Violation]:
    """What looks at evaluations needs some, and checkpoints of them."""
    evaluate, save = arguments.get("eval_strategy", "no"), arguments.get("save_strategy", "steps")
    for key in ("keep_best", "early_stopping_patience", "sample_prompts"):
        if given.get(key) is None:
            continue
        where = ("evaluation_conf", key)
        if evaluate == "no":
            yield Violation(
                where, f"{key} needs evaluations; give evaluation_conf.every_n_epochs or training_args.eval_strategy"
            )
        elif key != "sample_prompts" and save == "no":
            yield Violation(where, f"{key} needs checkpoints, and training_args.save_strategy is no; remove one")
        elif key == "keep_best" and not _every_checkpoint_is_evaluated(arguments, evaluate, save):
            yield Violation(
                where,
                "keep_best needs an evaluation at every checkpoint; give evaluation_conf.every_n_epochs, or the same "
                "eval_strategy and save_strategy with save_steps a multiple of eval_steps",
            )


def _every_checkpoint_is_evaluated(arguments: Mapping[str, Any], evaluate: Any, save: Any) -> bool:
    if save == "best":
        return True
    if save != evaluate:
        return False
    every = arguments.get("save_steps", 500)
    interval = arguments.get("eval_steps", arguments.get("logging_steps", 500))
    if save != "steps" or not all(isinstance(one, int | float) and one > 0 for one in (every, interval)):
        return True
    # Shares of all steps are rounded up to steps each for itself: only equal ones surely meet.
    return bool(every == interval or (every >= 1 and interval >= 1 and every % interval == 0))


def _retention(given: Mapping[str, Any], arguments: Mapping[str, Any]) -> Iterator[Violation]:
    if given.get("keep_best") is not None and arguments.get("save_total_limit") is not None:
        yield Violation(
            ("training_args", "save_total_limit"),
            "evaluation_conf.keep_best already says which checkpoints stay; keep it or save_total_limit",
        )
    for key in ("keep_best", "early_stopping_patience"):
        if given.get(key) is not None and arguments.get("greater_is_better") is True:
            yield Violation(
                ("training_args", "greater_is_better"),
                f"evaluation_conf.{key} goes by the lowest validation loss; remove greater_is_better",
            )
            return


def _without_effect(given: Mapping[str, Any]) -> Iterator[Violation]:
    threshold = given.get("early_stopping_threshold")
    if isinstance(threshold, int | float) and threshold > 0 and given.get("early_stopping_patience") is None:
        yield Violation(
            ("evaluation_conf", "early_stopping_threshold"),
            "early_stopping_threshold has no effect without early_stopping_patience; give that too, or remove it",
        )


def check_auto(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """What the trainer shall find itself must not be given too."""
    overrides, arguments = _mapping(spec.get("overrides")), _mapping(spec.get("training_args"))
    auto = overrides.get("auto")
    wanted = [one for one in auto if isinstance(one, str)] if isinstance(auto, list) else []
    if "learning_rate" in wanted and arguments.get("learning_rate") is not None:
        yield Violation(
            ("training_args", "learning_rate"),
            "learning_rate is given, but overrides.auto shall find it; keep one",
        )
    for key in ("bf16", "fp16"):
        if "precision" in wanted and arguments.get(key) is True:
            yield Violation(
                ("training_args", key), f"{key} is given, but overrides.auto shall find the precision; keep one"
            )
