"""The objects themselves: hardened, placed as asked, without secrets, with resources that mean what the keys say."""

import json

import pytest

from finetune_operator import render
from finetune_operator.builders.quantities import cpus, gibibytes
from finetune_operator.plan.types import Create
from finetune_operator.plan.validate import InvalidSpecError
from finetune_operator.settings import Settings


def objects(world, **changes):
    settings = Settings(trainer_image="registry/trainer:1", accelerator_labels={"H100": {"gpu": "h100"}})
    found = render({**world.spec, **changes}, "demo", "team", settings)
    return {key(one): one for one in found}


def key(one):
    role = one["metadata"]["labels"]["finetune-operator.io/role"]
    return f"{one['kind']}/{role}"


def pod(objects_, role):
    return objects_[f"Job/{role}"]["spec"]["template"]["spec"]


def env(objects_, role):
    return {entry["name"]: entry for entry in pod(objects_, role)["containers"][0]["env"]}


def mounts(objects_, role):
    return {mount["mountPath"]: mount for mount in pod(objects_, role)["containers"][0]["volumeMounts"]}


def test_render_names_every_object_once(world):
    assert list(objects(world)) == [
        "PersistentVolumeClaim/model-cache",
        "PersistentVolumeClaim/checkpoints",
        "ConfigMap/download",
        "Job/download",
        "ConfigMap/train",
        "Job/train",
    ]


@pytest.mark.parametrize("role", ["download", "train"])
def test_pods_are_hardened(world, role):
    spec = pod(objects(world), role)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
    container = spec["containers"][0]["securityContext"]
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["restartPolicy"] == "Never"


def test_one_indexed_job_per_try_that_never_retries_by_itself(world):
    job = objects(world)["Job/train"]
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["backoffLimit"]) == ("Indexed", 1, 0)
    codes = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (codes["operator"], codes["values"], codes["containerName"]) == ("In", [65, 66, 78], "train")
    assert spec["podFailurePolicy"]["rules"][1]["action"] == "Ignore"
    assert "suspend" not in spec


def test_gpus_only_where_they_are_asked_for(world):
    cpu = pod(objects(world), "train")["containers"][0]["resources"]
    assert cpu == {"requests": {"cpu": "500m", "memory": "1Gi"}}
    rendered = objects(world, finetuningGpus=4, cpusPerGpu=2, memoryPerGpu=16, gpuResource="amd.com/gpu")
    gpu = pod(rendered, "train")["containers"][0]["resources"]
    assert gpu["requests"] == {"cpu": "8", "memory": "64Gi", "amd.com/gpu": "4"}
    assert gpu["limits"] == {"amd.com/gpu": "4"}
    assert "amd.com/gpu" not in json.dumps(pod(rendered, "download"))
    default = pod(objects(world, finetuningGpus=1), "train")["containers"][0]["resources"]
    assert default["limits"] == {"nvidia.com/gpu": "1"}


def test_the_download_runs_where_the_gpus_are(world):
    placement = {
        "nodeSelector": {"zone": "a"},
        "acceleratorType": "H100",
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "priorityClassName": "high",
    }
    rendered = objects(world, **placement)
    for role in ("download", "train"):
        spec = pod(rendered, role)
        assert spec["nodeSelector"] == {"zone": "a", "gpu": "h100"}
        assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
        assert spec["priorityClassName"] == "high"


def test_the_accelerators_of_llmforge_choose_nodes(world):
    """worker_resources' accelerator_type:A10G, and kinds with a size, by labels as NVIDIA's feature discovery sets
    them; a label that the user gives too wins."""
    labels = {
        "A10G": {"nvidia.com/gpu.product": "NVIDIA-A10G"},
        "A100-80G": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "zone": "b"},
    }
    for kind, expected in labels.items():
        spec = {**world.spec, "finetuningGpus": 1, "acceleratorType": kind, "nodeSelector": {"zone": "a"}}
        found = {key(one): one for one in render(spec, "demo", "team", Settings(accelerator_labels=labels))}
        for role in ("download", "train"):
            assert pod(found, role)["nodeSelector"] == {**expected, "zone": "a"}


def test_an_unknown_accelerator_names_the_known_ones(world):
    with pytest.raises(InvalidSpecError, match="H100"):
        objects(world, acceleratorType="H2000")


