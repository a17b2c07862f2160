"""What a training will be, before it is: steps, batches, padding, events, memory and hours.

Pure: from a resolved spec, the examples and what is known of the model. The download pod reports it, `finetune plan`
prints it; the loop itself goes by the same steps.py, timetable.py and sampler.py.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune_api.quant_conf import BnBQuantizationConfig
from finetune_api.resolve import ResolvedSpec
from finetune_api.sharding import sharding_of
from finetune_api.status import DatasetReport, EffectiveSettings, MemoryEstimate
from finetune_trainer.data import TrainingData, padded_length
from finetune_trainer.memory_estimate import (
    COUNTED,
    DISTRIBUTED,
    Largest,
    Memory,
    Model,
    Quantised,
    Tensor,
    Training,
    estimate,
    read_sizes,
    read_tensors,
    trained_tensors,
)
from finetune_trainer.steps import Steps, plan_steps, warmup_steps
from finetune_trainer.timetable import Events, Rhythm, checkpoints, evaluations
from finetune_trainer.train.sampler import BatchShape, deal, global_batches


@dataclass(frozen=True)
class Batches:
    """What the batches of an epoch hold. tokens and padding count every position once; largest: of one device."""

    tokens: int
    padding: int
    largest: Largest

    @property
    def pad_share(self) -> float:
        return self.padding / max(1, self.tokens + self.padding)


@dataclass(frozen=True)
class Plan:
    """All of it.

    counted: whether parameters and trained are exact, which the adapter's kind decides. memory: per device, None if the
    model's shapes are not known; elsewhere: the same by the other ways of distributing the processes. hours: None until
    a speed is known.
    """

    data: DatasetReport
    steps: Steps
    batches: Batches
    world_size: int
    gpus: int
    per_device: int
    accumulation: int
    eval_per_device: int
    total_batch: int
    learning_rate: float | None
    warmup_steps: int
    evaluations: int
    checkpoints: int
    distributed: str
    precision: str
    parameters: int | None
    trained: int | None
    counted: bool
    memory: Memory | None
    elsewhere: Mapping[str, Memory]
    hours: float | None

    @property
    def gpu_hours(self) -> float | None:
        """Hours times GPUs; of the machine, where there is none."""
        return None if self.hours is None else self.hours * max(1, self.gpus)

    def dataset_report(self) -> DatasetReport:
        """status.dataset."""
        memory = self.memory
        return self.data.model_copy(
            update={
                "steps_per_epoch": self.steps.per_epoch,
                "total_steps": self.steps.total,
                "pad_share": round(self.batches.pad_share, 4),
                "memory_estimate_bytes": memory.total if memory else None,
                "memory": MemoryEstimate(**asdict(memory)) if memory else None,
            }
        )

    def effective(self) -> EffectiveSettings:
        """status.effective, as far as it is known before a GPU is seen."""
        return EffectiveSettings(
            world_size=self.world_size,
            per_device_batch=self.per_device,
            accumulation=self.accumulation,
            eval_per_device_batch=self.eval_per_device,
            total_batch=self.total_batch,
            learning_rate=self.learning_rate,
            distributed_type=self.distributed,
            epochs=round(self.steps.epochs, 4),
            warmup_steps=self.warmup_steps,
        )


def make_plan(
    resolved: ResolvedSpec,
    data: TrainingData,
    model: Model | None = None,
    *,
    adapter: Mapping[str, Tensor] | None = None,
    tokens_per_second: float | None = None,
) -> Plan:
    """The plan of a job whose data was read.

    adapter: the tensors of a pretrained one. tokens_per_second: real tokens, of all processes together.
    """
    arguments, batch = resolved.training_args, resolved.batch()
    steps = plan_steps(resolved, len(data.train))
    shape = BatchShape(batch.per_device, batch.accumulation, resolved.world_size)
    batches = measure_batches(
        _sequences(data.train),
        shape,
        seed=arguments["data_seed"],
        sampling=arguments["train_sampling_strategy"],
        pad_to=padded_length(resolved.spec),
        most=steps.total,
    )
    training = training_of(resolved, adapter)
    known = model if model and model.tensors else None
    elsewhere = {}
    if known:
        for distributed in DISTRIBUTED[1:] if resolved.world_size > 1 else DISTRIBUTED[:1]:
            elsewhere[distributed] = estimate(
                known, training, batches.largest, processes=resolved.world_size, distributed=distributed
            )
    trained = sum(tensor.elements for tensor in trained_tensors(known, training)) if known else None
    work = batches.tokens * (steps.total / min(steps.per_epoch, steps.total))
    return Plan(
        data=data.report,
        steps=steps,
        batches=batches,
        world_size=resolved.world_size,
        gpus=0 if resolved.on_cpu else resolved.world_size,
        per_device=batch.per_device,
        accumulation=batch.accumulation,
        eval_per_device=batch.eval_per_device,
        total_batch=resolved.total_batch,
        learning_rate=resolved.learning_rate,
        warmup_steps=warmup_steps(arguments["warmup_steps"] or 0, steps.total),
        evaluations=len(_evaluations(resolved, steps)) if data.eval else 0,
        checkpoints=len(_checkpoints(resolved, steps)),
        distributed=resolved.distributed_type,
        precision=training.precision,
        parameters=known.elements + (0 if training.trains_all else trained or 0) if known else None,
        trained=trained,
        counted=training.peft_type in COUNTED,
        memory=elsewhere.get(_like(resolved)),
        elsewhere={name: memory for name, memory in elsewhere.items() if memory},
        hours=work / tokens_per_second / 3600 if tokens_per_second else None,
    )


def _like(resolved: ResolvedSpec) -> str:
    """The distributed type of the estimates that splits what this job's does."""
    if resolved.world_size == 1:
        return DISTRIBUTED[0]
    custom = resolved.spec.custom_accelerate_config
    split = sharding_of(resolved.distributed_type, custom, resolved.world_size).split
    return {"nothing": "auto-ddp", "optimizer": "auto-deepspeed-stage1", "everything": "auto-deepspeed-stage3"}[split]


