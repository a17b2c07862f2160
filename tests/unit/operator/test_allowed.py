"""What the administrator's lists let through, and what a job is told that asks for something else."""

import pytest

from finetune_operator.plan.allowed import image_matches, source_matches
from finetune_operator.settings import Settings, SettingsError, load


@pytest.mark.parametrize(
    ("image", "entry", "allowed"),
    [
        ("registry.example.com/ml/trainer:1", "registry.example.com/ml/trainer", True),
        ("registry.example.com/ml/trainer@sha256:00", "registry.example.com/ml/trainer", True),
        ("registry.example.com/ml/trainer:1", "registry.example.com/ml", True),
        ("registry.example.com/ml/trainer:1", "registry.example.com/ml/", True),
        ("registry.example.com/ml/trainer:1", "registry.example.com/ml/trainer:1", True),
        ("registry.example.com/ml/trainer:10", "registry.example.com/ml/trainer:1", False),
        ("registry.example.com/ml-evil/trainer:1", "registry.example.com/ml", False),
        ("registry.example.com.evil.org/trainer:1", "registry.example.com", False),
        ("registry.example.com:5000/trainer:1", "registry.example.com", False),
        ("evil/registry.example.com/ml/trainer:1", "registry.example.com/ml", False),
        ("registry.example.com/a/trainer:1", "registry.example.com/*/trainer:*", True),
        ("evil.org/registry.example.com/a", "registry.example.com/*", False),
        ("trainer:1", "*", True),
    ],
)
def test_images(image, entry, allowed):
    assert image_matches(image, entry) is allowed


@pytest.mark.parametrize(
    ("uri", "entry", "allowed"),
    [
        ("hf://meta-llama/Llama-3.2-1B", "hf://meta-llama", True),
        ("hf://meta-llama-evil/x", "hf://meta-llama", False),
        ("hf://meta-llama/Llama-3.2-1B@main", "hf://meta-llama/Llama-3.2-1B", True),
        ("hf://anyone/x", "hf://", True),
        ("s3://models/llama", "s3://models/", True),
        ("s3://models-of-others/llama", "s3://models", False),
        ("s3://models/team/x", "s3://models/*/x", True),
        ("pvc://models/x", "pvc://models", True),
        ("/models/x", "/models", True),
        ("/models-other/x", "/models", False),
    ],
)
def test_sources(uri, entry, allowed):
    assert source_matches(uri, entry) is allowed


IMAGES = Settings(allowed_images=("registry.example.com/ml",), trainer_image="trainer:1")
SOURCES = Settings(allowed_sources=("hf://org", "s3://models", "https://s3.example.com"))
REVISION = "0123456789abcdef0123456789abcdef01234567"
CODE = {"model_args": {"trust_remote_code": True, "revision": REVISION}}


@pytest.mark.parametrize(
    ("settings", "changes", "said"),
    [
        (IMAGES, {"finetuningImage": "evil/trainer:1"}, ("finetuningImage 'evil/trainer:1'", "ALLOWED_IMAGES")),
        (IMAGES, {"finetuningImage": "registry.example.com/ml/trainer:2"}, ()),
        (IMAGES, {"finetuningImage": "trainer:1"}, ()),
        (IMAGES, {}, ()),
        (SOURCES, {"basemodel": "hf://evil/model"}, ("basemodel 'hf://evil/model'", "FINETUNE_ALLOWED_SOURCES")),
        (SOURCES, {"basemodel": "file:///models/x"}, ("basemodel",)),
        (SOURCES, {"basemodel": "pvc://any/model"}, ("basemodel",)),
        (SOURCES, {"basemodel": "models/tiny"}, ()),  # a bare bucket path
        (SOURCES, {"run_conf": {"tokenizer": "evil/tokenizer"}}, ("run_conf.tokenizer 'evil/tokenizer'",)),
        (SOURCES, {"run_conf": {"tokenizer": "org/tokenizer"}}, ()),
        (
            SOURCES,
            {"peft_conf": {"peft_type": "PRETRAINED_PEFT", "name_or_path": "evil/adapter"}},
            ("peft_conf.name_or_path 'evil/adapter'",),
        ),
        (SOURCES, {"bucketStorageHost": "https://evil.example.com"}, ("bucketStorageHost",)),
        (SOURCES, {"bucketStorageHost": "https://s3.example.com"}, ()),
        (SOURCES, {"httpsProxy": "http://evil.example.com:3128"}, ("httpsProxy",)),
        (SOURCES, {"env": [{"name": "HF_ENDPOINT", "value": "http://evil"}]}, ("env HF_ENDPOINT",)),
        (SOURCES, {"env": [{"name": "AWS_ENDPOINT_URL_S3", "value": "http://evil"}]}, ("env AWS_ENDPOINT_URL_S3",)),
        (SOURCES, {"env": [{"name": "https_proxy", "value": "http://evil"}]}, ("env https_proxy",)),
        (Settings(), {"env": [{"name": "HF_ENDPOINT", "value": "http://mirror"}]}, ()),
    ],
)
def test_what_is_not_allowed_fails_before_anything_is_made(world, settings, changes, said):
    world.settings = settings
    world.spec |= changes
    decisions = world.plan()
    ready = next(one for one in decisions.status["conditions"] if one["type"] == "Ready")
    if not said:
        assert ready["reason"] != "InvalidSpec", ready["message"]
        return
    assert ready["reason"] == "InvalidSpec"
    assert decisions.status["phase"] == "Failed"
    assert not decisions.actions
    for part in said:
        assert part in ready["message"]


def test_a_list_that_became_shorter_stops_no_running_training(world):
    world.spec["finetuningImage"] = "old/trainer:1"
    world.observed["jobs"] = (world.download_job(end="Complete"), world.train_job())
    world.settings = IMAGES
    assert world.plan().status["phase"] != "Failed"


def test_the_lists_are_separated_by_commas_or_white_space():
    settings = load({"FINETUNE_ALLOWED_IMAGES": "a, b/c\nd", "FINETUNE_ALLOW_REMOTE_CODE": "true"})
    assert settings.allowed_images == ("a", "b/c", "d")
    assert settings.allow_remote_code is True


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FINETUNE_MLFLOW_URI", "https://user:word@mlflow.example.com"),
        ("FINETUNE_ALLOW_REMOTE_CODE", "yes"),
        ("FINETUNE_PROGRESS_FROM", "{"),
        ("FINETUNE_PROGRESS_FROM", '[{"pods": {}}]'),
        ("FINETUNE_BLOCKED_ADDRESSES", "169.254.169.254/99"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(name, value):
    with pytest.raises(SettingsError, match=name):
        load({name: value})
