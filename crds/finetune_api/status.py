"""FineTuneJobStatus: what `kubectl get` and `describe` show. Every field is optional; the operator writes it whole."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import ReportModel

Phase = Literal[
    "Pending", "Downloading", "Queued", "Starting", "Training", "Suspended", "Retrying", "Succeeded", "Failed"
]
LongText = Annotated[str, Field(max_length=4096)]
ShortText = Annotated[str, Field(max_length=1024)]
Time = Annotated[str, Field(max_length=64)]

MAX_ATTEMPTS_KEPT = 20
MAX_CHECKPOINTS_KEPT = 50
MAX_NOTICES_KEPT = 32


class Condition(ReportModel):
    """As metav1.Condition."""

    type: Annotated[str, Field(max_length=316)] = Field(description="Kind of condition.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: ShortText = Field("", description="CamelCase reason of the last transition.")
    message: Annotated[str, Field(max_length=32768)] = Field("", description="What happened and what to do.")
    last_transition_time: Time | None = Field(None, description="When status last changed.")
    observed_generation: int | None = Field(None, description="The generation that this condition is about.")


class Attempt(ReportModel):
    """One run of the pods."""

    id: int | None = Field(None, description="Number of the attempt, from 1.")
    job: ShortText | None = Field(None, description="The Job that ran it.")
    pod: ShortText | None = Field(None, description="The pod of rank 0.")
    node: ShortText | None = Field(None, description="The node it ran on.")
    reason: ShortText | None = Field(None, description="Why it ended.")
    outcome: Literal["success", "retry", "resume", "fatal"] | None = Field(
        None, description="What follows from its end; only retry counts as a failure."
    )
    message: LongText | None = Field(None, description="What to do about it.")
    exit_code: int | None = Field(None, description="Exit code of the train container.")
    start_time: Time | None = Field(None, description="When its pods started.")
    end_time: Time | None = Field(None, description="When they ended.")
    duration_seconds: int | None = Field(None, description="Seconds between the two.")
    resumed_from_step: int | None = Field(None, description="The checkpoint it began with.")
    last_step: int | None = Field(None, description="The last step that it told of.")
    per_device_batch: int | None = Field(None, description="Its training batch per device.")


class Progress(ReportModel):
    """Where training stands."""

    phase: ShortText | None = Field(None, description="What the trainer does: loading, training, evaluating, …")
    step: int | None = Field(None, description="Optimizer steps done.")
    total_steps: int | None = Field(None, description="Optimizer steps in all.")
    steps: ShortText | None = Field(None, description="step/total as text, for kubectl get.")
    epoch: float | None = Field(None, description="Epochs done.")
    percent: float | None = Field(None, description="Share of the steps done.")
    loss: float | None = Field(None, description="The last training loss.")
    first_loss: float | None = Field(None, description="The first training loss.")
    eval_loss: float | None = Field(None, description="The last evaluation loss.")
    learning_rate: float | None = Field(None, description="The current learning rate.")
    tokens_per_second: float | None = Field(None, description="Real (non-padding) tokens per second.")
    eta_seconds: int | None = Field(None, description="Seconds until the last step.")
    eta: ShortText | None = Field(None, description="The same as text, for kubectl get.")
    updated_at: Time | None = Field(None, description="When the trainer reported this.")


class MemoryEstimate(ReportModel):
    """Estimated bytes per device."""

    weights: int | None = Field(None, description="Weights of the model.")
    gradients: int | None = Field(None, description="Gradients.")
    optimizer: int | None = Field(None, description="State of the optimizer.")
    activations: int | None = Field(None, description="Activations of the largest batch.")


class DatasetReport(ReportModel):
    """What the download pod found in the data."""

    examples: int | None = Field(None, description="Training examples.")
    validation_examples: int | None = Field(None, description="Validation examples.")
    tokens: int | None = Field(None, description="Training tokens.")
    target_tokens: int | None = Field(None, description="Training tokens that the loss counts.")
    dropped: int | None = Field(None, description="Examples left out because they are too long.")
    longest: int | None = Field(None, description="Tokens of the longest example kept.")
    steps_per_epoch: int | None = Field(None, description="Optimizer steps per epoch.")
    total_steps: int | None = Field(None, description="Optimizer steps in all.")
    memory_estimate_bytes: int | None = Field(None, description="Estimated memory per device.")
    validation_tokens: int | None = Field(None, description="Validation tokens.")
    duplicates: int | None = Field(None, description="Rows that repeat another one.")
    truncated: int | None = Field(None, description="Examples that were cut.")
    packed_into: int | None = Field(None, description="Sequences that the examples were packed into.")
    leaks: int | None = Field(None, description="Validation rows that also stand in the training data.")
    pad_share: float | None = Field(None, description="Share of padding in the training batches.")
    memory: MemoryEstimate | None = Field(None, description="The estimate by what takes it.")


class EffectiveSettings(ReportModel):
    """The settings that came out of the arithmetic."""

    world_size: int | None = Field(None, description="Number of processes.")
    per_device_batch: int | None = Field(None, description="Training batch per device.")
    accumulation: int | None = Field(None, description="Gradient accumulation steps.")
    eval_per_device_batch: int | None = Field(None, description="Evaluation batch per device.")
    total_batch: int | None = Field(None, description="Total training batch.")
    learning_rate: float | None = Field(None, description="Peak learning rate after multiplier and scaling.")
    precision: ShortText | None = Field(None, description="fp32, bf16 or fp16.")
    distributed_type: ShortText | None = Field(None, description="How the processes work together.")
    device: ShortText | None = Field(None, description="cpu or the GPU's name.")
    trainable_parameters: int | None = Field(None, description="Parameters that are trained.")
    parameters: int | None = Field(None, description="Parameters of the model.")
    epochs: float | None = Field(None, description="Epochs.")
    warmup_steps: int | None = Field(None, description="Optimizer steps of warmup.")


class CheckpointReport(ReportModel):
    """A complete checkpoint."""

    step: int | None = Field(None, description="The step it was written at.")
    eval_loss: float | None = Field(None, description="Evaluation loss there.")
    path: ShortText | None = Field(None, description="Where it lies.")


class MlflowReport(ReportModel):
    """The MLflow run."""

    experiment_id: ShortText | None = Field(None, description="The experiment.")
    run_id: ShortText | None = Field(None, description="The run.")
    url: ShortText | None = Field(None, description="Its page.")
    reachable: bool | None = Field(None, description="Whether the server answered lately.")
    message: LongText | None = Field(None, description="What was not logged, if anything.")


class ModelReport(ReportModel):
    """The result."""

    path: ShortText | None = Field(None, description="The exported model or adapter on the job's volume.")
    adapter: ShortText | None = Field(None, description="The adapter, if one was trained.")
    merged: ShortText | None = Field(None, description="The merged model, if it was wanted.")
    remote: ShortText | None = Field(None, description="Its copy under checkpointsRemote.")
    claim: ShortText | None = Field(None, description="The PersistentVolumeClaim that holds it.")


class FineTuneJobStatus(ReportModel):
    """What the operator observed."""

    observed_generation: int | None = Field(None, description="The generation that this status is about.")
    phase: Phase | None = Field(None, description="For people only; programs read conditions.")
    conditions: Annotated[list[Condition], Field(max_length=32)] | None = Field(
        None, description="Ready, Reconciling, Stalled, Complete, Failed, Suspended, and what needs attention."
    )
    spec_hash: ShortText | None = Field(None, description="Which training spec this status is about.")
    attempt: int | None = Field(None, description="Number of the current or last attempt.")
    failures: int | None = Field(None, description="Attempts that failed and count against maxAttempts.")
    max_attempts_reached: int | None = Field(
        None, description="Set when the job failed since this maxAttempts was used up; with a higher one it goes on."
    )
    gpus: int | None = Field(None, description="GPUs in all.")
    attempts: Annotated[list[Attempt], Field(max_length=MAX_ATTEMPTS_KEPT)] | None = Field(
        None, description="The last attempts."
    )
    progress: Progress | None = Field(None, description="Where training stands.")
    dataset: DatasetReport | None = Field(None, description="What the download found in the data.")
    effective: EffectiveSettings | None = Field(None, description="The settings that came out of the arithmetic.")
    checkpoints: Annotated[list[CheckpointReport], Field(max_length=MAX_CHECKPOINTS_KEPT)] | None = Field(
        None, description="Complete checkpoints."
    )
    mlflow: MlflowReport | None = Field(None, description="The MLflow run.")
    model: ModelReport | None = Field(None, description="The result.")
    notices: Annotated[list[LongText], Field(max_length=MAX_NOTICES_KEPT)] | None = Field(
        None, description="What the user should know about how the manifest was read."
    )
    start_time: Time | None = Field(None, description="When the operator first saw the job.")
    completion_time: Time | None = Field(None, description="When it ended.")
