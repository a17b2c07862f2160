"""`finetune plan -f FILE`: what a training will be, before a GPU is asked for.

By the functions of the download pod and the loop, from the data itself: examples, tokens, padding, steps, learning
rate, events, memory per device for each way of distributing it, and the hours when a speed is known.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal
from finetune_cli.errors import EXIT_OK, EXIT_PROBLEMS, CliError, UsageError

if TYPE_CHECKING:
    from finetune_cli.local_data import Inspection
    from finetune_trainer.memory_estimate import Memory
    from finetune_trainer.planning import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from finetune_cli import local_job
    from finetune_cli.manifests import add_job_arguments

    add_job_arguments(parser)
    local_job.add_arguments(parser)
    parser.add_argument(
        "--tokens-per-second", metavar="N", type=float, help="the speed of all processes together, for the hours"
    )
    parser.add_argument(
        "--speed-of",
        metavar="FILE",
        type=Path,
        help="take the speed from an earlier run: its status.json, or `kubectl get ftj NAME -o json`; default: the"
        " status.json in the work dir, if there is one",
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    parser.epilog = (
        "The model's weights are not downloaded: their headers tell the sizes. GPUs per node are capped as the operator"
        " does it (FINETUNE_MAX_GPUS_PER_NODE, default 8)."
    )


def run(args: argparse.Namespace) -> int:
    from finetune_cli.local_data import inspect
    from finetune_cli.manifests import checked_job

    job = checked_job(args)
    found = inspect(_capped(job.spec), job.name, args, tokens_per_second=_speed(args, job.name))
    if found.plan is None:
        _print_problem(found)
        return EXIT_PROBLEMS
    if args.output == "json":
        terminal.print_json(document(job.name, found.plan, found.notices))
    else:
        for line in lines(job.name, found):
            terminal.say(line)
    return EXIT_OK


def _capped(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with as many GPUs as the operator would give it. Raises CliError if the batch does not fit them."""
    from finetune_operator.plan.validate import InvalidSpecError, request
    from finetune_operator.settings import SettingsError, load

    try:
        settings = load()
        wanted = request({**spec, "acceleratorType": None}, "plan", "default", "", settings)
    except (InvalidSpecError, SettingsError) as refusal:
        raise CliError(str(refusal)) from refusal
    given = spec.get("finetuningGpus")
    if given is not None and wanted.gpus != given:
        terminal.warn(next(notice for notice in wanted.notices if notice.startswith("finetuningGpus")))
        return {**spec, "finetuningGpus": wanted.gpus}
    return spec


def _speed(args: argparse.Namespace, name: str) -> float | None:
    from finetune_cli import local_job

    if args.tokens_per_second is not None:
        if args.tokens_per_second <= 0:
            raise UsageError("--tokens-per-second must be above 0")
        return float(args.tokens_per_second)
    path = args.speed_of or local_job.folders(args, name).status
    if not path.is_file() and args.speed_of is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        status = content.get("status", content) if isinstance(content, dict) else {}
        speed = (status.get("progress") or {}).get("tokensPerSecond")
    except (OSError, ValueError) as error:
        raise UsageError(f"--speed-of {path} cannot be read: {error}") from None
    if args.speed_of and not speed:
        raise UsageError(f"--speed-of {path} has no progress.tokensPerSecond: it is no status of a run that trained")
    return float(speed) if speed else None


def _print_problem(found: Inspection) -> None:
    if found.bad is not None:
        for line in found.bad.listed:
            terminal.say(line)
        terminal.error(f"{found.bad.count} bad lines in the data; `finetune validate --data` lists all")
    else:
        terminal.error(found.problem or "the job cannot be planned")


# --- for programs ----------------------------------------------------------------------------------------------------


def document(name: str, plan: Plan, notices: tuple[str, ...]) -> dict[str, Any]:
    """The plan as JSON; dataset and effective are those of a job's status."""
    return {
        "name": name,
        "dataset": plan.dataset_report().to_dict(),
        "effective": {
            **plan.effective().to_dict(),
            "precision": plan.precision,
            "trainableParameters": plan.trained if plan.counted else None,
            "parameters": plan.parameters if plan.counted else None,
        },
        "steps": {"perEpoch": plan.steps.per_epoch, "total": plan.steps.total, "epochs": plan.steps.epochs},
        "evaluations": plan.evaluations,
        "checkpoints": plan.checkpoints,
        "largestBatch": dataclasses.asdict(plan.batches.largest),
        "memory": {name: _memory(memory) for name, memory in plan.elsewhere.items()},
        "hours": plan.hours,
        "gpuHours": plan.gpu_hours if plan.gpus else None,
        "notices": list(notices),
    }


