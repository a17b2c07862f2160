"""From pydantic's JSON schema to a Kubernetes structural schema, refusing every construct it does not understand.

Structural schemas know no $ref, no anyOf for shapes, no null type and no numeric exclusiveMinimum. A converter that
passed unknown keywords on would produce a CRD that the apiserver rejects, or worse, one that checks less than the
models. Unions of objects become one closed object whose CEL rules say which keys belong to which member.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]
Path = tuple[str, ...]  # keys from the root; "[]" stands for list items, "*" for map values


class StructuralError(ValueError):
    """A construct that has no structural form; the message names it and its path."""


@dataclass(frozen=True)
class Rule:
    """A CEL rule (x-kubernetes-validations) of the object at a path."""

    expression: str
    message: str
    field_path: str | None = None
    reason: str | None = None

    def to_dict(self) -> Schema:
        """Its form in the CRD."""
        rule: Schema = {"rule": self.expression, "message": self.message}
        if self.reason:
            rule["reason"] = self.reason
        if self.field_path:
            rule["fieldPath"] = self.field_path
        return rule


# The keys whose inside a library defines: objects with unknown keys. What is in them fails in validation only.
FREE_FORM: tuple[Path, ...] = (
    ("peft_conf", "peft_kwargs"),
    ("customAccelerateConfig",),
    ("training_args", "lr_scheduler_kwargs"),
    ("training_args", "gradient_checkpointing_kwargs"),
    ("training_args", "activation_checkpointing_kwargs"),
    ("training_args", "liger_kernel_config"),
    ("training_args", "accelerator_config"),
    ("training_args", "parallelism_config"),
    ("training_args", "fsdp_config"),
    ("training_args", "deepspeed"),
)
# The keys of two types. int|str has a form of its own; the others are left open at admission.
INT_OR_STRING: tuple[Path, ...] = (("run_conf", "model_args", "max_memory", "*"),)
OPEN: tuple[Path, ...] = (
    ("run_conf", "resume_from_checkpoint"),
    ("run_conf", "model_args", "device_map"),
    ("training_args", "report_to"),
)

_ANNOTATIONS = {"title", "description", "default", "examples", "$defs"}
_KEYWORDS: dict[str, set[str]] = {
    "string": {"type", "minLength", "maxLength", "pattern", "enum", "const"},
    "integer": {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "const"},
    "number": {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": {"type"},
    "array": {"type", "items", "minItems", "maxItems"},
    "object": {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "maxProperties",
        "minProperties",
        "propertyNames",  # lengths of map keys: the models check them, structural schemas cannot
    },
}


@dataclass
class Converter:
    """Converts one model's JSON schema; rules by path are attached to the objects they belong to."""

    definitions: Mapping[str, Schema]
    rules: Mapping[Path, Iterable[Rule]] = field(default_factory=dict)
    keep_nullable: bool = True
    used_rules: set[Path] = field(default_factory=set)

    def convert(self, schema: Schema, path: Path = ()) -> Schema:
        """The structural form of a schema. Raises StructuralError."""
        schema = self._resolve(schema, path)
        described = {"description": _description(schema, path)} if "description" in schema else {}
        schema, nullable = self._without_null(schema, path)
        converted = {**described, **self._convert_shape(schema, path)}
        if nullable and self.keep_nullable and "enum" not in converted:  # an enum refuses null even if it lists it
            converted["nullable"] = True
        return converted

    def _resolve(self, schema: Schema, path: Path) -> Schema:
        """Follows $ref; the outer description and default win over the definition's."""
        if "$ref" not in schema:
            return schema
        name = schema["$ref"].removeprefix("#/$defs/")
        if name not in self.definitions:
            raise StructuralError(f"{_show(path)}: unknown reference {schema['$ref']}")
        outer = {key: value for key, value in schema.items() if key != "$ref"}
        return self._resolve({**self.definitions[name], **outer}, path)

    def _without_null(self, schema: Schema, path: Path) -> tuple[Schema, bool]:
        members = schema.get("anyOf")
        if members is None:
            return schema, False
        kept = [member for member in members if member.get("type") != "null"]
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        if len(kept) == 1:
            inner = self._resolve(kept[0], path)
            return {**inner, **{key: value for key, value in rest.items() if key in _ANNOTATIONS}}, len(kept) < len(
                members
            )
        return {**rest, "anyOf": kept}, len(kept) < len(members)

    def _convert_shape(self, schema: Schema, path: Path) -> Schema:
        if path in OPEN:
            return {"x-kubernetes-preserve-unknown-fields": True}
        if "oneOf" in schema:
            return self._union(schema, path)
        if "anyOf" in schema:
            kinds = {self._resolve(member, path).get("type") for member in schema["anyOf"]}
            if path in INT_OR_STRING and kinds == {"integer", "string"}:
                return {"x-kubernetes-int-or-string": True}
            raise StructuralError(f"{_show(path)}: a union of {sorted(map(str, kinds))} is not listed as of two types")
        kind = schema.get("type")
        if kind is None and "const" in schema:
            kind = "string"
        if kind not in _KEYWORDS:
            raise StructuralError(f"{_show(path)}: unknown type {kind!r} in {json.dumps(schema)[:200]}")
        unknown = set(schema) - _KEYWORDS[kind] - _ANNOTATIONS
        if unknown:
            raise StructuralError(f"{_show(path)}: unknown keywords {sorted(unknown)} of {kind}")
        converted: Schema = _CONVERTERS[kind](self, schema, path)
        return converted

    # --- shapes ---

    def _string(self, schema: Schema, path: Path) -> Schema:
        if "const" in schema:
            return {"type": "string", "enum": [schema["const"]]}
        if "enum" in schema:
            return {"type": "string", "enum": list(schema["enum"])}
        if "maxLength" not in schema:
            raise StructuralError(f"{_show(path)}: a string needs a maximum length")
        return {"type": "string", **_pick(schema, "minLength", "maxLength", "pattern")}

    def _number(self, schema: Schema, path: Path) -> Schema:
        converted: Schema = {"type": schema["type"], **_pick(schema, "minimum", "maximum")}
        for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if exclusive in schema:
                converted[bound] = schema[exclusive]
                converted[exclusive] = True
        return converted

    def _boolean(self, schema: Schema, path: Path) -> Schema:
        return {"type": "boolean"}

    def _array(self, schema: Schema, path: Path) -> Schema:
        if "maxItems" not in schema:
            raise StructuralError(f"{_show(path)}: a list needs a maximum length")
        return {
            "type": "array",
            **_pick(schema, "minItems", "maxItems"),
            "items": self.convert(schema["items"], (*path, "[]")),
        }

    def _object(self, schema: Schema, path: Path) -> Schema:
        extra = schema.get("additionalProperties", False)
        if "properties" not in schema and extra is True:
            if path not in FREE_FORM:
                raise StructuralError(f"{_show(path)}: an object of unknown keys is not listed in FREE_FORM")
            return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        if "properties" not in schema and isinstance(extra, dict):
            if "maxProperties" not in schema:
                raise StructuralError(f"{_show(path)}: a map needs a maximum size")
            return {
                "type": "object",
                "maxProperties": schema["maxProperties"],
                "additionalProperties": self.convert(extra, (*path, "*")),
            }
        if extra is not False:
            raise StructuralError(f"{_show(path)}: an object with properties must be closed")
        properties = {key: self.convert(inner, (*path, key)) for key, inner in schema.get("properties", {}).items()}
        converted: Schema = {"type": "object", "properties": properties}
        if schema.get("required"):
            converted["required"] = list(schema["required"])
        return self._with_rules(converted, path, [])

    def _union(self, schema: Schema, path: Path) -> Schema:
        members = [self._resolve(member, path) for member in schema["oneOf"]]
        union = UnionMerger(path, [self._member(member, path) for member in members])
        return self._with_rules(union.merged(), path, union.rules())

    def _member(self, member: Schema, path: Path) -> tuple[Schema, Mapping[str, Any]]:
        converted = self._object(member, path)
        converted.pop("x-kubernetes-validations", None)
        return converted, {key: inner.get("default") for key, inner in member.get("properties", {}).items()}

    def _with_rules(self, converted: Schema, path: Path, generated: list[Rule]) -> Schema:
        rules = [*generated, *self.rules.get(path, ())]
        if path in self.rules:
            self.used_rules.add(path)
        if rules:
            converted["x-kubernetes-validations"] = [rule.to_dict() for rule in rules]
        return converted


