"""charts/finetune-operator as Helm renders it: safe by default, at one with itself and with the operator's settings."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from finetune_api import constants
from finetune_operator import settings as operator_settings

CHART = "finetune-operator"
CI_VALUES = sorted((Path(__file__).resolve().parents[2] / "charts" / CHART / "ci").glob("*-values.yaml"))
ci_values = pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)


def sets(values: Iterable[str]) -> list[str]:
    return [argument for value in values for argument in ("--set", value)]


def env_of(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def violations_of_restricted(pod: dict[str, Any]) -> list[str]:
    """What Pod Security 'restricted' (v1.36) would object to, for the fields that our charts set."""
    context = pod.get("securityContext", {})
    wrong = []
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
        wrong.append("may run as root")
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        wrong.append("no seccomp profile")
    wrong += [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    kinds = {kind for volume in pod.get("volumes", []) for kind in volume if kind != "name"}
    allowed = {"configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
    wrong += [f"volume of type {kind}" for kind in kinds - allowed]
    for container in containers(pod):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            wrong.append(f"{container['name']}: privilege escalation")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            wrong.append(f"{container['name']}: capabilities")
        if own.get("privileged") or own.get("runAsUser") == 0 or own.get("runAsNonRoot") is False:
            wrong.append(f"{container['name']}: privileged")
        wrong += [f"{container['name']}: hostPort" for port in container.get("ports", []) if "hostPort" in port]
    return wrong


@ci_values
def test_lint_finds_nothing(helm: Any, values: Path) -> None:
    helm("lint", "--strict", f"charts/{CHART}", "-f", str(values))


@ci_values
def test_every_pod_meets_the_restricted_pod_security_standard(render: Any, values: Path) -> None:
    pods = list(render(CHART, "-f", str(values)).pods())
    assert {"fo-finetune-operator", "fo-finetune-operator-test"} <= {name for name, _ in pods}
    for name, pod in pods:
        assert violations_of_restricted(pod) == [], name
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, (name, container["name"])
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, (name, container["name"])
            assert "memory" in container["resources"]["limits"], (name, container["name"])


def test_only_who_talks_to_the_api_server_has_a_token(render: Any) -> None:
    pods = dict(render(CHART, "--set", "mlflow.enabled=true").pods())
    tokens = {name for name, pod in pods.items() if pod["automountServiceAccountToken"] is not False}
    assert tokens == {"fo-finetune-operator", "fo-finetune-operator-test"}


@pytest.mark.parametrize(
    ("values", "operator", "trainer"),
    [
        ([], "finetune-operator/operator:0.1.0", "finetune-operator/trainer:0.1.0"),
        (
            ["image.registry=registry.example.com:5000/ml", "image.tag=v2"],
            "registry.example.com:5000/ml/finetune-operator/operator:v2",
            "registry.example.com:5000/ml/finetune-operator/trainer:0.1.0",
        ),
        (
            ["trainerImage.tag=v2", f"trainerImage.digest=sha256:{'a' * 64}"],
            "finetune-operator/operator:0.1.0",
            f"finetune-operator/trainer@sha256:{'a' * 64}",
        ),
        (["trainerImage.repository=own"], "finetune-operator/operator:0.1.0", "own:0.1.0"),
    ],
)
def test_images(render: Any, values: list[str], operator: str, trainer: str) -> None:
    objects = render(CHART, "--set", "mlflow.enabled=true", *sets(values))
    pods = dict(objects.pods())
    container = pods["fo-finetune-operator"]["containers"][0]
    assert container["image"] == operator
    assert pods["fo-finetune-operator-test"]["containers"][0]["image"] == operator
    assert env_of(container)["FINETUNE_TRAINER_IMAGE"] == trainer
    assert pods["mlflow"]["containers"][0]["image"] == trainer


def test_the_operator_reads_every_setting_that_the_chart_gives(render: Any) -> None:
    values = {
        "watchNamespace": "team-a",
        "settings.logLevel": "DEBUG",
        "settings.logFormat": "json",
        "settings.progressSeconds": 5,
        "settings.workers": 3,
        "settings.retrySeconds": 1,
        "settings.retryMaxSeconds": 2,
        "settings.sweepSeconds": 60,
        "settings.leaseSeconds": 4,
        "settings.defaultGpuResource": "amd.com/gpu",
        "settings.maxGpusPerNode": 4,
        "settings.allowedImages": ["registry.example.com/ml", "other/*"],
        "settings.allowedSources": ["hf://org"],
        "settings.allowRemoteCode": True,
        "settings.acceleratorLabels": {"H100": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
        "mlflow.uri": "https://mlflow.example.com",
        "mlflow.publicUrl": "https://ml.example.com",
    }
    args = [arg for key, value in values.items() for arg in ("--set-json", f"{key}={json.dumps(value)}")]
    container = next(render(CHART, *args).pods())[1]["containers"][0]
    fields = {"metadata.name": "pod-1", "metadata.namespace": "finetune-system", "status.podIP": "10.0.0.7"}
    env = {
        name: value if isinstance(value, str) else fields[value["fieldRef"]["fieldPath"]]
        for name, value in env_of(container).items()
    }

    loaded = operator_settings.load(env)

    assert loaded == operator_settings.Settings(
        trainer_image="finetune-operator/trainer:0.1.0",
        mlflow_uri="https://mlflow.example.com",
        mlflow_public_url="https://ml.example.com",
        watch_namespace="team-a",
        max_gpus_per_node=4,
        allowed_images=("registry.example.com/ml", "other/*"),
        allowed_sources=("hf://org",),
        allow_remote_code=True,
        accelerator_labels={"H100": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
        lease_namespace="finetune-system",
        lease_seconds=4,
        default_gpu_resource="amd.com/gpu",
        progress_seconds=5,
        retry_seconds=1,
        retry_max_seconds=2,
        sweep_seconds=60,
        workers=3,
        health_host="10.0.0.7",
        log_level="DEBUG",
        log_format="json",
        identity="pod-1",
    )


def test_the_chart_s_defaults_are_the_operator_s(render: Any) -> None:
    container = next(render(CHART).pods())[1]["containers"][0]
    env = {name: value for name, value in env_of(container).items() if isinstance(value, str)}
    assert operator_settings.load(env | {"POD_NAME": "x"}) == operator_settings.load({"POD_NAME": "x"})


@ci_values
def test_services_probes_and_selectors_name_what_exists(render: Any, values: Path) -> None:
    objects = render(CHART, "-f", str(values))
    templates = {item["metadata"]["name"]: item["spec"]["template"] for item in objects.of("Deployment")}
    for service in objects.of("Service"):
        template = templates[service["metadata"]["name"]]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ports = {port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        for port in service["spec"]["ports"]:
            # Without kube-proxy (localcluster) a service is its pod's address, so the ports must be equal.
            assert port["port"] == port["targetPort"]
            assert port["targetPort"] in ports
    for deployment in objects.of("Deployment"):
        template = deployment["spec"]["template"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        container = template["spec"]["containers"][0]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in {port["name"] for port in container["ports"]}
    components = [deployment["spec"]["selector"]["matchLabels"] for deployment in objects.of("Deployment")]
    assert len({tuple(sorted(labels.items())) for labels in components}) == len(components)


def test_namespaced_mode_needs_no_right_over_the_cluster(render: Any) -> None:
    objects = render(CHART, "--set", "watchNamespace=team-a", "--set", "crds.enabled=false")
    assert {item["kind"] for item in objects if not item["metadata"].get("namespace")} == set()
    roles = {(role["metadata"]["namespace"], role["metadata"]["name"]) for role in objects.of("Role")}
    assert roles == {("team-a", "fo-finetune-operator"), ("finetune-system", "fo-finetune-operator-lease")}
    for binding in objects.of("RoleBinding"):
        assert (binding["metadata"]["namespace"], binding["roleRef"]["name"]) in roles
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "fo-finetune-operator", "namespace": "finetune-system"}
        ]


def test_aggregated_roles_can_be_had_in_namespaced_mode_and_refused_in_the_other(render: Any) -> None:
    def names(*values: str) -> set[str]:
        objects = render(CHART, *sets(values))
        return {role["metadata"]["name"].removeprefix("fo-finetune-operator") for role in objects.of("ClusterRole")}

    assert names() == {"", "-view", "-edit", "-admin"}
    assert names("rbac.aggregatedRoles=false") == {""}
    assert names("watchNamespace=a") == set()
    assert names("watchNamespace=a", "rbac.aggregatedRoles=true") == {"-view", "-edit", "-admin"}


@ci_values
def test_rights_are_listed_one_by_one(render: Any, values: Path) -> None:
    objects = render(CHART, "-f", str(values))
    for role in [*objects.of("ClusterRole"), *objects.of("Role")]:
        for rule in role["rules"]:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]], role["metadata"]["name"]
            assert "secrets" not in rule["resources"], role["metadata"]["name"]


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1)])
def test_a_disruption_budget_comes_with_a_second_replica(render: Any, replicas: int, budgets: int) -> None:
    objects = render(CHART, "--set", f"replicas={replicas}")
    assert objects.one("Deployment")["spec"]["replicas"] == replicas
    assert len(objects.of("PodDisruptionBudget")) == budgets


def test_the_crd_is_kept_by_default_and_can_be_left_out(render: Any) -> None:
    def crds(*values: str) -> list[dict[str, Any]]:
        return list(render(CHART, *sets(values)).of("CustomResourceDefinition"))

    (kept,) = crds()
    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    (removed,) = crds("crds.keep=false")
    assert "helm.sh/resource-policy" not in (removed["metadata"].get("annotations") or {})
    assert crds("crds.enabled=false") == []


def test_network_policies_are_made_if_wanted_and_the_operator_told_whom_to_let_in(render: Any) -> None:
    objects = render(CHART, "--set", "networkPolicy.enabled=true,networkPolicy.blockedAddresses={10.0.0.0/8}")
    policies = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in objects.of("NetworkPolicy")}
    assert policies == {("finetune-system", "fo-finetune-operator")}
    operator = objects.one("Deployment", "fo-finetune-operator")["spec"]["template"]
    loaded = operator_settings.load(
        {name: value for name, value in env_of(operator["spec"]["containers"][0]).items() if isinstance(value, str)}
    )
    (caller,) = loaded.progress_from
    assert caller["podSelector"]["matchLabels"].items() <= operator["metadata"]["labels"].items()
    assert caller["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "finetune-system"}}
    assert loaded.blocked_addresses == ("10.0.0.0/8",)
    assert render(CHART).of("NetworkPolicy") == []


def test_policies_and_monitors_name_train_pods_as_the_operator_does(render: Any) -> None:
    train = {constants.LABEL_ROLE: constants.ROLE_TRAIN}
    objects = render(CHART, "-f", str(CI_VALUES[0].parent / "production-values.yaml"))
    monitor = objects.one("PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"] == train
    assert monitor["podMetricsEndpoints"][0]["port"] == constants.PROGRESS_PORT_NAME
    assert monitor["podTargetLabels"] == [constants.LABEL_JOB]
    scraped = objects.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    services = [item["metadata"] for item in objects.of("Service")]
    assert [item["name"] for item in services if scraped.items() <= item["labels"].items()] == ["fo-finetune-operator"]


# MLflow


def mlflow(render: Any, *values: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The pod spec of the MLflow server, its container's environment and its options."""
    objects = render(CHART, "--set", "mlflow.enabled=true", *sets(values))
    pod = dict(objects.pods())["mlflow"]
    container = pod["containers"][0]
    assert container["command"] == ["python", "-m", "mlflow", "server"]
    return pod, env_of(container), dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])