# --- batches ---------------------------------------------------------------------------------------------------------


def measure_batches(
    rows: Sequence[tuple[int, ...]],
    shape: BatchShape,
    *,
    seed: int,
    sampling: str,
    pad_to: int | None = None,
    most: int | None = None,
) -> Batches:
    """Tokens and padding of the first epoch's batches (of at most `most` of them), dealt as the loop deals them.

    rows: the lengths of the sequences that each example brings into a batch: one, or two of a preference pair.
    """
    lengths = [sum(row) for row in rows]
    tokens = padding = 0
    largest = Largest(0, 0)
    for number, batch in enumerate(
        global_batches(lengths, seed=seed, epoch=0, sampling=sampling, batch_size=shape.total)
    ):
        if number == most:
            break
        for micro in _micro_batches(batch, shape):
            sequences = [length for row in micro for length in rows[row]]
            width = max(*sequences, pad_to or 0)
            tokens += sum(sequences)
            padding += width * len(sequences) - sum(sequences)
            if width * len(sequences) > largest.tokens:
                largest = Largest(len(sequences), width)
    return Batches(tokens, padding, largest)


def _micro_batches(batch: Sequence[int], shape: BatchShape) -> Iterator[list[int]]:
    """The micro-batches of all processes that hold rows of the data."""
    for rank in range(shape.world_size):
        for micro in deal(batch, shape, rank):
            if rows := [row for row in micro if row >= 0]:
                yield rows


def _sequences(examples: Iterable[Any]) -> list[tuple[int, ...]]:
    """Lengths of the sequences of each example: a preference pair has two. Equal ones share a tuple: there may be
    millions."""
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    found = []
    for example in examples:
        pair = (example.chosen, example.rejected) if hasattr(example, "chosen") else (example,)
        lengths = tuple(len(one) for one in pair)
        found.append(known.setdefault(lengths, lengths))
    return found


# --- events ----------------------------------------------------------------------------------------------------------


def _evaluations(resolved: ResolvedSpec, steps: Steps) -> set[int]:
    """The steps after which the model is validated; the last one always is. 0: before the first."""
    arguments, when = resolved.training_args, evaluations(resolved)
    delay = arguments["eval_delay"] or 0
    found = {
        step for step in _due(when, steps) if (step if when.strategy == "steps" else step / steps.per_epoch) >= delay
    }
    return found | {steps.total} | ({0} if arguments["eval_on_start"] else set())


def _checkpoints(resolved: ResolvedSpec, steps: Steps) -> set[int]:
    """The steps after which a checkpoint is written, the last one included; with strategy best, at most."""
    when = checkpoints(resolved)
    if when.strategy == "best":
        return _evaluations(resolved, steps) - {0}
    if when.strategy == "no":
        return set()
    return {*_due(when, steps), steps.total}


def _due(when: Rhythm | Events, steps: Steps) -> Iterator[int]:
    return (step for step in range(1, steps.total + 1) if when.due(step, steps))


# --- the model -------------------------------------------------------------------------------------------------------


def read_model(folder: Path) -> Model:
    """What a model's folder says of its sizes, without loading it."""
    tensors = read_tensors(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Model(tensors, read_sizes(config, tensors))


def training_of(resolved: ResolvedSpec, pretrained: Mapping[str, Tensor] | None = None) -> Training:
    """How the job holds its model, for the memory estimate."""
    spec, arguments = resolved.spec, resolved.training_args
    adapter = spec.peft_conf
    dpo = spec.dpo_args if spec.method == "dpo" else None
    return Training(
        dtype=spec.run_conf.model_args.torch_dtype,
        precision=_precision(resolved),
        on_cpu=resolved.on_cpu,
        optim=str(arguments["optim"]),
        optim_args=arguments["optim_args"],
        peft_type=adapter.peft_type,
        peft_kwargs=getattr(adapter, "peft_kwargs", None) or {},
        adapter=pretrained,
        quantised=_quantised(spec.quant_conf),
        reference=bool(dpo and adapter.peft_type == "NO_PEFT" and not dpo.precompute_ref_log_probs),
        gradient_checkpointing=bool(arguments["gradient_checkpointing"]),
        eager=spec.run_conf.model_args.attn_implementation == "eager",
    )


def _precision(resolved: ResolvedSpec) -> str:
    """What the trainer will take, by its own rule; auto on a GPU counts as 16 bits."""
    arguments = resolved.training_args
    if arguments["bf16"] or arguments["fp16"]:
        return "bf16" if arguments["bf16"] else "fp16"
    if resolved.on_cpu or resolved.spec.run_conf.model_args.torch_dtype == "float32":
        return "fp32"
    return "bf16"


def _quantised(conf: Any) -> Quantised | None:
    if not isinstance(conf, BnBQuantizationConfig):
        return None
    skipped = tuple(conf.llm_int8_skip_modules or ())
    if conf.load_in_4bit:
        return Quantised(4, conf.bnb_4bit_use_double_quant, skipped)
    return Quantised(8, skipped=skipped) if conf.load_in_8bit else None