_CONVERTERS: dict[str, Any] = {
    "string": Converter._string,
    "integer": Converter._number,
    "number": Converter._number,
    "boolean": Converter._boolean,
    "array": Converter._array,
    "object": Converter._object,
}


@dataclass
class UnionMerger:
    """A discriminated union of objects as one closed object, with CEL rules for what belongs to which member."""

    path: Path
    members: list[tuple[Schema, Mapping[str, Any]]]

    @property
    def tag(self) -> str:
        """The key whose enums tell the members apart."""
        shared = set.intersection(*(set(schema["properties"]) for schema, _ in self.members))
        tags = [key for key in shared if all("enum" in schema["properties"][key] for schema, _ in self.members)]
        if len(tags) != 1:
            raise StructuralError(f"{_show(self.path)}: a union needs exactly one key that tells its members apart")
        return str(tags[0])

    def _tags(self, schema: Schema) -> list[str]:
        return list(schema["properties"][self.tag]["enum"])

    def merged(self) -> Schema:
        """All keys of all members."""
        tag = self.tag
        all_tags = [value for schema, _ in self.members for value in self._tags(schema)]
        if len(set(all_tags)) != len(all_tags):
            raise StructuralError(f"{_show(self.path)}: two members share a value of {tag}")
        properties: dict[str, Schema] = {}
        for schema, _ in self.members:
            for key, inner in schema["properties"].items():
                properties[key] = (
                    _merge_property(properties[key], inner, (*self.path, key)) if key in properties else inner
                )
        texts = [schema["properties"][tag].get("description", "") for schema, _ in self.members]
        properties[tag] = {"description": " ".join(dict.fromkeys(texts)), "type": "string", "enum": all_tags}
        required = [key for key in properties if all(key in schema.get("required", ()) for schema, _ in self.members)]
        merged: Schema = {"type": "object", "properties": properties}
        if required:
            merged["required"] = required
        return merged

    def rules(self) -> list[Rule]:
        """Which keys each member requires and which it does not know."""
        rules: list[Rule] = []
        keys = {key for schema, _ in self.members for key in schema["properties"]} - {self.tag}
        always = {key for key in keys if all(key in schema.get("required", ()) for schema, _ in self.members)}
        for key in sorted(keys):
            having = [
                value for schema, _ in self.members if key in schema["properties"] for value in self._tags(schema)
            ]
            lacking = [
                value for schema, _ in self.members if key not in schema["properties"] for value in self._tags(schema)
            ]
            if lacking:
                rules.append(
                    Rule(
                        f"!has(self.{key}) || !({self._tag_in(lacking)})",
                        f"{key} belongs to {self.tag} {_some(having)}; remove it or change {self.tag}",
                        f".{key}",
                    )
                )
            needing = [
                value for schema, _ in self.members if key in schema.get("required", ()) for value in self._tags(schema)
            ]
            if needing and key not in always:
                rules.append(
                    Rule(
                        f"has(self.{key}) || !({self._tag_in(needing)})",
                        f"{key} is required with {self.tag} {_some(needing)}",
                    )
                )
        rules.extend(self._item_rules())
        return rules

    def _item_rules(self) -> list[Rule]:
        """Keys of list items that only some members know."""
        rules: list[Rule] = []
        for key in {key for schema, _ in self.members for key in schema["properties"]}:
            shapes = [
                (set(schema["properties"][key]["items"]["properties"]), self._tags(schema))
                for schema, _ in self.members
                if schema["properties"].get(key, {}).get("items", {}).get("properties")
            ]
            for inner in sorted(set().union(*(shape for shape, _ in shapes)) if shapes else ()):
                lacking = [value for shape, tags in shapes if inner not in shape for value in tags]
                having = [value for shape, tags in shapes if inner in shape for value in tags]
                if lacking:
                    rules.append(
                        Rule(
                            f"!({self._tag_in(lacking)}) || !has(self.{key}) || "
                            f"self.{key}.all(item, !has(item.{inner}))",
                            f"{inner} belongs to {self.tag} {_some(having)}; remove it or change {self.tag}",
                            f".{key}",
                        )
                    )
        return rules

    def _tag_in(self, values: list[str]) -> str:
        tag = self.tag
        if all(tag in schema.get("required", ()) for schema, _ in self.members):
            return f"self.{tag} in {cel_list(values)}"
        defaults = [defaults.get(tag) for schema, defaults in self.members if tag not in schema.get("required", ())]
        absent = "true" if defaults[0] in values else "false"
        return f"has(self.{tag}) ? self.{tag} in {cel_list(values)} : {absent}"