def test_the_operator_knows_the_mlflow_of_the_chart_by_a_name_that_it_answers_to(render: Any) -> None:
    objects = render(CHART, "--set", "mlflow.enabled=true", namespace="ml")
    operator = dict(objects.pods())["fo-finetune-operator"]["containers"][0]
    uri = env_of(operator)["FINETUNE_MLFLOW_URI"]
    assert uri == "http://mlflow.ml.svc:5000"
    assert objects.one("Service", "mlflow")["spec"]["ports"][0]["port"] == 5000
    arguments = dict(objects.pods())["mlflow"]["containers"][0]["args"]
    hosts = next(argument for argument in arguments if argument.startswith("--allowed-hosts=")).split("=")[1].split(",")
    assert urlsplit(uri).netloc in hosts
    assert "*" not in hosts


def test_mlflow_keeps_runs_and_files_on_its_volume_by_default(render: Any) -> None:
    pod, env, options = mlflow(render)
    assert env["MLFLOW_BACKEND_STORE_URI"] == "sqlite:////mlflow/mlflow.db"
    assert options["artifacts-destination"] == "/mlflow/artifacts"
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "mlflow"}} in pod["volumes"]
    assert {"name": "data", "mountPath": "/mlflow"} in pod["containers"][0]["volumeMounts"]


