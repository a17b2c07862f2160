"""The base of every model in the API: closed, strict, and bounded, so that nothing is accepted and then ignored.

Strict because the apiserver is: a manifest that `kubectl apply` refuses must not pass `finetune validate`. Bounded
because CEL's cost budget is computed from the largest possible value of every string, list and map.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class SpecModel(BaseModel):
    """A section whose keys are snake_case in YAML, as in the engine's config schema."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class CamelModel(SpecModel):
    """A section whose keys are camelCase in YAML, as Kubernetes' own."""

    model_config = ConfigDict(alias_generator=to_camel)


class ReportModel(BaseModel):
    """What pods and the operator report. Reads both spellings and ignores unknown keys, so that versions may differ."""

    model_config = ConfigDict(
        extra="ignore",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        defer_build=True,
    )

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: camelCase, without what is unknown."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


# A DNS-1123 label or subdomain: names of secrets, config maps, queues, classes.
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
Word = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=1024)]
LocationText = Annotated[str, Field(min_length=1, max_length=1024)]
Quantity = Annotated[
    str, Field(min_length=1, max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
]
FreeForm = dict[str, Any]  # objects whose keys a library defines; see generator/structural.py for the list
