"""What the stages take: plain values, read once from the job's configuration. Only data loading sees that itself."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api import constants
from finetune_api.evaluation_conf import EvaluationConfig
from finetune_api.job_config import JobConfig
from finetune_api.locations import parse_location
from finetune_api.peft_conf import GenericPeftConfig
from finetune_api.quant_conf import BnBQuantizationConfig
from finetune_api.resolve import ResolvedSpec, resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer import timetable
from finetune_trainer.adapter_source import adapter_directory
from finetune_trainer.errors import BadConfiguration, InputMissing
from finetune_trainer.remote_code import trusts_model
from finetune_trainer.timetable import Events, Rhythm
from finetune_trainer.train.fresh_model import Hyperparameters, read_hyperparameters


@dataclass(frozen=True)
class Places:
    """Where things lie in this pod (or in the folders of `finetune run`)."""

    work: Path
    checkpoints: Path
    records: Path
    model: Path


@dataclass(frozen=True)
class OptimizerSettings:
    """Optimizer and learning-rate schedule. learning_rate is the peak, after multiplier and batch scaling; no number
    until it is found, with overrides.auto."""

    name: str
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    extra: dict[str, str]
    schedule: str
    schedule_kwargs: dict[str, Any]
    warmup: float  # steps, or a share of all steps when below 1
    max_grad_norm: float


@dataclass(frozen=True)
class LoopSettings:
    """The training loop's own settings."""

    seed: int
    data_seed: int
    sampling: str
    label_smoothing: float
    log: Rhythm
    log_first_step: bool
    evaluate: Rhythm | Events
    evaluate_on_start: bool
    evaluate_after: float  # steps or epochs, by the strategy
    save: Rhythm | Events
    save_total_limit: int | None
    keep_best: int | None
    patience: int | None  # evaluations without improvement before the run ends
    least_improvement: float
    load_best: bool
    metric_greater_is_better: bool
    loader: dict[str, Any]


@dataclass(frozen=True)
class ModelSettings:
    """How the base model is loaded."""

    dtype: str  # auto or a name of torch's
    device_map: Any
    attention: str | None
    use_cache: bool
    gradient_checkpointing: bool
    gradient_checkpointing_kwargs: dict[str, Any]
    loading: dict[str, Any]  # further arguments of from_pretrained
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    noise: float | None = None  # NEFTune's alpha
    quantization: dict[str, Any] | None = None  # arguments of transformers.BitsAndBytesConfig


@dataclass(frozen=True)
class AdapterSettings:
    """The adapter to train: a new one of `kind`, the one in the folder `source`, or none (NO_PEFT)."""

    kind: str
    kwargs: dict[str, Any]
    source: Path | None = None

    @property
    def used(self) -> bool:
        return self.kind != "NO_PEFT"