def test_mlflow_s_database_address_stays_in_its_secret(render: Any) -> None:
    pod, env, options = mlflow(render, "mlflow.backendStore.secret.name=db", "mlflow.backendStore.upgrade=true")
    reference = {"secretKeyRef": {"name": "db", "key": "uri"}}
    assert env["MLFLOW_BACKEND_STORE_URI"] == reference
    assert env_of(pod["initContainers"][0])["MLFLOW_BACKEND_STORE_URI"] == reference
    assert "backend-store-uri" not in options


def test_mlflow_answers_to_its_public_name(render: Any) -> None:
    values = ("mlflow.publicUrl=https://ml.example.com:8443/x", "mlflow.allowedHosts={a.example.com}")
    _, _, options = mlflow(render, *values)
    assert {"ml.example.com:8443", "a.example.com"} <= set(options["allowed-hosts"].split(","))
    origins = {"https://ml.example.com:8443", "http://a.example.com", "https://a.example.com"}
    assert origins <= set(options["cors-allowed-origins"].split(","))


@pytest.mark.parametrize(
    ("values", "claims", "volume"),
    [
        ([], 1, {"persistentVolumeClaim": {"claimName": "mlflow"}}),
        (["mlflow.persistence.existingClaim=mine"], 0, {"persistentVolumeClaim": {"claimName": "mine"}}),
        (["mlflow.persistence.enabled=false"], 0, {"emptyDir": {}}),
    ],
)
def test_mlflow_s_volume(render: Any, values: list[str], claims: int, volume: dict[str, Any]) -> None:
    objects = render(CHART, "--set", "mlflow.enabled=true", *sets(values))
    assert len(objects.of("PersistentVolumeClaim")) == claims
    assert {"name": "data", **volume} in dict(objects.pods())["mlflow"]["volumes"]


