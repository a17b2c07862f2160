"""docs/reference: every key of spec and status, and what happens to each key of training_args."""

import json
from collections.abc import Iterator, Mapping

from finetune_api import dpo_config
from finetune_api.constants import API_VERSION, KIND
from finetune_api.generator.structural import Path, Schema
from finetune_api.support import REFUSALS
from finetune_api.training_args import OWNED, REMOVED, RENAMED, SUPPORTED, UNSUPPORTED_REASON, refusal_text, snapshot

NOTE = "<!-- Generated from finetune_api by `make generate`; do not edit. -->\n\n"


def spec_page(spec: Schema) -> str:
    """Every section of spec as a table."""
    lines = [
        NOTE + f"# {KIND}: spec\n",
        f"`apiVersion: {API_VERSION}`, `kind: {KIND}`. The same text is in the cluster: `kubectl explain ftj.spec`.",
        "Keys without a default are left to the operator or may be absent.",
        "",
        "Misspelt keys are refused by kubectl, Helm and server-side apply, which ask for strict field validation. A",
        "program that writes without it (`fieldValidation=Warn` is the API's default) gets a warning, and the key is",
        "dropped. What is inside free-form keys (`peft_kwargs`, `lr_scheduler_kwargs`, …) and keys of several types is",
        "checked by `finetune validate`, and by the operator, which says so in a condition.\n",
    ]
    for title, section in _sections("spec", spec, ()):
        lines += [f"## {title}\n", *_table(section), ""]
        lines += [
            f"- {rule['message']}"
            for rule in section.get("x-kubernetes-validations", ())
            if title != "spec.training_args"
        ]
        lines.append("")
    lines += ["## Not supported in this version\n", "| key | accepted | reason |", "|---|---|---|"]
    for refusal in REFUSALS:
        accepted = ", ".join(f"`{json.dumps(one)}`" for one in refusal.allowed) or "absent"
        lines.append(f"| {'.'.join(refusal.path)} | {accepted} | {_cell(refusal.message)} |")
    return "\n".join(lines) + "\n"


def status_page(status: Schema) -> str:
    """Every part of status as a table."""
    lines = [NOTE + f"# {KIND}: status\n", "Programs read `conditions`; `phase` is for people.\n"]
    for title, section in _sections("status", status, ()):
        lines += [f"## {title}\n", *_table(section), ""]
    return "\n".join(lines) + "\n"


def training_args_page() -> str:
    """What happens to each key of transformers.TrainingArguments."""
    lines = [
        NOTE + "# training_args\n",
        "The keys of transformers.TrainingArguments, of the pinned version and of older ones.\n",
        "## Supported\n",
        "| key | default | values | meaning |",
        "|---|---|---|---|",
    ]
    for name in SUPPORTED:
        described = snapshot()[name]
        choices = SUPPORTED[name].choices or described.get("choices") or ()
        values = ", ".join(choices) or " or ".join(described["kinds"])
        lines.append(f"| {name} | `{json.dumps(described.get('default'))}` | {values} | {_cell(described['help'])} |")
    lines += ["", "## Set by the operator\n", "| key | instead |", "|---|---|"]
    lines += [f"| {name} | {_cell(instead)} |" for name, instead in OWNED.items()]
    lines += ["", "## Renamed: translated, with a notice\n", "| old | new |", "|---|---|"]
    lines += [f"| {old} | {renamed.new} |" for old, renamed in RENAMED.items()]
    lines += ["", "## Removed\n", "| key | accepted | reason |", "|---|---|---|"]
    for name, (_, accepted, reason) in REMOVED.items():
        lines.append(f"| {name} | {', '.join(json.dumps(one) for one in accepted) or 'nothing'} | {_cell(reason)} |")
    lines += [
        "",
        "## Refused\n",
        "Accepted only with the default, which asks for nothing.\n",
        "| key | default | reason |",
        "|---|---|---|",
    ]
    for name, described in snapshot().items():
        if name not in SUPPORTED and name not in OWNED and name not in RENAMED:
            reason = UNSUPPORTED_REASON.get(name) or refusal_text(name).partition(": ")[2]
            lines.append(f"| {name} | `{json.dumps(described.get('default'))}` | {_cell(reason)} |")
    return "\n".join([*lines, *_dpo_config()]) + "\n"


def _dpo_config() -> list[str]:
    """What happens to each key that TRL's DPOConfig adds."""
    lines = [
        "",
        "## TRL's DPOConfig (method dpo)\n",
        "What it adds to TrainingArguments stands in `dpo_args`. In training_args these keys are refused, by name.\n",
        "| key | here |",
        "|---|---|",
    ]
    lines += [f"| {name} | dpo_args.{ours} |" for name, ours in dpo_config.OURS.items()]
    lines += [f"| {name} | refused: {_cell(reason)} |" for name, reason in dpo_config.REFUSED.items()]
    lines += ["", "| default of DPOConfig | here |", "|---|---|"]
    fields = dpo_config.snapshot()
    lines += [
        f"| {name}: `{json.dumps(fields[name].get('default'))}` | {_cell(said)} |"
        for name, said in dpo_config.DEFAULTS.items()
    ]
    return lines


def _sections(title: str, schema: Schema, path: Path) -> Iterator[tuple[str, Schema]]:
    """Every closed object, depth first."""
    yield title, schema
    for key, inner in schema["properties"].items():
        element = inner.get("items", inner)
        suffix = "[]" if "items" in inner else ""
        if "properties" in element:
            yield from _sections(f"{title}.{key}{suffix}", element, (*path, key))


def _table(section: Schema) -> list[str]:
    required = section.get("required", ())
    rows = ["| key | type | required | description |", "|---|---|---|---|"]
    for key, inner in section["properties"].items():
        mark = "yes" if key in required else ""
        rows.append(f"| {key} | {_type(inner)} | {mark} | {_cell(inner.get('description', ''))} |")
    return rows


def _type(schema: Mapping[str, object]) -> str:
    if "enum" in schema:
        values = schema["enum"]
        assert isinstance(values, list)
        return " \\| ".join(f"`{value}`" for value in values)
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    kind = schema.get("type")
    if kind == "array":
        items = schema["items"]
        assert isinstance(items, dict)
        return f"list of {_type(items)}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return "map"
    return str(kind) if kind else "of several types"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
