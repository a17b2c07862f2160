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
from finetune_api.peft_types import CANNOT_MERGE
from finetune_api.resolve import MUTABLE_KEYS
from finetune_api.rules import RESERVED_ENV, SECRET_ENV
from finetune_api.rules_data import PAIRS_NEEDED, PLAIN_TEXT, SAME_KEY
from finetune_api.rules_evaluation import EVENT_KEYS, NEED_VALIDATION
from finetune_api.rules_model import (
    DEFAULT_TEMPLATE,
    DROPOUT_OFF,
    NO_PAIRS,
    NO_TEMPLATE,
    SCRATCH_ADAPTER,
    SCRATCH_QUANTISED,
    SIZES,
    SIZES_OF_SCRATCH,
)
from finetune_api.rules_security import (
    CODE_ENV,
    CODE_ENV_MESSAGE,
    CODE_ENV_PREFIXES,
    CONTROLLED_NAMES,
    CONTROLLED_PREFIXES,
    HARMLESS_ENV,
    REMOTE_CODE_MESSAGE,
    REVISION_PATTERN,
    SYSTEM_PRIORITY_MESSAGE,
)
from finetune_api.rules_sharding import ADAPTERS as SPLIT_ADAPTERS
from finetune_api.rules_sharding import FIX as SPLIT_FIX
from finetune_api.rules_sharding import OPTIMIZERS as SPLIT_OPTIMIZERS
from finetune_api.support import REFUSALS
from finetune_api.training_args import (
    ALWAYS_OWNED,
    REFUSED_VALUES,
    RENAMED,
    SUPPORTED,
    WITHOUT_EFFECT,
    harmless_values,
    refusal_text,
)

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
    rules[()].extend([*_between_sections(), *_pairs(), *_plain_text(), *_from_scratch()])
    given = " || ".join(f"has(self.model_hyperparameters.{key})" for key in SIZES)
    rules[("run_conf",)].append(
        Rule(
            f"!has(self.model_hyperparameters) || (has(self.from_scratch) && self.from_scratch) || !({given})",
            SIZES_OF_SCRATCH.format(key="them"),
            ".model_hyperparameters",
        )
    )
    rules[()].extend(_evaluation_conf())
    rules[()].extend(_split_weights())
    rules[()].extend(_security())
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
        if name in SUPPORTED or name in WITHOUT_EFFECT or ("training_args", key) in OPEN:
            continue
        allowed = [] if name in ALWAYS_OWNED else [one for one in harmless_values(name) or () if one is not None]
        rules.append(Rule(_only(key, allowed, schema), refusal_text(name), f".{key}"))
    for key, refused in REFUSED_VALUES.items():
        for value, reason in refused.items():
            rules.append(Rule(f"!has(self.{key}) || self.{key} != '{value}'", f"{value} {reason}", f".{key}"))
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
            f"!has(self.mergeAdapter) || !self.mergeAdapter || !(self.peft_conf.peft_type in {cel_list(CANNOT_MERGE)})",
            "an adapter of this type cannot be merged into the model; set mergeAdapter: false",
            ".mergeAdapter",
        ),
        Rule(
            "self.peft_conf.peft_type != 'NO_PEFT' || !has(self.quant_conf) || (has(self.quant_conf.quantization_type) "
            "&& self.quant_conf.quantization_type == 'no-quantization')",
            "quantised weights cannot be trained; use an adapter (LORA is the usual one) or remove quant_conf",
            ".peft_conf.peft_type",
        ),
        Rule(
            "!has(self.minNodes) || has(self.queueName)",
            "minNodes lets a Kueue queue grant fewer nodes; give queueName too",
            ".minNodes",
        ),
        Rule(
            "!has(self.minNodes) || (has(self.nodes) && self.minNodes < self.nodes)",
            "minNodes must be less than nodes; remove it to start with all or none",
            ".minNodes",
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


def _split_weights() -> list[Rule]:
    """What stage 3 splits cannot be whole. Of customAccelerateConfig the schema sees nothing but that it is there."""
    split = f"has(self.distributedType) && self.distributedType == 'auto-deepspeed-stage3' && {WORLD} > 1"
    plain = "has(self.quant_conf.quantization_type) && self.quant_conf.quantization_type == 'no-quantization'"
    conditions = {
        "quant_conf": f"!has(self.quant_conf) || ({plain})",
        "peft_conf.peft_type": f"self.peft_conf.peft_type in {cel_list(SPLIT_ADAPTERS)}",
        "training_args.optim": "!has(self.training_args.optim) || "
        f"self.training_args.optim in {cel_list(SPLIT_OPTIMIZERS)}",
        "training_args.fp16": "!has(self.training_args.fp16) || !self.training_args.fp16",
        "overrides.auto": "!has(self.overrides) || !has(self.overrides.auto) || self.overrides.auto.size() == 0",
        "evaluation_conf.sample_prompts": "!has(self.evaluation_conf) || !has(self.evaluation_conf.sample_prompts) || "
        "self.evaluation_conf.sample_prompts.size() == 0",
        "method": "!has(self.method) || self.method != 'dpo'",
    }
    rules = [
        Rule(
            f"!({split}) || {condition}",
            f"{key} needs whole weights, which auto-deepspeed-stage3 splits; {SPLIT_FIX}",
            f".{key}",
        )
        for key, condition in conditions.items()
    ]
    custom = "has(self.distributedType) && self.distributedType == 'custom-accelerate-config'"
    return [
        *rules,
        Rule(
            f"!has(self.customAccelerateConfig) || ({custom})",
            "customAccelerateConfig has no effect without distributedType: custom-accelerate-config",
            ".customAccelerateConfig",
        ),
    ]


def _evaluation_conf() -> list[Rule]:
    """Of finetune_api.rules_evaluation, what admission can say."""
    conf, args = "self.evaluation_conf", "self.training_args"
    events = f"(has({conf}) && (has({conf}.every_n_epochs) || has({conf}.max_events)))"
    evaluates = (
        f"{events} || has({args}.evaluation_strategy) || (has({args}.eval_strategy) && {args}.eval_strategy != 'no')"
    )
    needing = " && ".join(f"!has({conf}.{key})" for key in NEED_VALIDATION)
    watching = " && ".join(f"!has({conf}.{key})" for key in ("keep_best", "early_stopping_patience", "sample_prompts"))
    said = " && ".join(f"!has({args}.{key})" for key in (*EVENT_KEYS, "evaluation_strategy"))
    auto = "!has(self.overrides) || !has(self.overrides.auto)"
    return [
        Rule(
            f"!has({conf}) || self.data_conf.validation_data.type != 'NONE' || ({needing})",
            "these keys need validation data, and data_conf.validation_data has type NONE; give data or remove them",
            ".evaluation_conf",
        ),
        Rule(
            f"!{events} || ({said})",
            "evaluation_conf already says when to validate and save, always together; keep it or the keys here",
            ".training_args",
        ),
        Rule(
            f"!has({conf}) || ({watching}) || {evaluates}",
            "these keys need evaluations; give evaluation_conf.every_n_epochs or training_args.eval_strategy",
            ".evaluation_conf",
        ),
        Rule(
            f"!has({conf}) || !has({conf}.keep_best) || !has({args}.save_total_limit)",
            "evaluation_conf.keep_best already says which checkpoints stay; keep it or save_total_limit",
            ".training_args.save_total_limit",
        ),
        Rule(
            f"!has({args}.load_best_model_at_end) || !{args}.load_best_model_at_end || {evaluates}",
            "load_best_model_at_end needs evaluation; set eval_strategy: steps or epoch",
            ".training_args.load_best_model_at_end",
        ),
        Rule(
            f"{auto} || !('learning_rate' in self.overrides.auto) || !has({args}.learning_rate)",
            "learning_rate is given, but overrides.auto shall find it; keep one",
            ".training_args.learning_rate",
        ),
        *(
            Rule(
                f"{auto} || !('precision' in self.overrides.auto) || !has({args}.{key}) || !{args}.{key}",
                f"{key} is given, but overrides.auto shall find the precision; keep one",
                f".training_args.{key}",
            )
            for key in ("bf16", "fp16")
        ),
    ]


def _pairs() -> list[Rule]:
    data = "self.data_conf"
    source, target = f"has({data}.input_key)", f"has({data}.output_key)"
    other = "(has(self.method) && self.method != 'sft')"
    differ = " && ".join(  # written without ?:, whose result CEL's cost estimate takes for boundless text
        (
            f"(!{source} || !{target} || {data}.input_key != {data}.output_key)",
            f"({target} || !{source} || {data}.input_key != 'output')",
            f"({source} || !{target} || {data}.output_key != 'input')",
        )
    )
    text = [
        Rule(
            f"(has(self.method) && self.method == 'clm') || !has({data}.{name}.datasets) || "
            f"{data}.{name}.datasets.all(one, !has(one.format) || one.format != 'text')",
            PLAIN_TEXT,
            f".data_conf.{name}.datasets",
        )
        for name in ("training_data", "validation_data")
    ]
    return [
        Rule(
            f"{other} || {source} || {target} || !has({data}.chat_template_name) || "
            f"{data}.chat_template_name != 'none'",
            PAIRS_NEEDED,
            ".data_conf.chat_template_name",
        ),
        Rule(f"{other} || ({differ})", SAME_KEY, ".data_conf"),
        *text,
    ]


def _plain_text() -> list[Rule]:
    other = "!has(self.method) || self.method != 'clm'"
    return [
        Rule(
            f"{other} || !has(self.data_conf.chat_template_name) || "
            f"self.data_conf.chat_template_name == '{DEFAULT_TEMPLATE}'",
            NO_TEMPLATE,
            ".data_conf.chat_template_name",
        ),
        *(
            Rule(f"{other} || !has(self.data_conf.{key})", NO_PAIRS.format(key=key), f".data_conf.{key}")
            for key in ("input_key", "output_key")
        ),
    ]


def _from_scratch() -> list[Rule]:
    pretrained = "!has(self.run_conf.from_scratch) || !self.run_conf.from_scratch"
    changed = "self.run_conf.model_hyperparameters"
    kept = "(has(self.dpo_args) && has(self.dpo_args.disable_dropout) && !self.dpo_args.disable_dropout)"
    return [
        Rule(
            f"!has(self.method) || self.method != 'dpo' || !has({changed}) || !has({changed}.dropout) || "
            f"{changed}.dropout == 0.0 || {kept}",
            DROPOUT_OFF,
            ".run_conf.model_hyperparameters",
        ),
        Rule(f"{pretrained} || self.peft_conf.peft_type == 'NO_PEFT'", SCRATCH_ADAPTER, ".peft_conf"),
        Rule(
            f"{pretrained} || !has(self.quant_conf) || (has(self.quant_conf.quantization_type) && "
            "self.quant_conf.quantization_type == 'no-quantization')",
            SCRATCH_QUANTISED,
            ".quant_conf",
        ),
    ]


def _security() -> list[Rule]:
    args = "self.run_conf.model_args"
    return [
        Rule(
            f"!has({args}) || !has({args}.trust_remote_code) || !{args}.trust_remote_code || (has({args}.revision) && "
            f"{args}.revision.matches('{REVISION_PATTERN}') && self.basemodel.startsWith('hf://') && "
            "!self.basemodel.contains('@'))",
            REMOTE_CODE_MESSAGE,
            ".run_conf.model_args",
        ),
        Rule(
            "!has(self.priorityClassName) || !self.priorityClassName.startsWith('system-')",
            SYSTEM_PRIORITY_MESSAGE,
            ".priorityClassName",
        ),
    ]


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
        Rule(
            f"!(self.name in {cel_list(CODE_ENV)}) && (!self.name.matches('^({'|'.join(CODE_ENV_PREFIXES)})') || "
            f"self.name in {cel_list(HARMLESS_ENV)})",
            CODE_ENV_MESSAGE,
            ".name",
        ),
        Rule("!has(self.value) || !has(self.valueFrom)", "give either value or valueFrom, not both", ".valueFrom"),
    ]


def _reserved_keys(key: str) -> Rule:
    domains = "finetune-operator.io/|kueue.x-k8s.io/|batch.kubernetes.io/|app.kubernetes.io/managed-by"
    domains = "|".join((domains, *(f"{name}$" for name in CONTROLLED_NAMES), *CONTROLLED_PREFIXES)).replace(".", "[.]")
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
