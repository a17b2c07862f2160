"""JobConfig: the content of the immutable ConfigMap, the only thing that download and train pods read."""

import json
from typing import Any, Self

from pydantic import Field

from finetune_api.base import ReportModel
from finetune_api.spec import FineTuneJobSpec


class TrackedRun(ReportModel):
    """The MLflow run that the operator made for this job."""

    uri: str
    experiment_id: str
    run_id: str


class JobConfig(ReportModel):
    """A resolved job, frozen for one try: a new default of a later version never changes a running job."""

    name: str
    namespace: str = "default"
    uid: str = ""
    try_number: int = 1
    spec: dict[str, Any] = Field(description="FineTuneJobSpec, resolved, by alias.")
    tracked_run: TrackedRun | None = None
    notices: list[str] = Field(default_factory=list)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what to_json wrote."""
        return cls.model_validate_json(text)

    def to_json(self) -> str:
        """Deterministic: equal configurations have equal text."""
        document = self.model_dump(mode="json", by_alias=True)
        return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n"

    def parsed_spec(self) -> FineTuneJobSpec:
        """The spec as a model."""
        return FineTuneJobSpec.model_validate(self.spec)