# What is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["mlflow.enabled=true", "mlflow.uri=http://other"], "mlflow.enabled installs a server and mlflow.uri names"),
        (
            ["mlflow.enabled=true", "mlflow.backendStore.uri=sqlite:///x", "mlflow.backendStore.secret.name=s"],
            "mlflow.backendStore has both uri and secret.name",
        ),
        (["mlflow.enabled=true", "mlflow.image.tag=v3"], "digest belong to mlflow.image.repository"),
        (["mlflow.enabled=true", "mlflow.image.repository=own"], "set mlflow.image.tag or mlflow.image.digest"),
    ],
)
def test_contradictions_are_refused(refusal: Any, values: list[str], message: str) -> None:
    assert message in refusal(CHART, *sets(values))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("settings.loglevel=INFO", "at '/settings': additional properties 'loglevel' not allowed"),
        ("mlflow.enable=true", "at '/mlflow': additional properties 'enable' not allowed"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("settings.logLevel=info", "at '/settings/logLevel': value must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ("settings.maxGpusPerNode=0", "at '/settings/maxGpusPerNode': minimum: got 0, want 1"),
        ("image.digest=sha256:12", "at '/image/digest': 'sha256:12' does not match pattern"),
        ("image.repository=Registry.Example.com:5000/x", "at '/image/repository'"),
        ("mlflow.uri=mlflow:5000", "at '/mlflow/uri'"),
        ("mlflow.uri=https://user:word@mlflow", "at '/mlflow/uri'"),
        ("watchNamespace=Team_A", "at '/watchNamespace'"),
    ],
)
def test_the_schema_names_the_key_that_is_wrong(refusal: Any, value: str, message: str) -> None:
    assert message in refusal(CHART, "--set", value)


def leaves(schema: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of the values that a closed schema knows."""
    found = set()
    for name, inner in schema["properties"].items():
        path = f"{prefix}{name}"
        found |= leaves(inner, f"{path}.") if "properties" in inner else {path}
    return found


def test_every_value_is_in_the_readme_and_nothing_else() -> None:
    chart = Path(__file__).resolve().parents[2] / "charts" / CHART
    schema = json.loads((chart / "values.schema.json").read_text())
    rows = [line for line in (chart / "README.md").read_text().splitlines() if line.startswith("| `")]
    documented = [row.split("`")[1] for row in rows]
    assert sorted(documented) == sorted(leaves(schema) - {"global"})


def test_the_notes_say_what_to_do_next(helm: Any) -> None:
    notes = helm("install", "fo", f"charts/{CHART}", "--dry-run=client", "--set", "mlflow.enabled=true").stdout
    for command in ("helm test fo", "kubectl get ftj -w", "port-forward service/mlflow 5000"):
        assert command in notes
