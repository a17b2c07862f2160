"""The rules between keys, each a small function over raw spec data, so that all of them speak at once.

They read plain dictionaries and skip what has a wrong type (the schema says that), so a manifest with a misspelt key
still gets its arithmetic checked. What admission can express too is repeated as CEL in generator/cel.py; a test holds
both to the same table of bad manifests.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from finetune_api.batch import not_divisible_message
from finetune_api.locations import BUCKETS, LocationError, parse_location
from finetune_api.methods import METHOD_ARGUMENTS
from finetune_api.peft_kwargs import check_peft_kwargs
from finetune_api.placement import PlacementError, place
from finetune_api.rules_adapters import check_adapter, check_quantization
from finetune_api.rules_data import check_pairs, check_text_files
from finetune_api.rules_evaluation import check_auto, check_evaluation_conf
from finetune_api.rules_model import check_model_hyperparameters, check_plain_text
from finetune_api.rules_preference import check_preference
from finetune_api.rules_security import METADATA_MESSAGE, check_security, metadata_host, private_place
from finetune_api.rules_sharding import check_sharding
from finetune_api.rules_training import check_training_args
from finetune_api.support import check_support
from finetune_api.violations import Violation

Spec = Mapping[str, Any]
RESERVED_ENV_PREFIXES = ("FINETUNE_", "POD_", "NODE_NAME", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "TORCHELASTIC_")
RESERVED_ENV = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SECRET_ENV = {
    "HF_TOKEN": "hfTokenSecret",
    "HUGGING_FACE_HUB_TOKEN": "hfTokenSecret",
    "AWS_ACCESS_KEY_ID": "bucketCredentialsSecret",
    "AWS_SECRET_ACCESS_KEY": "bucketCredentialsSecret",
    "AWS_SESSION_TOKEN": "valueFrom.secretKeyRef",
    "MLFLOW_TRACKING_PASSWORD": "valueFrom.secretKeyRef",
    "MLFLOW_TRACKING_TOKEN": "valueFrom.secretKeyRef",
}
RESERVED_LABEL_DOMAINS = (
    "finetune-operator.io/",
    "kueue.x-k8s.io/",
    "batch.kubernetes.io/",
    "app.kubernetes.io/managed-by",
)
DATA_TYPE_OF_METHOD = {"sft": "ChatConversation"}


def section(spec: Any, *path: str) -> Spec:
    """The mapping at a path, empty if it is absent or of a wrong type."""
    for name in path:
        spec = spec.get(name) if isinstance(spec, Mapping) else None
    return spec if isinstance(spec, Mapping) else {}


def whole(value: Any, default: int) -> int:
    """An integer, or the default if it is absent or of a wrong type."""
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def world_size(spec: Spec) -> int:
    """Number of training processes: nodes x finetuningGpus, or nodes x cpuProcesses when there is no GPU."""
    gpus = whole(spec.get("finetuningGpus"), 1)
    per_node = gpus if gpus > 0 else whole(spec.get("cpuProcesses"), 1)
    return max(1, whole(spec.get("nodes"), 1) * per_node)


def check_lifted_overrides(spec: Spec) -> Iterator[Violation]:
    overrides = section(spec, "overrides")
    for key in ("num_train_epochs", "lr_multiplier", "lr_batch_size_scaling"):
        lifted, nested = spec.get(key), overrides.get(key)
        if lifted is not None and nested is not None and lifted != nested:
            yield Violation((key,), f"{key} is {lifted} here but {nested} in overrides.{key}; give it once")


def check_method_arguments(spec: Spec) -> Iterator[Violation]:
    method = spec.get("method") or "sft"
    if not isinstance(method, str) or method not in METHOD_ARGUMENTS:
        return
    wanted = METHOD_ARGUMENTS[method]
    if spec.get(wanted) is None and method == "sft":
        yield Violation((wanted,), f"{wanted} is required with method {method}; {{}} takes every default")
    for other, key in METHOD_ARGUMENTS.items():
        if other != method and spec.get(key) is not None:
            yield Violation((key,), f"{key} has no effect with method {method}; remove it or set method: {other}")


def check_batch(spec: Spec) -> Iterator[Violation]:
    total = whole(section(spec, "batchsize_conf").get("total_train_batch_size"), 0)
    processes = world_size(spec)
    if total >= 1 and total % processes:
        yield Violation(("batchsize_conf", "total_train_batch_size"), not_divisible_message(total, processes))


def check_processes(spec: Spec) -> Iterator[Violation]:
    distributed, processes = spec.get("distributedType"), world_size(spec)
    if distributed == "auto-single-process" and processes > 1:
        yield Violation(
            ("distributedType",),
            f"auto-single-process runs one process, but nodes x finetuningGpus is {processes}; use auto-ddp or 1 GPU",
        )
    if whole(spec.get("cpuProcesses"), 1) > 1 and whole(spec.get("finetuningGpus"), 1) > 0:
        yield Violation(("cpuProcesses",), "cpuProcesses counts only with finetuningGpus: 0; remove one of them")
    if distributed == "custom-accelerate-config" and spec.get("customAccelerateConfig") is None:
        yield Violation(
            ("customAccelerateConfig",), "distributedType custom-accelerate-config needs customAccelerateConfig"
        )
    if spec.get("minNodes") is not None:
        if spec.get("queueName") is None:
            yield Violation(("minNodes",), "minNodes lets a Kueue queue grant fewer nodes; give queueName too")
        if whole(spec.get("minNodes"), 1) >= whole(spec.get("nodes"), 1):
            yield Violation(("minNodes",), "minNodes must be less than nodes; remove it to start with all or none")
    if spec.get("workloadPriorityClassName") is not None and spec.get("queueName") is None:
        yield Violation(
            ("workloadPriorityClassName",), "workloadPriorityClassName orders a Kueue queue; give queueName too"
        )


def check_data(spec: Spec) -> Iterator[Violation]:
    data = section(spec, "data_conf")
    method = spec.get("method") or "sft"
    wanted = DATA_TYPE_OF_METHOD.get(method) if isinstance(method, str) else None
    for name in ("training_data", "validation_data"):
        source = section(data, name)
        given = source.get("data_type")
        if wanted and isinstance(given, str) and given != wanted:
            yield Violation(
                ("data_conf", name, "data_type"),
                f"data_type is {wanted} with this method, not {given}; leave it out",
            )
    training = section(data, "training_data")
    datasets = training.get("datasets")
    if training.get("type") == "PRECOMPUTE_WEIGHTED_MIX" and isinstance(datasets, list) and datasets:
        weights = [item.get("sampling_weight", 1.0) for item in datasets if isinstance(item, Mapping)]
        if weights and all(isinstance(weight, int | float) and weight == 0 for weight in weights):
            yield Violation(
                ("data_conf", "training_data", "datasets"),
                "every sampling_weight is 0; give at least one dataset weight",
            )


def check_locations(spec: Spec) -> Iterator[Violation]:
    basemodel = spec.get("basemodel")
    if isinstance(basemodel, str) and basemodel:
        yield from _check_location(("basemodel",), basemodel, ("local", "hf", *BUCKETS, "pvc"))
        revision = section(spec, "run_conf", "model_args").get("revision")
        if isinstance(revision, str) and revision != "main" and not basemodel.startswith("hf://"):
            yield Violation(
                ("run_conf", "model_args", "revision"),
                f"revision {revision} counts only with a basemodel of hf://; name the path of that version instead",
            )
    tokenizer = section(spec, "run_conf").get("tokenizer")
    if isinstance(tokenizer, str) and tokenizer:
        bare = "://" not in tokenizer and not tokenizer.startswith("/")  # a Hugging Face id
        text = f"hf://{tokenizer}" if bare else tokenizer
        yield from _check_location(("run_conf", "tokenizer"), text, ("local", "hf", *BUCKETS))
    adapter = section(spec, "peft_conf").get("name_or_path")
    if isinstance(adapter, str) and adapter:
        bare = "://" not in adapter and not adapter.startswith("/")
        text = f"hf://{adapter}" if bare else adapter
        yield from _check_location(("peft_conf", "name_or_path"), text, ("local", "hf", *BUCKETS))
    remote = spec.get("checkpointsRemote")
    if isinstance(remote, str) and remote:
        yield from _check_location(("checkpointsRemote",), remote, BUCKETS)
    for name in ("training_data", "validation_data"):
        datasets = section(spec, "data_conf", name).get("datasets")
        for index, item in enumerate(datasets if isinstance(datasets, list) else ()):
            path = item.get("path") if isinstance(item, Mapping) else None
            if isinstance(path, str) and path:
                where = ("data_conf", name, "datasets", index, "path")
                yield from _check_location(
                    where, path, ("local", "hf", *BUCKETS, "http", "https", "pvc", "configmap", "dataset"), file=True
                )


def _check_location(
    where: tuple[str | int, ...], text: str, schemes: tuple[str, ...], file: bool = False
) -> Iterator[Violation]:
    try:
        location = parse_location(text)
    except LocationError as error:
        yield Violation(where, str(error))
        return
    if location.scheme in ("http", "https") and metadata_host(text):
        yield Violation(where, METADATA_MESSAGE.format(url=text))
    elif location.scheme == "local" and private_place(location.path):
        yield Violation(where, f"{text!r} is a place of the pod's own, which holds no models or data; name another")
    elif location.scheme not in schemes:
        yield Violation(where, f"{location.scheme}:// cannot be used here; use {', '.join(_shown(schemes))}")
    elif file and not location.path and location.scheme not in ("hf", "dataset"):
        yield Violation(where, f"{text!r} names no file or folder; write its whole path")
    elif file and not location.path and location.scheme == "hf" and not location.container.startswith("datasets/"):
        yield Violation(
            where, f"{text!r} is a model's repository; write hf://datasets/{location.container} for a dataset"
        )


def _shown(schemes: tuple[str, ...]) -> list[str]:
    return ["an absolute path" if scheme == "local" else f"{scheme}://" for scheme in schemes]


def check_device_map(spec: Spec) -> Iterator[Violation]:
    wanted = section(spec, "run_conf", "model_args").get("device_map")
    try:
        place(wanted, processes=world_size(spec), on_cpu=whole(spec.get("finetuningGpus"), 1) == 0)
    except PlacementError as error:
        yield Violation(("run_conf", "model_args", "device_map"), str(error))


ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


def check_attention(spec: Spec) -> Iterator[Violation]:
    wanted = section(spec, "run_conf", "model_args").get("attn_implementation")
    where = ("run_conf", "model_args", "attn_implementation")
    if not isinstance(wanted, str):
        return
    if wanted not in ATTENTIONS:
        yield Violation(where, f"attn_implementation {wanted} is not one of {', '.join(ATTENTIONS)}")
    elif wanted not in ATTENTIONS[:2] and whole(spec.get("finetuningGpus"), 1) == 0:
        yield Violation(where, f"attn_implementation {wanted} needs a GPU to train; use sdpa or eager on the CPU")


def check_urls(spec: Spec) -> Iterator[Violation]:
    for key in ("httpProxy", "httpsProxy", "bucketStorageHost"):
        url = spec.get(key)
        if not isinstance(url, str) or not url:
            continue
        if not url.startswith(("http://", "https://")):
            yield Violation((key,), f"{key} must begin with http:// or https://, not {url!r}")
        elif "@" in url:
            yield Violation((key,), f"{key} must not hold credentials; a manifest is not a safe place for them")
    uri = section(spec, "tracking").get("mlflow_server_uri")
    if isinstance(uri, str) and "@" in uri.partition("://")[2].split("/")[0]:
        yield Violation(
            ("tracking", "mlflow_server_uri"),
            "credentials do not belong into a URI; give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in env "
            "with valueFrom.secretKeyRef",
        )


def check_env(spec: Spec) -> Iterator[Violation]:
    seen: set[str] = set()
    variables = spec.get("env")
    for index, variable in enumerate(variables if isinstance(variables, list) else ()):
        if not isinstance(variable, Mapping) or not isinstance(variable.get("name"), str):
            continue
        name, has_value = variable["name"], variable.get("value") is not None
        where = ("env", index, "name")
        if name in seen:
            yield Violation(where, f"{name} is given twice; keep one")
        seen.add(name)
        if name.startswith(RESERVED_ENV_PREFIXES) or name in RESERVED_ENV:
            yield Violation(where, f"{name} is set by the operator; remove it")
        elif name in SECRET_ENV and has_value:
            yield Violation(where, f"{name} does not belong into a manifest; use {SECRET_ENV[name]}")
        if has_value and variable.get("valueFrom") is not None:
            yield Violation(("env", index, "valueFrom"), f"{name} has both value and valueFrom; keep one")
        source = variable.get("valueFrom")
        if isinstance(source, Mapping) and len([one for one in source.values() if one is not None]) != 1:
            yield Violation(("env", index, "valueFrom"), "give exactly one of secretKeyRef and configMapKeyRef")


def check_metadata_keys(spec: Spec) -> Iterator[Violation]:
    for where in ("labels", "annotations"):
        for key in section(spec, where):
            if isinstance(key, str) and key.startswith(RESERVED_LABEL_DOMAINS):
                hint = "use queueName" if key.startswith("kueue.x-k8s.io/") else "the operator sets it"
                yield Violation((where, key), f"{key} is reserved: {hint}; remove it")


def check_distribution(spec: Spec) -> Iterator[Violation]:
    yield from check_sharding(spec, world_size(spec))


RULES: tuple[Callable[[Spec], Iterator[Violation]], ...] = (
    check_support,
    check_lifted_overrides,
    check_method_arguments,
    check_batch,
    check_processes,
    check_distribution,
    check_data,
    check_plain_text,
    check_model_hyperparameters,
    check_locations,
    check_device_map,
    check_attention,
    check_urls,
    check_env,
    check_metadata_keys,
    check_security,
    check_quantization,
    check_adapter,
    check_training_args,
    check_preference,
    check_pairs,
    check_text_files,
    check_evaluation_conf,
    check_auto,
    check_peft_kwargs,
)


def check_rules(spec: Spec) -> Iterator[Violation]:
    """Every violation of every rule."""
    for rule in RULES:
        yield from rule(spec)
