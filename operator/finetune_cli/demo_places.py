"""Names and places that all of the demo's steps share: namespaces, objects, folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCALCLUSTER = Path(".cache/localcluster/localcluster")
LOCAL_DIRECTORY = Path(".localcluster")
OPERATOR_NAMESPACE = "finetune-system"
RELEASE = "finetune-operator"
NAMESPACE = "default"
OPERATOR_SOURCES = (Path("operator/finetune_operator"), Path("crds/finetune_api"))
SOURCES_ANNOTATION = r"finetune-operator\.io/sources"
MANIFEST = Path("examples/quickstart.yaml")
DEMO_LABEL = "finetune-operator.io/demo"
BUCKET = "s3"  # Service and Deployment of examples/bucket
BUCKET_PORT = 9000
PROGRESS_SECONDS = 2  # a demo's job is short: its status is written more often than the operator's usual 15 s


@dataclass(frozen=True)
class Files:
    """What the demo makes and keeps between runs."""

    cache: Path

    @property
    def model(self) -> Path:
        return self.cache / "base-model"

    @property
    def data(self) -> Path:
        return self.cache / "data"

    @property
    def logs(self) -> Path:
        return self.cache / "logs"