def _memory(memory: Memory) -> dict[str, int]:
    return {**dataclasses.asdict(memory), "total": memory.total}


# --- for people ------------------------------------------------------------------------------------------------------


def lines(name: str, found: Inspection) -> list[str]:
    """The plan as a table of few lines."""
    plan, resolved = found.plan, found.resolved
    assert plan is not None
    assert resolved is not None
    spec = resolved.spec
    adapter = spec.peft_conf.peft_type
    how = "all weights" if adapter == "NO_PEFT" else adapter
    rows = [
        ("data", _data(plan)),
        ("tokens", _tokens(plan)),
        ("batch", _batch(plan)),
        ("steps", f"{plan.steps.per_epoch} an epoch, {plan.steps.total} in all ({_short(plan.steps.epochs)} epochs)"),
        ("learning rate", _learning_rate(plan, str(resolved.training_args["lr_scheduler_type"]))),
        ("events", f"{_count(plan.evaluations, 'evaluation')}, {_count(plan.checkpoints, 'checkpoint')}"),
        ("model", _model(plan)),
        ("time", _time(plan)),
    ]
    title = f"{name}: {spec.method} of {spec.basemodel}, {how}, {plan.distributed}"
    printed = [terminal.styled(title, "bold"), *(f"  {label:<14} {text}" for label, text in rows)]
    if plan.elsewhere:
        printed += ["", *_memory_table(plan)]
    return [*printed, *(f"{terminal.styled('notice', 'cyan')}: {notice}" for notice in found.notices)]


def _data(plan: Plan) -> str:
    data = plan.data
    told = [f"{data.examples} training and {data.validation_examples} validation examples"]
    for count, text in (
        (data.dropped, "left out for their length"),
        (data.truncated, "cut"),
        (data.duplicates, "repeat another"),
        (data.leaks, "of validation stand in training too"),
    ):
        if count:
            told.append(f"{count} {text}")
    if data.packed_into is not None:
        told.append(f"packed into {data.packed_into} sequences")
    return "; ".join(told)


def _tokens(plan: Plan) -> str:
    data = plan.data
    checked = f", {data.validation_tokens} to validate" if data.validation_tokens else ""
    counted = f"{data.target_tokens} counted in the loss"
    return f"{data.tokens} to train ({counted}){checked}; the longest example {data.longest}"


def _batch(plan: Plan) -> str:
    largest = plan.batches.largest
    return (
        f"{plan.total_batch} = {plan.per_device} per device x {plan.accumulation} accumulated x "
        f"{_count(plan.world_size, 'process')}; {100 * plan.batches.pad_share:.1f} % padding; the largest on a device "
        f"{largest.rows} x {largest.length} tokens"
    )


def _learning_rate(plan: Plan, schedule: str) -> str:
    peak = "found by the trainer" if plan.learning_rate is None else f"{plan.learning_rate:.6g} at its peak"
    return f"{peak}, {schedule}, {_count(plan.warmup_steps, 'step')} of warmup"


def _model(plan: Plan) -> str:
    if plan.parameters is None or plan.trained is None:
        return "sizes are not known before it is loaded"
    share = 100 * plan.trained / max(1, plan.parameters)
    about = "" if plan.counted else "about "
    return f"{about}{plan.parameters:,} weights; {plan.trained:,} are trained ({share:.3g} %), {plan.precision}"


def _time(plan: Plan) -> str:
    if plan.hours is None:
        return "unknown: give --tokens-per-second, or --speed-of an earlier run"
    hours = terminal.duration(plan.hours * 3600)
    return f"{hours}, {plan.gpu_hours:.3g} GPU-hours" if plan.gpus else hours


def _memory_table(plan: Plan) -> list[str]:
    from finetune_trainer.model_cache import human

    device = "GPU" if plan.gpus else "process"
    columns = ("weights", "gradients", "optimizer", "activations", "total")
    head = f"  {f'memory per {device}':<24}" + "".join(f"{column:>13}" for column in columns)
    table = [terminal.styled(head, "dim")]
    for distributed, memory in plan.elsewhere.items():
        mark = "*" if distributed == plan.distributed else " "
        sizes = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.total)
        table.append(f"{mark} {distributed:<24}" + "".join(f"{human(size):>13}" for size in sizes))
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def _short(number: float) -> str:
    return f"{number:.4g}"
