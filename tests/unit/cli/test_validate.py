"""`finetune validate`: every problem with its place and a suggestion, and exit codes that a CI job can use."""

import json

import pytest

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n---\n"


def test_a_good_manifest(finetune, manifest):
    result = finetune("validate", "-f", manifest())
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == "job.yaml: FineTuneJob example is valid"


def test_all_problems_at_once_with_place_and_suggestion(finetune, manifest):
    name = manifest("learning_rate", "learning_rat", "finetuningGpus: 0", 'finetuningGpus: "0"')
    result = finetune("validate", "-f", name)
    assert result.returncode == 1
    first, second = result.stdout.splitlines()
    assert first.startswith("job.yaml:8:3: error: spec.finetuningGpus: ")
    assert "remove the quotes" in first
    assert second.startswith("job.yaml:17:5: error: spec.training_args.learning_rat: ")
    assert "learning_rate?" in second


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("  run_conf: {}\n", ""), "run_conf is required"),
        (("peft_type: NO_PEFT", "peft_type: LORAX"), "LORA"),
        (("total_train_batch_size: 4", "total_train_batch_size: five"), "must be an integer"),
        (("learning_rate: 2e-5", "per_device_train_batch_size: 4"), "per_device_train_batch_size"),
        (("name: example", "name: Example_1"), "metadata.name"),
    ],
)
def test_problem_says_what_to_do(finetune, manifest, change, words):
    result = finetune("validate", "-f", manifest(*change))
    assert result.returncode == 1
    assert words in result.stdout


def test_json_is_for_programs(finetune, manifest):
    name = manifest("learning_rate", "learning_rat")
    result = finetune("validate", "-f", name, "-o", "json")
    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert document["valid"] is False
    (problem,) = document["manifests"][0]["problems"]
    assert (problem["path"], problem["line"], problem["column"]) == ("spec.training_args.learning_rat", 17, 5)
    assert problem["suggestion"] == "learning_rate"


def test_other_kinds_are_skipped_with_a_word(finetune, manifest, tmp_path):
    text = CONFIG_MAP + (tmp_path / manifest()).read_text()
    result = finetune("validate", "-f", "-", input=text)
    assert result.returncode == 0
    assert "ConfigMap other is not a FineTuneJob: skipped" in result.stderr
    assert "<stdin>: FineTuneJob example is valid" in result.stdout


def test_a_folder_and_several_files(finetune, manifest, tmp_path):
    (tmp_path / "folder").mkdir()
    manifest(name="folder/good.yaml")
    bad = manifest("NO_PEFT", "NONE", name="bad.yaml")
    result = finetune("validate", "-f", "folder", "-f", bad)
    assert result.returncode == 1
    assert "folder/good.yaml: FineTuneJob example is valid" in result.stdout
    assert "bad.yaml:22:" in result.stdout


def test_nothing_to_validate_is_an_error(finetune):
    result = finetune("validate", "-f", "-", input=CONFIG_MAP)
    assert result.returncode == 1
    assert "no FineTuneJob" in result.stderr


def test_broken_yaml_has_a_place(finetune):
    result = finetune("validate", "-f", "-", input="kind: FineTuneJob\nspec: {a: 1\n")
    assert result.returncode == 1
    assert result.stdout.startswith("<stdin>:3:1: error: ")


@pytest.mark.parametrize("args", [(), ("-f", "nowhere.yaml"), ("-f", "x", "--no-such-option")])
def test_wrong_usage_is_code_2(finetune, args):
    result = finetune("validate", *args)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr


def test_notices_are_told(finetune, manifest):
    result = finetune("validate", "-f", manifest("learning_rate: 2e-5", "max_steps: 3\n    num_train_epochs: 2"))
    assert result.returncode == 0
    assert "notice: max_steps (3) wins over num_train_epochs" in result.stdout


def test_an_optimizer_that_is_no_text_is_told(finetune, manifest):
    result = finetune("validate", "-f", manifest("learning_rate: 2e-5", "optim: []"))
    assert result.returncode == 1
    assert "spec.training_args.optim" in result.stdout
