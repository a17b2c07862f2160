"""The parts of spec that speak to Kubernetes: secrets, environment, placement. No arbitrary pod spec passes through."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import CamelModel, LabelKey, LabelValue, ObjectName, SpecModel, Text

SecretKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
EnvName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")]


class BucketCredentialsSecret(CamelModel):
    """The Secret with the keys for bucket storage."""

    name: ObjectName = Field(description="Name of the Secret.")
    access_key_key: SecretKey = Field("minio-access-key", description="The Secret's key that holds the access key.")
    secret_key_key: SecretKey = Field("minio-secret-key", description="The Secret's key that holds the secret key.")


class HfTokenSecret(CamelModel):
    """The Secret with the Hugging Face token."""

    name: ObjectName = Field(description="Name of the Secret.")
    key: SecretKey = Field("hf-token", description="The Secret's key that holds the token.")


class KeySelector(CamelModel):
    """A key of a Secret or ConfigMap."""

    name: ObjectName = Field(description="Name of the object.")
    key: SecretKey = Field(description="Key in the object.")
    optional: bool | None = Field(None, description="Whether the object or key may be missing.")


class EnvValueFrom(CamelModel):
    """Where a variable's value comes from: exactly one."""

    secret_key_ref: KeySelector | None = Field(None, description="A Secret's key.")
    config_map_key_ref: KeySelector | None = Field(None, description="A ConfigMap's key.")


class EnvVar(CamelModel):
    """An environment variable of the download and train containers."""

    name: EnvName = Field(description="Name of the variable.")
    value: Annotated[str, Field(max_length=4096)] | None = Field(None, description="Its value.")
    value_from: EnvValueFrom | None = Field(None, description="Where the value comes from, instead of value.")


class LocalObjectReference(CamelModel):
    """An object in the job's namespace."""

    name: ObjectName = Field(description="Name of the object.")


class ConfigMapKey(CamelModel):
    """A ConfigMap and one of its keys."""

    name: ObjectName = Field(description="Name of the ConfigMap.")
    key: SecretKey = Field("ca.crt", description="Its key.")


class Toleration(CamelModel):
    """As in a pod."""

    key: LabelKey | None = Field(None, description="The taint's key. Empty matches all keys, with operator Exists.")
    operator: Literal["Exists", "Equal"] | None = Field(None, description="Default: Equal.")
    value: LabelValue | None = Field(None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect. Empty matches all effects."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = Field(
        None, description="How long a NoExecute taint is tolerated."
    )


class Requirement(CamelModel):
    """A condition on a label."""

    key: LabelKey = Field(description="The label's key.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(description="The comparison.")
    values: Annotated[list[LabelValue], Field(max_length=32)] | None = Field(None, description="The values.")


class NodeSelectorTerm(CamelModel):
    """All of its expressions must hold."""

    match_expressions: Annotated[list[Requirement], Field(max_length=16)] | None = Field(
        None, description="Conditions on the node's labels."
    )
    match_fields: Annotated[list[Requirement], Field(max_length=4)] | None = Field(
        None, description="Conditions on the node's fields, e.g. metadata.name."
    )


class NodeSelector(CamelModel):
    """One of its terms must hold."""

    node_selector_terms: Annotated[list[NodeSelectorTerm], Field(min_length=1, max_length=16)] = Field(
        description="The terms; one must hold."
    )


Weight = Annotated[int, Field(ge=1, le=100)]


class PreferredSchedulingTerm(CamelModel):
    """A preference with a weight."""

    weight: Weight = Field(description="Weight of the preference, 1 to 100.")
    preference: NodeSelectorTerm = Field(description="The preference.")


class NodeAffinity(CamelModel):
    """As in a pod."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = Field(None, description="Must hold.")
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[list[PreferredSchedulingTerm], Field(max_length=16)] | None
    ) = Field(None, description="Should hold.")


class LabelRequirement(CamelModel):
    """A condition on a pod's label."""

    key: LabelKey = Field(description="The label's key.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="The comparison.")
    values: Annotated[list[LabelValue], Field(max_length=32)] | None = Field(None, description="The values.")


class LabelSelector(CamelModel):
    """Which pods."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] | None = Field(
        None, description="Labels that a pod must have."
    )
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=16)] | None = Field(
        None, description="Conditions that must hold."
    )


class PodAffinityTerm(CamelModel):
    """Near (or away from) which pods."""

    label_selector: LabelSelector | None = Field(None, description="Which pods.")
    namespaces: Annotated[list[ObjectName], Field(max_length=16)] | None = Field(
        None, description="In which namespaces."
    )
    topology_key: LabelKey = Field(description="Node label that says what near means.")


class WeightedPodAffinityTerm(CamelModel):
    """A preference with a weight."""

    weight: Weight = Field(description="Weight of the preference, 1 to 100.")
    pod_affinity_term: PodAffinityTerm = Field(description="The preference.")


class PodAffinity(CamelModel):
    """As in a pod."""

    required_during_scheduling_ignored_during_execution: (
        Annotated[list[PodAffinityTerm], Field(max_length=8)] | None
    ) = Field(None, description="Must hold.")
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[list[WeightedPodAffinityTerm], Field(max_length=8)] | None
    ) = Field(None, description="Should hold.")


class Affinity(CamelModel):
    """As in a pod."""

    node_affinity: NodeAffinity | None = Field(None, description="Which nodes.")
    pod_affinity: PodAffinity | None = Field(None, description="Near which pods.")
    pod_anti_affinity: PodAffinity | None = Field(None, description="Away from which pods.")


class DebugOptions(SpecModel):
    """Shortcuts while finding a fault."""

    skip_checkpoint_upload: bool = Field(False, description="Do not copy checkpoints to checkpointsRemote.")
    skip_checkpoint_download: bool = Field(
        False, description="Do not look for earlier checkpoints in checkpointsRemote."
    )


Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=64)]
Annotations = Annotated[dict[LabelKey, Text], Field(max_length=64)]
NodeLabels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]
ResourceName = Annotated[
    str, Field(min_length=3, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[-._a-zA-Z0-9]+$")
]
Image = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[a-zA-Z0-9][-a-zA-Z0-9._:/@]*$")]
