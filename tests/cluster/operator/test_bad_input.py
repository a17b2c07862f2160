"""What users get wrong: each ends in a condition that says what to do within a minute; nothing of theirs is deleted.

The jobs of one test run at the same time under one operator, since each waits for its own thing.
"""

import json
import time


def quota_without_amd():
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "no-amd"},
        "spec": {"hard": {"requests.amd.com/gpu": "0"}},
    }


def claim_on_another_node(namespace):
    """A volume that only a node has which is not there."""
    size, modes = {"storage": "1Gi"}, ["ReadWriteOnce"]
    elsewhere = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["elsewhere"]}]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"far-{namespace}"},
        "spec": {
            "capacity": size,
            "accessModes": modes,
            "storageClassName": "none",
            "claimRef": {"namespace": namespace, "name": "far"},
            "local": {"path": "/nowhere"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [elsewhere]}},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "far"},
        "spec": {"accessModes": modes, "storageClassName": "none", "resources": {"requests": size}},
    }
    return volume, claim


def with_data(spec, path):
    training = {"type": "CONCATENATION", "datasets": [{"path": path}]}
    return {**spec, "data_conf": {**spec["data_conf"], "training_data": training}}


def test_pods_that_cannot_start_say_why_within_30_seconds(operator_process, jobs, spec, kubectl, namespace):
    for one in (quota_without_amd(), *claim_on_another_node(namespace)):
        kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(one))
    jobs.apply("gpu", **{**spec, "finetuningGpus": 1, "gpuResource": "example.com/gpu"})
    causes = {
        "image": ({"finetuningImage": "registry.example/no/such:image"}, "ImagePullFailed", "finetuningImage"),
        "secret": ({"bucketCredentialsSecret": {"name": "no-such-secret"}}, "SecretMissing", "'no-such-secret'"),
        "class": (
            {"storageClass": "no-such-class", "basemodel": "s3://models/another"},
            "VolumePending",
            "no-such-class",
        ),
        "nowhere": ({"nodeSelector": {"no-such": "label"}}, "Unschedulable", "nodeSelector"),
        "map": (with_data(spec, "configmap://no-such-map/train.jsonl"), "ConfigMapMissing", "'no-such-map'"),
        "claim": (with_data(spec, "pvc://no-such-claim/train.jsonl"), "ClaimMissing", "'no-such-claim'"),
        "far": (with_data(spec, "pvc://far/train.jsonl"), "VolumeNodeConflict", "far"),
    }
    for name, (changes, _, _) in causes.items():
        jobs.apply(name, **{**spec, **changes})
    begin = time.monotonic()
    for name, (_, reason, advice) in causes.items():
        assert advice in jobs.until_reason(name, reason, timeout=30 - (time.monotonic() - begin))
    for name in (*causes.keys() - {"nowhere"},):
        jobs.wait(f"{name} is stalled", lambda name=name: jobs.condition(name, "Stalled")[0] == "True")
        assert jobs.children("jobs", name, "train") == []
    jobs.wait("a train pod", lambda: jobs.children("pods", "gpu", "train"))
    assert "Insufficient example.com/gpu" in jobs.until_reason("gpu", "Unschedulable", timeout=30)
    assert jobs.status("gpu")["failures"] == 0
    described = kubectl("describe", "ftj", "image", "-n", namespace).stdout
    assert "ImagePullFailed" in described.partition("Events:")[2]
    keys = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "no-such-secret"}}
    keys["stringData"] = {"minio-access-key": "test", "minio-secret-key": "test"}
    kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(keys))
    jobs.until_phase("secret", "Downloading", "Starting", "Training", "Succeeded", timeout=60)


def test_bad_data_and_missing_inputs_fail_before_any_training(operator_process, jobs, spec):
    jobs.apply("broken", **with_data(spec, "configmap://data/broken.jsonl"))
    jobs.apply("empty", **with_data(spec, "configmap://data/empty.jsonl"))
    jobs.apply("model", **{**spec, "basemodel": "s3://models/no-such-model"})
    grown = {**spec, "data_conf": {**spec["data_conf"], "chat_template_name": "poro"}}  # needs tokens of its own
    jobs.apply("template", **{**grown, "peft_conf": {"peft_type": "LORA"}, "quant_conf": {"load_in_4bit": True}})
    unreachable = {"basemodel": "s3://models/elsewhere", "bucketStorageHost": "http://127.0.0.1:9"}
    jobs.apply("bucket", **{**spec, **unreachable, "maxAttempts": 2})
    expected = {"broken": "BadData", "empty": "BadData", "model": "InputMissing", "template": "BadConfiguration"}
    for name, reason in expected.items():
        status = jobs.until_phase(name, "Failed", timeout=120)
        failed = next(c for c in status["conditions"] if c["type"] == "Failed")
        assert (failed["reason"], failed["status"]) == (reason, "True")
        assert jobs.children("jobs", name, "train") == []
    assert "broken.jsonl:1" in jobs.condition("broken", "Failed")[2]
    jobs.until_phase("bucket", "Failed", timeout=180)
    assert jobs.condition("bucket", "Failed")[1] == "Unavailable"
    assert len(jobs.children("jobs", "bucket", "download")) == 2
    assert jobs.get("configmap", "data") is not None
    assert jobs.get("secret", "bucket-keys") is not None


def test_other_peoples_objects_are_left_alone(operator_process, jobs, spec, kubectl, namespace):
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "taken-checkpoints"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(claim))
    before = jobs.get("pvc", "taken-checkpoints")["metadata"]["uid"]
    jobs.apply("taken", **spec)
    assert "adoptCheckpoints" in jobs.until_reason("taken", "VolumeNotOurs")
    assert jobs.children("jobs", "taken") == []
    kubectl("delete", "ftj", "taken", "-n", namespace)
    assert jobs.get("pvc", "taken-checkpoints")["metadata"]["uid"] == before


def test_a_queue_without_kueue_keeps_the_job_suspended(operator_process, jobs, spec):
    jobs.apply("queued", **{**spec, "queueName": "gpu-queue"})
    assert "Kueue" in jobs.until_reason("queued", "QueueUnavailable", timeout=120)
    assert jobs.condition("queued", "QueueUnavailable")[0] == "True"
    job = jobs.get("job", "queued-1")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpu-queue"
    assert jobs.children("pods", "queued", "train") == []
