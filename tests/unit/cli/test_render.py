"""`finetune render`: the operator's objects, the same bytes each time, changed by --set."""

import json

import pytest
import yaml


def objects(result):
    assert result.returncode == 0, result.stderr
    return {f"{o['kind']}/{o['metadata']['name']}": o for o in yaml.safe_load_all(result.stdout)}


def test_the_objects_of_a_job(finetune, manifest):
    rendered = objects(finetune("render", "-f", manifest()))
    assert {"Job/example-1", "ConfigMap/example-1", "PersistentVolumeClaim/example-checkpoints"} <= rendered.keys()
    assert {o["metadata"]["namespace"] for o in rendered.values()} == {"team-a"}
    assert sum(key.startswith("Job/") for key in rendered) == 2


def test_the_same_manifest_gives_the_same_bytes_and_no_escape_codes(finetune, manifest):
    name = manifest()
    first, second = (finetune("render", "-f", name) for _ in range(2))
    assert first.stdout == second.stdout
    assert "\x1b" not in first.stdout


def test_json_holds_the_same_objects(finetune, manifest):
    name = manifest()
    document = json.loads(finetune("render", "-f", name, "-o", "json").stdout)
    assert document["kind"] == "List"
    assert document["items"] == list(objects(finetune("render", "-f", name)).values())


def test_set_changes_what_is_rendered(finetune, manifest):
    result = finetune("render", "-f", manifest(), "-n", "else", "--set", "training_args.max_steps=7")
    config = objects(result)["ConfigMap/example-1"]
    assert json.loads(config["data"]["job.json"])["spec"]["training_args"]["max_steps"] == 7
    assert config["metadata"]["namespace"] == "else"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--set", "training_args.max_step=7"), 1, "max_steps"),
        (("--set", "nonsense"), 2, "key=value"),
        (("--name", "other"), 2, "there is example"),
    ],
)
def test_refusals_go_to_stderr(finetune, manifest, args, code, words):
    result = finetune("render", "-f", manifest(), *args)
    assert (result.returncode, result.stdout) == (code, "")
    assert words in result.stderr


def test_several_jobs_need_a_name(finetune, manifest, tmp_path):
    text = (tmp_path / manifest()).read_text()
    both = f"{text}---\n{text.replace('name: example', 'name: second')}"
    result = finetune("render", "-f", "-", input=both)
    assert result.returncode == 2
    assert "--name" in result.stderr
    assert "Job/second-1" in objects(finetune("render", "-f", "-", "--name", "second", input=both))
