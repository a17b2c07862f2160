"""Assembles the CustomResourceDefinition from the models, the rules and the columns."""

from typing import Any

import yaml

from finetune_api.constants import GROUP, KIND, PLURAL, SHORT_NAMES, VERSION
from finetune_api.generator.cel import root_rules, spec_rules
from finetune_api.generator.structural import Converter, Schema, StructuralError
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus

SIZE_LIMIT = 200_000
COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("Phase", "string", ".status.phase", 0),
    ("Step", "string", ".status.progress.steps", 0),
    ("Loss", "number", ".status.progress.loss", 0),
    ("ETA", "string", ".status.progress.eta", 0),
    ("GPUs", "integer", ".status.gpus", 0),
    ("Attempt", "integer", ".status.attempt", 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Model", "string", ".spec.basemodel", 1),
    ("Run", "string", ".status.mlflow.runId", 1),
    ("Queue", "string", ".spec.queueName", 1),
)
SELECTABLE = (".spec.queueName", ".status.phase")


def spec_schema(with_rules: bool = True) -> Schema:
    """The structural schema of spec."""
    source = FineTuneJobSpec.model_json_schema(by_alias=True, mode="validation")
    plain = Converter(source["$defs"]).convert(source)
    if not with_rules:
        return plain
    rules = spec_rules(plain["properties"])
    converter = Converter(source["$defs"], rules)
    converted = converter.convert(source)
    unused = set(rules) - converter.used_rules
    if unused:
        raise StructuralError(f"rules for paths that do not exist: {sorted(unused)}")
    return converted


def status_schema() -> Schema:
    """The structural schema of status."""
    source = FineTuneJobStatus.model_json_schema(by_alias=True, mode="validation")
    for definition in (source, *source["$defs"].values()):
        definition["additionalProperties"] = False  # readers ignore unknown keys, the stored object has none
    converted = Converter(source["$defs"], keep_nullable=False).convert(source)
    conditions = converted["properties"]["conditions"]
    conditions["x-kubernetes-list-type"] = "map"
    conditions["x-kubernetes-list-map-keys"] = ["type"]
    # The one default: without it a job that no operator has seen counts as current for kstatus (helm --wait, Flux).
    converted["default"] = {"observedGeneration": -1}
    return converted


def build_crd() -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    spec = spec_schema()
    root: Schema = {
        "description": "A fine-tuning run of a language model, from download to exported model.",
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status_schema(),
        },
        "x-kubernetes-validations": [rule.to_dict() for rule in root_rules(list(spec["properties"]))],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": list(SHORT_NAMES),
                "categories": ["all", "finetune"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in COLUMNS],
                    "selectableFields": [{"jsonPath": path} for path in SELECTABLE],
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def _column(name: str, kind: str, path: str, priority: int) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    if priority:
        column["priority"] = priority
    return column


class _Dumper(yaml.SafeDumper):
    """No aliases: the same rule in two places is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(document: Any) -> str:
    """Deterministic YAML; innermost objects on one line, which saves a sixth of the size in indents."""
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, width=100_000, allow_unicode=True, default_flow_style=None
    )
    return text


def crd_text() -> str:
    """The CRD as YAML. Raises StructuralError if it is too large for client-side apply's annotation to be sensible."""
    text = to_yaml(build_crd())
    if len(text.encode()) > SIZE_LIMIT:
        raise StructuralError(f"the CRD has {len(text.encode())} bytes; the limit is {SIZE_LIMIT}")
    return text
