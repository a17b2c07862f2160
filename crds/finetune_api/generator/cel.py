"""The CEL rules of the CRD: refusals and cross-field rules, as admission can express them.

Most come from the tables that `finetune validate` uses too; those written out here mirror a function in rules.py, and
a test feeds both the same bad manifests. Conditions on keys of two types and inside free-form objects cannot be said
here.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from finetune_api.constants import MAX_NAME_LENGTH
from finetune_api.generator.structural import OPEN, Path, Rule, Schema, cel_list, cel_literal
from finetune_api.methods import METHOD_ARGUMENTS
from finetune_api.overrides import LIFTED_KEYS
from finetune_api.resolve import MUTABLE_KEYS
from finetune_api.rules import RESERVED_ENV, SECRET_ENV
from finetune_api.support import REFUSALS
from finetune_api.training_args import ALWAYS_OWNED, RENAMED, SUPPORTED, harmless_values, refusal_text

GPUS = "(has(self.finetuningGpus) ? self.finetuningGpus : 1)"
PER_NODE = f"({GPUS} > 0 ? {GPUS} : (has(self.cpuProcesses) ? self.cpuProcesses : 1))"
WORLD = f"((has(self.nodes) ? self.nodes : 1) * {PER_NODE})"
# Phases in which the spec may change: no attempt lives or will, and the operator starts anew on a changed spec.
ENDED_PHASES = ("Succeeded", "Failed")


def spec_rules(properties: Mapping[str, Any]) -> dict[Path, list[Rule]]:
    """Rules of the objects below spec, by path. `properties` are those of the unruled structural schema of spec."""
    rules: dict[Path, list[Rule]] = defaultdict(list)
    _refusals(rules, properties)
    _training_args(rules[("training_args",)], properties["training_args"]["properties"])
    rules[()].extend(_between_sections())
    rules[("env", "[]")].extend(_env())
    rules[("env", "[]", "valueFrom")].append(
        Rule(
            "has(self.secretKeyRef) != has(self.configMapKeyRef)",
            "give exactly one of secretKeyRef and configMapKeyRef",
        )
    )
    for key in ("labels", "annotations"):
        rules[()].append(_reserved_keys(key))
    return {path: found for path, found in rules.items() if found}


def _refusals(rules: dict[Path, list[Rule]], properties: Mapping[str, Any]) -> None:
    for refusal in REFUSALS:
        *parents, key = refusal.path
        if refusal.path in OPEN:
            continue
        schema = _property(properties, refusal.path)
        conditions = [] if not refusal.absent_allowed else [f"!has(self.{key})"]
        if refusal.allowed:
            conditions.append(f"(has(self.{key}) && {_is_one_of(key, refusal.allowed, schema)})")
        rules[tuple(parents)].append(Rule(" || ".join(conditions), refusal.message, f".{key}"))


def _property(properties: Mapping[str, Any], path: tuple[str, ...]) -> Schema:
    schema: Schema = {"properties": properties}
    for key in path:
        schema = schema["properties"][key]
    return schema


def _is_one_of(key: str, allowed: tuple[Any, ...], schema: Schema) -> str:
    kind = schema.get("type", "string")
    literals = [cel_literal(value, kind) for value in allowed]
    return f"self.{key} == {literals[0]}" if len(literals) == 1 else f"self.{key} in [{', '.join(literals)}]"


def _training_args(rules: list[Rule], properties: Mapping[str, Schema]) -> None:
    for key, schema in properties.items():
        name = RENAMED[key].new if key in RENAMED else key
        if name in SUPPORTED or ("training_args", key) in OPEN:
            continue
        allowed = [] if name in ALWAYS_OWNED else [one for one in harmless_values(name) or () if one is not None]
        rules.append(Rule(_only(key, allowed, schema), refusal_text(name), f".{key}"))
    for old, renamed in RENAMED.items():
        rules.append(
            Rule(
                f"!has(self.{old}) || !has(self.{renamed.new})",
                f"{old} is the old name of {renamed.new}, which is given too; keep {renamed.new}",
                f".{old}",
            )
        )
    rules.append(
        Rule(
            "!(has(self.bf16) && self.bf16 && has(self.fp16) && self.fp16)",
            "bf16 and fp16 are both true; keep one (bf16 where the GPU has it)",
            ".fp16",
        )
    )
    evaluates = "(has(self.eval_strategy) && self.eval_strategy != 'no') || has(self.evaluation_strategy)"
    rules.append(
        Rule(
            f"!has(self.save_strategy) || self.save_strategy != 'best' || {evaluates}",
            "save_strategy best needs evaluation; set eval_strategy: steps or epoch",
            ".save_strategy",
        )
    )
    rules.append(
        Rule(
            f"!has(self.load_best_model_at_end) || !self.load_best_model_at_end || {evaluates}",
            "load_best_model_at_end needs evaluation; set eval_strategy: steps or epoch",
            ".load_best_model_at_end",
        )
    )


def _only(key: str, allowed: list[Any], schema: Schema) -> str:
    kind = schema.get("type")
    if kind == "array":
        return f"!has(self.{key}) || size(self.{key}) == 0" if [] in allowed else f"!has(self.{key})"
    if not allowed or kind == "object":
        return f"!has(self.{key})"
    scalars = tuple(dict.fromkeys(one for one in allowed if not isinstance(one, list)))
    return f"!has(self.{key}) || {_is_one_of(key, scalars, schema)}"


def _between_sections() -> list[Rule]:
    rules = [
        Rule(
            f"!has(self.{key}) || !has(self.overrides) || !has(self.overrides.{key}) || "
            f"self.{key} == self.overrides.{key}",
            f"{key} differs from overrides.{key}; give it once",
            f".{key}",
        )
        for key in LIFTED_KEYS
    ]
    rules.append(
        Rule(
            "has(self.sft_args) || (has(self.method) && self.method != 'sft')",
            "sft_args is required with method sft; {} takes every default",
        )
    )
    for method, key in METHOD_ARGUMENTS.items():
        rules.append(
            Rule(
                f"!has(self.{key}) || (has(self.method) ? self.method : 'sft') == '{method}'",
                f"{key} has no effect with another method; remove it or set method: {method}",
                f".{key}",
            )
        )
    rules += [
        Rule(
            f"self.batchsize_conf.total_train_batch_size % {WORLD} == 0",
            "total_train_batch_size must be divisible by the number of processes (nodes x finetuningGpus)",
            ".batchsize_conf.total_train_batch_size",
        ),
        Rule(
            f"!has(self.distributedType) || self.distributedType != 'auto-single-process' || {WORLD} == 1",
            "auto-single-process runs one process, but nodes x finetuningGpus is more; use auto-ddp or 1 GPU",
            ".distributedType",
        ),
        Rule(
            f"!has(self.cpuProcesses) || self.cpuProcesses == 1 || {GPUS} == 0",
            "cpuProcesses counts only with finetuningGpus: 0; remove one of them",
            ".cpuProcesses",
        ),
        Rule(
            "!has(self.workloadPriorityClassName) || has(self.queueName)",
            "workloadPriorityClassName orders a Kueue queue; give queueName too",
            ".workloadPriorityClassName",
        ),
        Rule(
            "self.data_conf.validation_data.type != 'NONE' || !has(self.training_args.eval_strategy) || "
            "self.training_args.eval_strategy == 'no'",
            "eval_strategy needs validation data, and data_conf.validation_data has type NONE; give data or set no",
            ".training_args.eval_strategy",
        ),
        Rule(
            f"!has(self.training_args.use_cpu) || !self.training_args.use_cpu || {GPUS} == 0",
            "use_cpu would leave the GPUs idle; set finetuningGpus: 0 to train on CPU",
            ".training_args.use_cpu",
        ),
        Rule(
            f"!has(self.training_args.fp16) || !self.training_args.fp16 || {GPUS} > 0",
            "fp16 needs a GPU, and finetuningGpus is 0; use bf16 or neither",
            ".training_args.fp16",
        ),
    ]
    for key in ("httpProxy", "httpsProxy", "bucketStorageHost"):
        rules.append(
            Rule(
                f"!has(self.{key}) || (self.{key}.matches('^https?://') && !self.{key}.contains('@'))",
                f"{key} must begin with http:// or https:// and hold no credentials",
                f".{key}",
            )
        )
    return rules


def _env() -> list[Rule]:
    return [
        Rule(
            "!self.name.matches('^(FINETUNE_|POD_|NODE_NAME|MLFLOW_RUN_ID|MLFLOW_TRACKING_URI|TORCHELASTIC_)') && "
            f"!(self.name in {cel_list(RESERVED_ENV)})",
            "this variable is set by the operator; remove it",
            ".name",
        ),
        Rule(
            f"!has(self.value) || !(self.name in {cel_list(SECRET_ENV)})",
            "no place for a secret; use hfTokenSecret, bucketCredentialsSecret or valueFrom.secretKeyRef",
            ".value",
        ),
        Rule("!has(self.value) || !has(self.valueFrom)", "give either value or valueFrom, not both", ".valueFrom"),
    ]


def _reserved_keys(key: str) -> Rule:
    domains = "finetune-operator.io/|kueue.x-k8s.io/|batch.kubernetes.io/|app.kubernetes.io/managed-by"
    domains = domains.replace(".", "[.]")
    return Rule(
        f"!has(self.{key}) || self.{key}.all(name, !name.matches('^({domains})'))",
        f"{key} of the operator and of Kueue are reserved; remove them (a queue is named by queueName)",
        f".{key}",
    )


def root_rules(spec_keys: list[str]) -> list[Rule]:
    """Rules of the whole object: its name, and what may not change while an attempt lives."""
    return [
        Rule(
            f"size(self.metadata.name) <= {MAX_NAME_LENGTH} && "
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            f"metadata.name must be at most {MAX_NAME_LENGTH} of a-z, 0-9 and '-', beginning with a letter and ending "
            "with a letter or digit, since the names of Jobs and volumes derive from it",
        ),
        *(_immutable(key) for key in spec_keys if key not in MUTABLE_KEYS),
    ]


def _immutable(key: str) -> Rule:
    """Presence and value both count, so that removing a key and adding it again is no way around.

    Comparing CEL optionals would say it shorter, but their estimated cost is unbounded.
    """
    new, old = f"self.spec.{key}", f"oldSelf.spec.{key}"
    return Rule(
        f"oldSelf.?status.phase.orValue('Failed') in {cel_list(ENDED_PHASES)} || "
        f"(has({new}) == has({old}) && (!has({new}) || {new} == {old}))",
        f"{key} cannot change until the job has succeeded or failed; delete it and apply it anew, or create another",
        f".spec.{key}",
    )
