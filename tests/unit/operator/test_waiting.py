"""Why pods do not start: one row per cause, with the reason and a word of the advice."""

import pytest

from finetune_operator.plan.waiting import why_waiting


def reason_of(job, pods=(), claims=(), warnings=()):
    verdict = why_waiting("Starting", (job,), pods, claims, warnings)
    return (verdict.reason, verdict.message) if verdict else (None, "")


def warning(about, reason, message):
    return {
        "type": "Warning",
        "reason": reason,
        "message": message,
        "involvedObject": {"uid": about["metadata"]["uid"]},
    }


@pytest.mark.parametrize(
    ("waiting", "message", "reason", "advice"),
    [
        ("ImagePullBackOff", "Back-off pulling", "ImagePullFailed", "finetuningImage"),
        ("ErrImagePull", "not found", "ImagePullFailed", "imagePullSecrets"),
        ("InvalidImageName", "bad", "ImagePullFailed", "registry/x:1"),
        ("CreateContainerConfigError", 'secret "bucket-keys" not found', "SecretMissing", "'bucket-keys'"),
        ("CreateContainerConfigError", 'configmap "extra" not found', "ConfigMapMissing", "'extra'"),
        ("CreateContainerConfigError", "couldn't find key token in Secret team/hf", "SecretKeyMissing", "'token'"),
    ],
)
def test_containers_that_cannot_start(world, waiting, message, reason, advice):
    job = world.train_job()
    found, text = reason_of(job, (world.waiting_pod(job, waiting, message),))
    assert found == reason
    assert advice in text


def test_a_pod_that_is_being_created_waits_for_nothing(world):
    job = world.train_job()
    assert reason_of(job, (world.waiting_pod(job, "ContainerCreating"),)) == (None, "")


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", "finetuningGpus"),
        ("0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.", "nodeSelector"),
        ("0/3 nodes are available: 3 node(s) had untolerated taint {gpu: only}.", "tolerations"),
    ],
)
def test_unschedulable_says_what_could_be_changed(world, message, advice):
    job = world.train_job()
    found, text = reason_of(job, (world.waiting_pod(job, unscheduled=message),))
    assert found == "Unschedulable"
    assert advice in text


@pytest.mark.parametrize(
    ("message", "reason", "advice"),
    [
        (
            "0/1 nodes are available: 1 node(s) had volume node affinity conflict.",
            "VolumeNodeConflict",
            "claims: demo-checkpoints, facts",
        ),
        (
            "0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity.",
            "VolumeNodeConflict",
            "storageClass whose volumes reach every node",
        ),
        (
            "0/3 nodes are available: 1 Insufficient nvidia.com/gpu, 2 node(s) had volume node affinity conflict.",
            "Unschedulable",
            "has room",
        ),
        (
            '0/1 nodes are available: persistentvolumeclaim "facts" not found.',
            "ClaimMissing",
            "'facts' does not exist",
        ),
        (
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
            "VolumePending",
            "check demo-checkpoints, facts",
        ),
        (
            "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and "
            "ReadWriteOncePod access mode.",
            "VolumeInUse",
            "wait",
        ),
    ],
)
def test_volumes_that_keep_a_pod_from_every_node(world, message, reason, advice):
    job, bound = world.train_job(), world.claim()
    pod = world.waiting_pod(job, unscheduled=message)
    names = ("demo-checkpoints", "facts")
    pod["spec"] = {"volumes": [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in names]}
    found, text = reason_of(job, (pod,), (bound,))
    assert found == reason
    assert advice in text


def test_a_volume_on_another_node_is_told_from_the_pods_events(world):
    job = world.train_job()
    pod = world.waiting_pod(job, "ContainerCreating")
    said = warning(pod, "FailedAttachVolume", "Multi-Attach error for volume: already used by pod(s) demo-1-0")
    found, text = reason_of(job, (pod,), warnings=(said,))
    assert found == "VolumeAttachFailed"
    assert "demo-1-0" in text


def test_an_unbound_volume_is_named_before_the_scheduler_complains_of_it(world):
    job, claim = world.train_job(), world.claim(phase="Pending", storageClassName="fast")
    pod = world.waiting_pod(job, unscheduled="pod has unbound immediate PersistentVolumeClaims")
    said = warning(claim, "ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found')
    found, text = reason_of(job, (pod,), (claim,), (said,))
    assert found == "VolumePending"
    assert "'fast'" in text
    assert "not found" in text


@pytest.mark.parametrize(("wanted", "stuck"), [({"storageClassName": "slow"}, False), ({}, True)])
def test_slow_provisioning_needs_nobody_but_a_missing_default_class_does(world, wanted, stuck):
    job, claim = world.train_job(), world.claim(phase="Pending", **wanted)
    pod = world.waiting_pod(job, unscheduled="pod has unbound immediate PersistentVolumeClaims")
    verdict = why_waiting("Starting", (job,), (pod,), (claim,), ())
    assert verdict.reason == "VolumePending"
    assert verdict.stuck is stuck


def test_a_volume_that_waits_for_its_first_pod_is_no_cause_of_an_image_problem(world):
    job, claim = world.train_job(), world.claim(phase="Pending")
    assert reason_of(job, (world.waiting_pod(job, "ErrImagePull"),), (claim,))[0] == "ImagePullFailed"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "demo-1-0" is forbidden: exceeded quota: gpu', "QuotaExceeded"),
        ('pods "demo-1-0" is forbidden: violates PodSecurity "restricted:latest"', "PodSecurityRefused"),
        ('error looking up service account team/trainer: serviceaccount "trainer" not found', "ServiceAccountMissing"),
        ("admission webhook denied the request", "PodRefused"),
    ],
)
def test_a_job_whose_pods_are_refused(world, message, reason):
    job = world.train_job()
    assert reason_of(job, warnings=(warning(job, "FailedCreate", message),))[0] == reason


def test_a_missing_config_map_of_data_is_found_in_the_pods_events(world):
    job = world.download_job()
    pod = world.waiting_pod(job, "ContainerCreating")
    said = warning(pod, "FailedMount", 'MountVolume.SetUp failed for volume "map-0" : configmap "facts" not found')
    assert reason_of(job, (pod,), warnings=(said,))[0] == "ConfigMapMissing"


def test_events_about_other_objects_do_not_matter(world):
    job, other = world.train_job(1), world.train_job(2)
    assert reason_of(job, warnings=(warning(other, "FailedCreate", "exceeded quota"),)) == (None, "")