@dataclass(frozen=True)
class Settings:
    """All of it."""

    job: JobConfig
    resolved: ResolvedSpec
    places: Places
    loop: LoopSettings
    optimizer: OptimizerSettings
    model: ModelSettings
    adapter: AdapterSettings
    precision: str  # auto, fp32, bf16 or fp16
    auto: frozenset[str]  # what the trainer finds itself: learning_rate, per_device_batch
    use_cpu: bool
    tf32: bool | None
    full_determinism: bool
    log_level: str
    remote: str | None
    resume: bool | str
    own_checkpoints_only: bool
    attempt: int
    identity: dict[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """What was trained with, for training_args.json beside the result."""
        spec = self.resolved.spec.to_dict()
        names = ("method", "peft_conf", "quant_conf", "batchsize_conf", "sft_args", "dpo_args", "clm_args", "overrides")
        sections = {name: spec.get(name) for name in names}
        arguments = {**self.resolved.training_args, "learning_rate": self.optimizer.learning_rate}
        return {**sections, "training_args": arguments, "basemodel": spec["basemodel"]}


def read_job_config(path: str | None = None) -> JobConfig:
    """The job's configuration. Raises InputMissing or BadConfiguration."""
    place = Path(path or os.environ.get(constants.ENV_CONFIG) or constants.CONFIG_FILE)
    try:
        return JobConfig.from_json(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputMissing(
            f"the configuration {place} does not exist; set {constants.ENV_CONFIG} to its path"
        ) from None
    except ValueError as error:
        raise BadConfiguration(f"the configuration {place} cannot be read: {error}") from None


def read_spec(job: JobConfig) -> ResolvedSpec:
    """The resolved spec of a configuration. Raises BadConfiguration with every problem named."""
    try:
        return resolve(job.parsed_spec())
    except ValueError as error:
        raise BadConfiguration(f"the configuration of {job.name} is not valid: {error}") from None


def processes_per_node(resolved: ResolvedSpec) -> int:
    """Processes that the launcher starts on this node."""
    given = os.environ.get(constants.ENV_GPUS)
    if resolved.distributed_type == "auto-single-process":
        return 1
    return int(given) if given and int(given) > 0 else resolved.processes_per_node


def work_dir() -> Path:
    """The job's own volume."""
    return Path(os.environ.get(constants.ENV_WORK_DIR) or constants.WORK_DIR)


def read_settings(job: JobConfig, resolved: ResolvedSpec) -> Settings:
    """Configuration and environment as plain values."""
    spec, args = resolved.spec, resolved.training_args
    auto = frozenset((spec.overrides.auto if spec.overrides else None) or ())
    remote = spec.checkpoints_remote
    if spec.debug and spec.debug.skip_checkpoint_upload:
        remote = None
    return Settings(
        job=job,
        resolved=resolved,
        places=_places(spec),
        loop=_loop(resolved),
        optimizer=_optimizer(args),
        model=_model(spec, args),
        adapter=_adapter(spec),
        precision=_precision(spec, args, auto),
        auto=auto,
        use_cpu=resolved.on_cpu or bool(args["use_cpu"]),
        tf32=args["tf32"],
        full_determinism=bool(args["full_determinism"]),
        log_level=args["log_level"] or "passive",
        remote=remote,
        resume=os.environ.get(constants.ENV_RESUME) or spec.run_conf.resume_from_checkpoint,
        own_checkpoints_only=spec.run_conf.resume_from_checkpoint in (None, False, "false"),
        attempt=int(os.environ.get(constants.ENV_ATTEMPT) or job.try_number),
        identity=_identity(resolved),
    )


def _places(spec: FineTuneJobSpec) -> Places:
    work = work_dir()
    base = parse_location(spec.basemodel)
    model = base.path if base.scheme == "local" else os.environ.get(constants.ENV_MODEL_DIR) or constants.MODEL_DIR
    return Places(
        work=work,
        checkpoints=work / "checkpoints",
        records=work / "records",
        model=Path(model),
    )


def _precision(spec: FineTuneJobSpec, args: dict[str, Any], auto: frozenset[str]) -> str:
    """auto leaves the choice to the device; torch_dtype float32 alone asks for fp32 throughout."""
    if "precision" in auto:
        return "auto"
    if args["bf16"]:
        return "bf16"
    if args["fp16"]:
        return "fp16"
    return "fp32" if spec.run_conf.model_args.torch_dtype == "float32" else "auto"


def _loop(resolved: ResolvedSpec) -> LoopSettings:
    args, watched = resolved.training_args, resolved.spec.evaluation_conf or EvaluationConfig()
    patience = watched.early_stopping_patience
    return LoopSettings(
        seed=args["seed"],
        data_seed=args["data_seed"],
        sampling=args["train_sampling_strategy"],
        label_smoothing=args["label_smoothing_factor"],
        log=Rhythm(args["logging_strategy"], args["logging_steps"]),
        log_first_step=args["logging_first_step"],
        evaluate=timetable.evaluations(resolved),
        evaluate_on_start=args["eval_on_start"],
        evaluate_after=args["eval_delay"] or 0,
        save=timetable.checkpoints(resolved),
        save_total_limit=args["save_total_limit"],
        keep_best=watched.keep_best,
        patience=patience,
        least_improvement=watched.early_stopping_threshold,
        load_best=args["load_best_model_at_end"] or patience is not None,
        metric_greater_is_better=bool(args["greater_is_better"]),
        loader={
            "num_workers": args["dataloader_num_workers"],
            "pin_memory": args["dataloader_pin_memory"],
            "prefetch_factor": args["dataloader_prefetch_factor"],
            "persistent_workers": args["dataloader_persistent_workers"],
        },
    )


def _optimizer(args: dict[str, Any]) -> OptimizerSettings:
    return OptimizerSettings(
        name=args["optim"],
        learning_rate=math.nan if args["learning_rate"] is None else args["learning_rate"],
        weight_decay=args["weight_decay"],
        beta1=args["adam_beta1"],
        beta2=args["adam_beta2"],
        epsilon=args["adam_epsilon"],
        extra=_optim_args(args["optim_args"]),
        schedule=args["lr_scheduler_type"],
        schedule_kwargs=dict(args["lr_scheduler_kwargs"] or {}),
        warmup=args["warmup_steps"] or 0,
        max_grad_norm=args["max_grad_norm"],
    )


def _optim_args(text: str | None) -> dict[str, str]:
    """transformers' own form: key=value, separated by commas. Raises BadConfiguration."""
    pairs: dict[str, str] = {}
    for part in (text or "").replace(" ", "").split(","):
        key, separator, value = part.partition("=")
        if part and not separator:
            raise BadConfiguration(
                f"training_args.optim_args: {part!r} is not of the form key=value, as in momentum=0.9"
            )
        if part:
            pairs[key] = value
    return pairs


def _model(spec: FineTuneJobSpec, args: dict[str, Any]) -> ModelSettings:
    given = spec.run_conf.model_args
    loading = {
        name: getattr(given, name)
        for name in ("use_safetensors", "variant", "subfolder")
        if getattr(given, name) is not None
    }
    loading["trust_remote_code"] = trusts_model(spec)
    return ModelSettings(
        dtype=given.torch_dtype,
        device_map=given.device_map,
        attention=given.attn_implementation,
        use_cache=given.use_cache,
        gradient_checkpointing=args["gradient_checkpointing"],
        gradient_checkpointing_kwargs=dict(args["gradient_checkpointing_kwargs"] or {"use_reentrant": False}),
        loading=loading,
        hyperparameters=read_hyperparameters(spec, args["seed"]),
        noise=args["neftune_noise_alpha"],
        quantization=_quantization(spec),
    )


def _quantization(spec: FineTuneJobSpec) -> dict[str, Any] | None:
    given = spec.quant_conf
    if not isinstance(given, BnBQuantizationConfig):
        return None
    return {name: value for name, value in given.model_dump(exclude={"quantization_type"}).items() if value is not None}


def _adapter(spec: FineTuneJobSpec) -> AdapterSettings:
    given = spec.peft_conf
    kwargs = dict(given.peft_kwargs) if isinstance(given, GenericPeftConfig) else {}
    return AdapterSettings(given.peft_type, kwargs, adapter_directory(spec, work_dir()))


# What must be the same for a checkpoint to be continued: with any other value the result would be neither one run nor
# the other. Everything else (learning rate, epochs, logging…) may be changed between attempts.
def _identity(resolved: ResolvedSpec) -> dict[str, Any]:
    spec = resolved.spec.to_dict()
    args = resolved.training_args
    return {
        "method": spec.get("method", "sft"),
        "basemodel": spec["basemodel"],
        "run_conf.model_args.revision": spec["run_conf"]["model_args"].get("revision"),
        "run_conf.from_scratch": spec["run_conf"].get("from_scratch") or None,
        "run_conf.model_hyperparameters": spec["run_conf"].get("model_hyperparameters"),
        "peft_conf": spec["peft_conf"],
        "quant_conf": spec.get("quant_conf"),
        "data_conf": spec["data_conf"],
        "sft_args": spec.get("sft_args"),
        "dpo_args": spec.get("dpo_args"),
        "clm_args": spec.get("clm_args"),
        "batchsize_conf.total_train_batch_size": resolved.total_batch,
        "training_args.seed": args["seed"],
        "training_args.data_seed": args["data_seed"],
        "training_args.train_sampling_strategy": args["train_sampling_strategy"],
        "training_args.optim": args["optim"],
    }