def test_credentials_come_by_reference_only(world):
    rendered = objects(
        world,
        bucketStorageHost="https://minio.local",
        bucketCredentialsSecret={"name": "keys"},
        hfTokenSecret={"name": "hf", "key": "token"},
    )
    for role in ("download", "train"):
        entries = env(rendered, role)
        assert entries["AWS_ENDPOINT_URL"]["value"] == "https://minio.local"
        assert entries["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"] == {"name": "keys", "key": "minio-access-key"}
        assert entries["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hf", "key": "token"}


def test_the_users_environment_comes_last_and_each_name_once(world):
    given = [{"name": "AWS_ENDPOINT_URL", "value": "http://s3"}, {"name": "EXTRA", "value": "1"}]
    rendered = objects(world, bucketStorageHost="https://other", env=given)
    names = [entry["name"] for entry in pod(rendered, "train")["containers"][0]["env"]]
    assert len(names) == len(set(names))
    assert names[-2:] == ["AWS_ENDPOINT_URL", "EXTRA"]
    assert env(rendered, "train")["AWS_ENDPOINT_URL"]["value"] == "http://s3"


def test_the_model_is_read_only_and_its_own_folder_of_the_cache(world):
    rendered = objects(world)
    claim = rendered["PersistentVolumeClaim/model-cache"]["metadata"]["name"]
    assert mounts(rendered, "download")["/local_resources/cache"].get("readOnly") is None
    model = mounts(rendered, "train")["/local_resources/basemodel"]
    assert model["readOnly"] is True
    assert claim == f"model-cache-{model['subPath']}"


def test_a_model_on_a_claim_needs_no_cache(world):
    rendered = objects(world, basemodel="pvc://models/llama")
    assert "PersistentVolumeClaim/model-cache" not in rendered
    assert mounts(rendered, "train")["/local_resources/basemodel"] == {
        "name": "basemodel",
        "mountPath": "/local_resources/basemodel",
        "readOnly": True,
        "subPath": "llama",
    }


def test_data_on_claims_and_config_maps_is_mounted_in_the_download_only(world):
    world.spec["data_conf"]["training_data"]["datasets"] = [
        {"path": "pvc://lake/a.jsonl"},
        {"path": "pvc://lake/b.jsonl"},
        {"path": "configmap://facts/c.jsonl"},
    ]
    rendered = objects(world)
    assert {"/mnt/pvc/lake", "/mnt/configmap/facts"} <= set(mounts(rendered, "download"))
    assert not any(path.startswith("/mnt") for path in mounts(rendered, "train"))


def test_a_named_dataset_is_its_config_map_mounted_in_the_download_only(world):
    """Each once, beside a ConfigMap that holds data and may have the same name; an unused one does not keep a pod."""
    world.spec["data_conf"]["training_data"] = {
        "type": "PRECOMPUTE_WEIGHTED_MIX",
        "datasets": [
            {"path": "dataset://facts"},
            {"path": "dataset://facts", "split": "more"},
            {"path": "configmap://facts/c.jsonl"},
            {"path": "dataset://unused", "sampling_weight": 0.0},
        ],
    }
    rendered = objects(world)
    mounted = mounts(rendered, "download")
    assert mounted["/mnt/dataset/facts"]["readOnly"] is True
    volumes = {volume["name"]: volume for volume in pod(rendered, "download")["volumes"]}
    assert volumes[mounted["/mnt/dataset/facts"]["name"]]["configMap"] == {"name": "facts"}
    assert [path for path in mounted if path.startswith("/mnt")] == ["/mnt/dataset/facts", "/mnt/configmap/facts"]
    assert not any(path.startswith("/mnt") for path in mounts(rendered, "train"))


def test_nobody_owns_the_cache_and_retained_checkpoints(world):
    rendered = objects(world)
    assert "finetune-operator.io/job" not in rendered["PersistentVolumeClaim/model-cache"]["metadata"]["labels"]
    assert "ownerReferences" not in rendered["PersistentVolumeClaim/checkpoints"]["metadata"]


def test_owner_references_of_a_live_job(world):
    world.spec["checkpointsRetention"] = "Delete"
    claims = [a.body for a in world.plan().actions if a.body["kind"] == "PersistentVolumeClaim"]
    assert "ownerReferences" not in claims[0]["metadata"]
    owner = claims[1]["metadata"]["ownerReferences"][0]
    assert (owner["uid"], owner["controller"], owner["kind"]) == ("uid-1", True, "FineTuneJob")


def test_the_first_attempt_does_what_the_manifest_says(world):
    """It is in the configuration; the environment overrides it from the second attempt on."""
    assert "FINETUNE_RESUME" not in env(objects(world), "train")


