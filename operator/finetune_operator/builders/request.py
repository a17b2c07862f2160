"""What every builder needs to know: whose children these are, the resolved spec, and the operator's settings."""

from dataclasses import dataclass

from finetune_api import constants
from finetune_api.locations import Location, model_key, parse_location
from finetune_api.resolve import ResolvedSpec, filled
from finetune_api.spec import FineTuneJobSpec

from ..plan.types import Object
from ..settings import Settings


@dataclass(frozen=True)
class Request:
    """One FineTuneJob, resolved. `uid` is empty when rendering without a cluster."""

    name: str
    namespace: str
    uid: str
    resolved: ResolvedSpec
    training: str  # spec_hash of the training: which of the job's trainings these children belong to
    settings: Settings
    notices: tuple[str, ...] = ()
    later: bool = False  # not the first training of this FineTuneJob, but one after a changed spec

    @property
    def spec(self) -> FineTuneJobSpec:
        return self.resolved.spec

    @property
    def identity(self) -> str:
        """Whose checkpoints and MLflow run are this training's own: see plan/identity.py."""
        return f"{self.uid}-{self.training}" if self.later else self.uid

    @property
    def nodes(self) -> int:
        return filled(self.spec.nodes)

    @property
    def gpus(self) -> int:
        """GPUs per node; 0 trains on CPU."""
        return filled(self.spec.finetuning_gpus)

    @property
    def processes(self) -> int:
        """Training processes per node."""
        return self.resolved.processes_per_node

    @property
    def basemodel(self) -> Location:
        return parse_location(self.spec.basemodel)

    @property
    def uses_cache(self) -> bool:
        """Whether the base model is downloaded into the shared cache; a claim or a path is used as it is."""
        return self.basemodel.scheme not in ("pvc", "local")

    @property
    def model_key(self) -> str:
        return model_key(self.spec)

    @property
    def cache_name(self) -> str:
        """Several nodes mount it at once; a volume that a job of one node has made may not allow that."""
        return f"model-cache-{self.model_key}" + ("-shared" if self.nodes > 1 else "")

    @property
    def checkpoints_name(self) -> str:
        return f"{self.name}-checkpoints"

    @property
    def download_name(self) -> str:
        """Everything in the training's spec may matter to the validation of the data, so its hash is the name's."""
        return f"{self.name}-download-{self.training[:6]}"

    def try_name(self, number: int) -> str:
        return f"{self.name}-{number}"

    @property
    def grace_seconds(self) -> int:
        return filled(self.spec.termination_grace_period_seconds)

    @property
    def retains_checkpoints(self) -> bool:
        return self.spec.checkpoints_retention != "Delete"

    def labels(self, role: str) -> dict[str, str]:
        """The user's labels, then ours, which selectors rely on."""
        ours = {
            constants.LABEL_MANAGED_BY: constants.MANAGED_BY,
            constants.LABEL_JOB: self.name,
            constants.LABEL_ROLE: role,
        }
        if self.uid:
            ours[constants.LABEL_JOB_UID] = self.uid
        return {**(self.spec.labels or {}), **ours}

    def metadata(self, name: str, role: str, labels: dict[str, str] | None = None, owned: bool = True) -> Object:
        """Metadata of a child."""
        metadata: Object = {
            "name": name,
            "namespace": self.namespace,
            "labels": {**self.labels(role), **(labels or {})},
        }
        if self.spec.annotations:
            metadata["annotations"] = dict(self.spec.annotations)
        if owned and self.uid:
            metadata["ownerReferences"] = [self.owner_reference()]
        return metadata

    def owner_reference(self) -> Object:
        """Makes the garbage collector remove a child with its FineTuneJob."""
        return {
            "apiVersion": constants.API_VERSION,
            "kind": constants.KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