def _merge_property(first: Schema, second: Schema, path: Path) -> Schema:
    if first == second:
        return first
    if "enum" in first and "enum" in second:
        return {**first, "enum": [*first["enum"], *(one for one in second["enum"] if one not in first["enum"])]}
    if first.get("type") == second.get("type") == "array":
        items = {**first["items"]}
        items["properties"] = {**first["items"]["properties"], **second["items"]["properties"]}
        return {**first, "items": items}
    raise StructuralError(f"{_show(path)}: members of a union give it different types")


def cel_list(values: Iterable[Any]) -> str:
    """A CEL list literal."""
    return "[" + ", ".join(cel_literal(value) for value in values) + "]"


def cel_literal(value: Any, number: str = "integer") -> str:
    """A CEL literal; `number` says whether the field is an integer or a number (a double)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(int(value)) if number == "integer" else repr(float(value))
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _description(schema: Schema, path: Path) -> str:
    text = str(schema["description"])
    if "{{" in text:
        raise StructuralError(f"{_show(path)}: '{{{{' in a description would break the chart's template")
    default = schema.get("default")
    if default is None or isinstance(default, dict | list) or "efault" in text or "const" in schema:
        return text
    return f"{text.rstrip()} Default: {default if isinstance(default, str) else json.dumps(default)}."


def _pick(schema: Schema, *keys: str) -> Schema:
    return {key: schema[key] for key in keys if key in schema}


def _some(values: list[str]) -> str:
    return values[0] if len(values) == 1 else " or ".join(values) if len(values) < 4 else "of a new adapter"


def _show(path: Path) -> str:
    return ".".join(path) or "spec"