def test_a_training_after_a_changed_spec_does_not_take_the_checkpoints_before_it_for_its_own(world):
    claim = world.claim()
    first = _config(world.downloaded().plan(checkpoints=claim))
    world.spec["training_args"]["learning_rate"] = 0.5
    later = _config(world.downloaded().plan(checkpoints=claim))
    assert first["uid"] == "uid-1"
    assert later["uid"] == f"uid-1-{world.training}"


def _config(decisions):
    config = next(action.body for action in decisions.actions if action.body["kind"] == "ConfigMap")
    return json.loads(config["data"]["job.json"])


def test_the_configuration_is_immutable_and_deterministic(world):
    first, second = objects(world)["ConfigMap/train"], objects(world)["ConfigMap/train"]
    assert first == second
    assert first["immutable"] is True
    config = json.loads(first["data"]["job.json"])
    assert config["name"] == "demo"
    assert "suspend" not in config["spec"]
    assert "num_processes: 1" in first["data"]["accelerate.yaml"]


def test_proxies_and_private_authorities(world):
    rendered = objects(world, httpsProxy="http://proxy:3128", caBundleConfigMap={"name": "corp-ca"})
    entries = env(rendered, "download")
    assert entries["HTTPS_PROXY"]["value"] == entries["https_proxy"]["value"] == "http://proxy:3128"
    assert entries["SSL_CERT_FILE"]["value"] == "/etc/finetune-ca/ca.crt"
    assert "/etc/finetune-ca" in mounts(rendered, "download")


@pytest.mark.parametrize(("amount", "text"), [(8, "8"), (0.5, "500m"), (1.25, "1250m")])
def test_cpus(amount, text):
    assert cpus(amount) == text


@pytest.mark.parametrize(("amount", "text"), [(64, "64Gi"), (0.5, "512Mi"), (1.5, "1536Mi")])
def test_memory(amount, text):
    assert gibibytes(amount) == text


def test_a_job_that_takes_fewer_nodes_says_so_to_kueue_and_to_its_pods(world):
    found = objects(world, nodes=4, minNodes=2, queueName="gpu", annotations={"team": "a"})
    assert found["Job/train"]["metadata"]["annotations"] == {
        "team": "a",
        "kueue.x-k8s.io/job-min-parallelism": "2",
        "kueue.x-k8s.io/job-completions-equal-parallelism": "true",
    }
    assert env(found, "train")["FINETUNE_MIN_NODES"]["value"] == "2"


def test_the_pods_compute_the_operators_key_of_the_model(world):
    from finetune_api.job_config import JobConfig
    from finetune_api.locations import model_key

    env = [{"name": "AWS_ENDPOINT_URL", "value": "http://s3"}, {"name": "PASSWORD", "value": "canary"}]
    rendered = objects(world, env=env, httpsProxy="http://proxy")
    text = rendered["ConfigMap/download"]["data"]["job.json"]
    name = rendered["PersistentVolumeClaim/model-cache"]["metadata"]["name"]
    assert name == f"model-cache-{model_key(JobConfig.from_json(text).parsed_spec())}"
    assert "canary" not in text


PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "finetune-system"}}}


def test_a_network_policy_comes_first_where_policies_are_wanted(world):
    assert "NetworkPolicy" not in [action.body["kind"] for action in world.plan().actions]
    world.settings = Settings(progress_from=(PEER,), blocked_addresses=("169.254.169.254/32", "fd00:ec2::254/128"))
    world.observed = {"checkpoints": world.claim("demo-checkpoints"), "cache": world.claim("cache")}
    kinds = [action.body["kind"] for action in world.plan().actions if isinstance(action, Create)]
    assert kinds.index("NetworkPolicy") < kinds.index("Job")
    policy = next(action.body for action in world.plan().actions if action.body["kind"] == "NetworkPolicy")
    own = {"matchLabels": {"finetune-operator.io/job-uid": "uid-1"}}
    assert policy["spec"]["podSelector"] == own  # of no other job, whatever labels it asks for
    assert policy["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    progress, each_other = policy["spec"]["ingress"]
    assert progress == {"ports": [{"port": 8080, "protocol": "TCP"}], "from": [PEER]}
    assert each_other == {"from": [{"podSelector": own}]}
    assert policy["spec"]["egress"] == [
        {
            "to": [
                {"namespaceSelector": {}},
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}},
                {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128"]}},
            ]
        }
    ]
