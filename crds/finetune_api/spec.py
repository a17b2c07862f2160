"""FineTuneJobSpec: the sections of the engine's config schema beside the keys of its chart, as one closed model.

Sections and keys of the config schema are snake_case, verbatim; chart-level keys are camelCase, verbatim. Defaults of
keys that are None here depend on other keys or on the operator; finetune_api.resolve fills them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from finetune_api.base import FreeForm, LocationText, ObjectName, Quantity, SpecModel, Text, Word
from finetune_api.batchsize_conf import BatchsizeConfig
from finetune_api.cluster import (
    Affinity,
    Annotations,
    BucketCredentialsSecret,
    ConfigMapKey,
    DebugOptions,
    EnvVar,
    HfTokenSecret,
    Image,
    Labels,
    LocalObjectReference,
    NodeLabels,
    ResourceName,
    Toleration,
)
from finetune_api.data_conf import ChatTrainValidConfig
from finetune_api.evaluation_conf import EvaluationConfig
from finetune_api.methods import CLMArguments, DPOArguments, MemoryArguments, Method, SFTArguments
from finetune_api.overrides import BatchSizeScaling, Epochs, Multiplier, Overrides
from finetune_api.peft_conf import PeftConfig
from finetune_api.quant_conf import QuantConfig
from finetune_api.rules import check_rules
from finetune_api.run_conf import RunConfig
from finetune_api.tracking import FinetuningTrackingConfig
from finetune_api.training_args import TrainingArguments
from finetune_api.violations import merge_violations

DistributedType = Literal[
    "auto-deepspeed-stage1", "auto-deepspeed-stage3", "auto-ddp", "auto-single-process", "custom-accelerate-config"
]
Amount = Annotated[float, Field(gt=0, le=1_000_000)]

CONFIG_SECTIONS = (
    "method",
    "data_conf",
    "training_args",
    "overrides",
    "evaluation_conf",
    "batchsize_conf",
    "peft_conf",
    "run_conf",
    "tracking",
    "quant_conf",
    "sft_args",
    "dpo_args",
    "clm_args",
    "memory_args",
)
LIFTED_OVERRIDES = ("num_train_epochs", "lr_multiplier", "lr_batch_size_scaling")
SNAKE_CASE_KEYS = frozenset((*CONFIG_SECTIONS, *LIFTED_OVERRIDES))


def yaml_key(attribute: str) -> str:
    """The key in YAML of an attribute of FineTuneJobSpec."""
    return attribute if attribute in SNAKE_CASE_KEYS else to_camel(attribute)


class FineTuneJobSpec(SpecModel):
    """What to fine-tune, on which data, how, and where it runs."""

    model_config = ConfigDict(alias_generator=yaml_key)

    # The config schema of the engine.
    method: Method = Field("sft", description="Training method: sft, dpo, clm (plain text) or memory (Memory Tuning).")
    data_conf: ChatTrainValidConfig = Field(description="The data input config.")
    training_args: TrainingArguments = Field(
        description="transformers.TrainingArguments, with restrictions. Every key says whether it is supported."
    )
    overrides: Overrides | None = Field(None, description="Options that override training_args.")
    evaluation_conf: EvaluationConfig | None = Field(
        None, description="Validation with checkpoints, retention of the best, early stopping, samples."
    )
    batchsize_conf: BatchsizeConfig = Field(description="Batch size configuration.")
    peft_conf: PeftConfig = Field(description="Adapter configuration; peft_type NO_PEFT trains all weights.")
    run_conf: RunConfig = Field(description="Model and run configuration.")
    tracking: FinetuningTrackingConfig | None = Field(
        None, description="MLflow tracking. Default: metrics stand in status only."
    )
    quant_conf: QuantConfig | None = Field(None, description="Quantisation of the base model. Default: none.")
    sft_args: SFTArguments | None = Field(None, description="Arguments of method sft; required with it.")
    dpo_args: DPOArguments | None = Field(None, description="Arguments of method dpo.")
    clm_args: CLMArguments | None = Field(None, description="Arguments of method clm.")
    memory_args: MemoryArguments | None = Field(None, description="Arguments of method memory.")

    # The overrides, lifted to the top.
    num_train_epochs: Epochs | None = Field(None, description="The same as overrides.num_train_epochs.")
    lr_multiplier: Multiplier | None = Field(None, description="The same as overrides.lr_multiplier.")
    lr_batch_size_scaling: BatchSizeScaling | None = Field(
        None, description="The same as overrides.lr_batch_size_scaling."
    )

    # The keys of the engine's chart.
    basemodel: LocationText = Field(
        description=(
            "The base model: hf://org/name, s3://, gs://, az://, pvc://claim/path; a bare bucket/path means "
            "s3://bucket/path."
        )
    )
    finetuning_gpus: Annotated[int, Field(ge=0, le=64)] | None = Field(
        None, description="GPUs per node; 0 trains on CPU. Default: 1."
    )
    memory_per_gpu: Amount | None = Field(
        None, description="Memory per GPU in Gi (of the pod, when there is no GPU). Default: 64."
    )
    cpus_per_gpu: Amount | None = Field(
        None, description="CPUs per GPU (of the pod, when there is no GPU). Default: 8."
    )
    distributed_type: DistributedType | None = Field(
        None,
        description="How processes work together: auto-ddp, or split optimizer (stage1) or weights too (stage3). "
        "Default: auto-single-process for one process, else auto-ddp.",
    )
    custom_accelerate_config: FreeForm | None = Field(
        None, description="An Accelerate config, with distributedType custom-accelerate-config."
    )
    merge_adapter: bool | None = Field(
        None, description="Also export the model with the trained adapter merged. Default: true."
    )
    checkpoints_remote: LocationText | None = Field(
        None, description="Where checkpoints and the result are copied to: s3://, gs://, az:// or bucket/path."
    )
    downloads_reserved_size: Quantity | None = Field(None, description="Size of the model cache volume. Default: 64Gi.")
    checkpoints_reserved_size: Quantity | None = Field(None, description="Size of the job's volume. Default: 512Gi.")
    storage_class: ObjectName | None = Field(None, description="StorageClass of both. Default: the cluster's default.")
    bucket_storage_host: LocationText | None = Field(None, description="URL of the S3 endpoint. Default: that of AWS.")
    bucket_credentials_secret: BucketCredentialsSecret | None = Field(
        None, description="The Secret with the keys for bucket storage."
    )
    hf_token_secret: HfTokenSecret | None = Field(None, description="The Secret with the Hugging Face token.")
    hf_download_exclude_glob: Text | None = Field(
        None, description="Files that are not downloaded from Hugging Face, e.g. original/*."
    )
    env: Annotated[list[EnvVar], Field(max_length=64)] | None = Field(
        None, description="Further environment variables of the download and train containers."
    )
    labels: Labels | None = Field(None, description="Further labels of the children and their pods.")
    image_pull_secrets: Annotated[list[LocalObjectReference], Field(max_length=16)] | None = Field(
        None, description="Secrets for pulling the image."
    )
    finetuning_image: Image | None = Field(None, description="The trainer's image. Default: the operator's setting.")
    run_tensorboard: bool | None = Field(None, description="Only false: metrics go to MLflow.")
    logs_remote: LocationText | None = Field(None, description="Not supported; see checkpointsRemote.")
    debug: DebugOptions | None = Field(None, description="Shortcuts while finding a fault.")

    # New keys in the same style.
    nodes: Annotated[int, Field(ge=1, le=1024)] | None = Field(None, description="Number of nodes. Default: 1.")
    min_nodes: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description=(
            "Start with so few nodes if the queue has no quota for more; the total batch stays the same, and nodes "
            "over which it cannot be spread stand idle. Default: nodes."
        ),
    )
    cpu_processes: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Processes per node when finetuningGpus is 0. Default: 1."
    )
    gpu_resource: ResourceName | None = Field(
        None,
        description="Name of the GPU resource, e.g. nvidia.com/gpu or amd.com/gpu. Default: the operator's setting.",
    )
    accelerator_type: Word | None = Field(
        None, description="Kind of GPU, by the operator's map of kinds to node labels, e.g. H100."
    )
    queue_name: ObjectName | None = Field(None, description="Kueue LocalQueue that admits the job.")
    workload_priority_class_name: ObjectName | None = Field(
        None, description="Kueue WorkloadPriorityClass: the order in the queue."
    )
    priority_class_name: ObjectName | None = Field(None, description="PriorityClass of the pods.")
    suspend: bool | None = Field(
        None, description="True stops the pods after a checkpoint; false again resumes. Default: false."
    )
    max_attempts: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None,
        description=(
            "Attempts after failures that may pass; preemptions never count. A higher value lets a job that has used "
            "them up go on from its newest checkpoint. Default: 3."
        ),
    )
    step_timeout_seconds: Annotated[int, Field(ge=0, le=604_800)] | None = Field(
        None,
        description=(
            "An attempt in which nothing moves for so long writes its stacks into the log, ends and is resumed; "
            "loading and saving may take four times as long. 0: never. A change holds from the next attempt on. "
            "Default: 1800."
        ),
    )
    retry_with_smaller_batch: bool | None = Field(
        None,
        description=(
            "Out of GPU memory, go on from the newest checkpoint with half the batch per device; the total batch stays "
            "the same, by accumulation. Default: true if overrides.auto has per_device_batch, else false."
        ),
    )
    termination_grace_period_seconds: Annotated[int, Field(ge=15, le=86_400)] | None = Field(
        None, description="Time for the last checkpoint after SIGTERM. Default: 120."
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None, description="When the finished children are removed; the FineTuneJob itself stays. Default: never."
    )
    node_selector: NodeLabels | None = Field(None, description="Labels that the node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = Field(
        None, description="Taints that the pods tolerate."
    )
    affinity: Affinity | None = Field(None, description="Where the pods should run.")
    service_account_name: ObjectName | None = Field(
        None,
        description="ServiceAccount of the pods, for workload identity. No API token is mounted. Default: default.",
    )
    runtime_class_name: ObjectName | None = Field(None, description="RuntimeClass of the pods.")
    annotations: Annotations | None = Field(None, description="Further annotations of the children and their pods.")
    checkpoints_retention: Literal["Retain", "Delete"] | None = Field(
        None, description="Whether the job's volume outlives the FineTuneJob. Default: Retain."
    )
    adopt_checkpoints: bool | None = Field(
        None, description="Go on with the volume that an earlier job of this name left. Default: false."
    )
    ca_bundle_config_map: ConfigMapKey | None = Field(
        None, description="A ConfigMap with the certificates of private authorities."
    )
    http_proxy: Text | None = Field(None, description="Proxy for http, without credentials.")
    https_proxy: Text | None = Field(None, description="Proxy for https, without credentials.")
    no_proxy: Text | None = Field(None, description="Hosts that need no proxy, separated by commas.")

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Schema and cross-field rules together, so that every problem is reported at once."""
        if not isinstance(data, dict):
            return handler(data)
        violations = list(check_rules(data))
        try:
            spec = handler(data)
        except ValidationError as error:
            raise merge_violations(error, violations, data) from None
        if violations:
            raise merge_violations(None, violations, data)
        return spec

    def to_dict(self) -> dict[str, Any]:
        """The YAML form: keys by alias, without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
