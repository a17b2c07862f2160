"""`finetune plan` and `finetune validate --data`: what they say is what the data is, and what the run then does."""

import json
import subprocess
import sys

import pytest

from finetune_trainer.memory_estimate import read_tensors

SPEC = {
    "finetuningGpus": 0,
    "data_conf": {"chat_template_name": "chat-ml", "validation_data": {"type": "NONE"}},
    "training_args": {"learning_rate": 5e-3, "num_train_epochs": 2, "warmup_steps": 0.25, "save_steps": 4},
    "batchsize_conf": {"total_train_batch_size": 8, "max_per_device_train_batch_size": 4},
    "peft_conf": {"peft_type": "NO_PEFT"},
    "run_conf": {},
    "sft_args": {"max_seq_length": 64},
}
PROGRAM = (
    "import sys; from finetune_cli.main import main; code = main(sys.argv[1:]);"
    "assert not {'torch', 'transformers'} & set(sys.modules), 'slow'; sys.exit(code)"
)


def without_none(value):
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


@pytest.fixture
def manifest(base_model, dialogues, tmp_path):
    """`manifest(**changes)`: a file with the job, some sections of its spec changed; None removes a key."""

    def write(data=dialogues, **changes):
        training = {"type": "CONCATENATION", "datasets": [{"path": str(data)}]}
        spec = {**SPEC, "basemodel": str(base_model), "data_conf": {**SPEC["data_conf"], "training_data": training}}
        for key, value in changes.items():
            spec[key] = {**spec[key], **value} if isinstance(spec.get(key), dict) and value is not None else value
        spec = {key: without_none(value) for key, value in spec.items() if value is not None}
        kind = {"apiVersion": "finetune-operator.io/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "tiny"}}
        (tmp_path / "job.json").write_text(json.dumps({**kind, "spec": spec}))
        return "job.json"

    return write


@pytest.fixture
def finetune(tmp_path):
    """`finetune(*args)`: the command in `tmp_path`, in a process that refuses to have loaded torch."""

    def run(*args):
        command = [sys.executable, "-c", PROGRAM, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)

    return run


@pytest.fixture
def plan(finetune, manifest):
    """`plan(*args, **changes)`: the plan as a document."""

    def run(*args, **changes):
        result = finetune("plan", "-f", manifest(**changes), "-o", "json", *args)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


def test_a_plan_without_loading_torch(plan, base_model):
    found = plan()
    dataset, effective = found["dataset"], found["effective"]
    assert (dataset["examples"], dataset["validationExamples"]) == (42, 0)
    assert found["steps"] == {"perEpoch": 6, "total": 12, "epochs": 2.0}
    assert (effective["perDeviceBatch"], effective["accumulation"], effective["totalBatch"]) == (4, 2, 8)
    assert effective["warmupSteps"] == 3
    assert (found["checkpoints"], found["evaluations"]) == (3, 0)
    weights = sum(tensor.elements for tensor in read_tensors(base_model).values())
    assert effective["trainableParameters"] == effective["parameters"] == weights
    memory = found["memory"]["auto-single-process"]
    assert (memory["weights"], memory["gradients"], memory["optimizer"]) == (4 * weights, 4 * weights, 8 * weights)
    assert memory["activations"] > 0
    assert memory["total"] == dataset["memoryEstimateBytes"]
    assert 0 < dataset["padShare"] < 1
    assert found["hours"] is None


def test_the_plan_is_what_the_run_does(plan, make_config, train_here, validation):
    """Every number that both know, from the trainer's own report."""
    changes = {
        "data_conf": {
            "validation_data": {"type": "CONCATENATION", "datasets": [{"path": str(validation)}]},
        },
        "training_args": {"eval_strategy": "epoch", "save_strategy": "epoch", "logging_steps": 1},
        "peft_conf": {"peft_type": "LORA", "peft_kwargs": {"r": 4, "target_modules": "all-linear"}},
    }
    found = plan(**changes)
    arguments = {**SPEC["training_args"], **changes["training_args"]}
    trained = train_here(
        make_config(
            training_args=arguments,
            per_device=4,
            lora={"r": 4, "target_modules": "all-linear"},
            validation=validation,
            spec={"sft_args": {"max_seq_length": 64}},
        )
    )
    report = trained.report.dataset.to_dict()
    assert {key: found["dataset"][key] for key in report} == report
    effective = trained.report.effective.to_dict()
    same = effective.keys() & found["effective"].keys()
    assert {"learningRate", "trainableParameters", "perDeviceBatch", "accumulation", "totalBatch"} <= same
    assert {key: found["effective"][key] for key in same} == {key: effective[key] for key in same}
    assert found["steps"]["total"] == trained.report.total_steps
    assert found["evaluations"] == len(trained.eval_losses)
    assert found["checkpoints"] == len(trained.report.checkpoints)


@pytest.mark.parametrize(
    ("changes", "steps", "epochs"),
    [
        ({"training_args": {"max_steps": 5, "num_train_epochs": None}}, 5, 5 / 6),
        ({"training_args": {"num_train_epochs": None}, "overrides": {"min_update_steps": 13}}, 18, 3),
        ({"num_train_epochs": 0.5}, 3, 0.5),
        ({"data_conf": {"max_examples": 9}}, 4, 2),
    ],
)
def test_steps_by_each_rule(plan, changes, steps, epochs):
    found = plan(**changes)
    assert found["steps"]["total"] == steps
    assert found["steps"]["epochs"] == pytest.approx(epochs)


def test_hours_by_a_speed_that_is_given_or_was_measured(plan, tmp_path):
    tokens = plan()["dataset"]["tokens"]
    hours = 2 * tokens / 100 / 3600
    assert plan("--tokens-per-second", 100)["hours"] == pytest.approx(hours)
    (tmp_path / "earlier.json").write_text(json.dumps({"status": {"progress": {"tokensPerSecond": 100.0}}}))
    assert plan("--speed-of", "earlier.json")["hours"] == pytest.approx(hours)
    on_gpus = plan("--tokens-per-second", 100, finetuningGpus=4)
    assert on_gpus["gpuHours"] == pytest.approx(4 * hours)
    assert set(on_gpus["memory"]) == {"auto-ddp", "auto-deepspeed-stage1", "auto-deepspeed-stage3"}


def test_a_plan_for_people(finetune, manifest):
    result = finetune("plan", "-f", manifest(finetuningGpus=2), "--tokens-per-second", "1000")
    assert result.returncode == 0, result.stderr
    for text in (
        "42 training and 0 validation examples",
        "8 = 4 per device x 1 accumulated x 2 processes",
        "6 an epoch, 12 in all (2 epochs)",
        "0.005 at its peak, linear, 3 steps of warmup",
        "0 evaluations, 3 checkpoints",
        "GPU-hours",
        "* auto-ddp",
        "  auto-deepspeed-stage3",
    ):
        assert text in result.stdout, result.stdout


def test_more_gpus_than_a_node_has_are_capped_as_the_operator_does(finetune, manifest):
    """Document 000's example: 9 GPUs become 8; the total batch stays."""
    capped = finetune(
        "plan", "-f", manifest(finetuningGpus=9, batchsize_conf={"total_train_batch_size": 72}), "-o", "json"
    )
    assert "finetuningGpus 9 is more than a node has: 8 are used; the total batch size stays the same" in capped.stderr
    effective = json.loads(capped.stdout)["effective"]
    assert (effective["worldSize"], effective["totalBatch"]) == (8, 72)
    assert (effective["perDeviceBatch"], effective["accumulation"]) == (3, 3)
    refused = finetune("plan", "-f", manifest(finetuningGpus=9, batchsize_conf={"total_train_batch_size": 9}))
    assert refused.returncode == 1
    assert "total_train_batch_size 9 cannot be divided by 8 processes" in refused.stderr


# --- validate --data -------------------------------------------------------------------------------------------------


def rows(*answers):
    return [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": one}]} for one in answers]


def write(path, lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_good_data_is_counted(finetune, manifest, tmp_path):
    data = write(tmp_path / "rows.jsonl", rows("one", "two", "one", "three " * 100))
    checked = write(tmp_path / "checked.jsonl", rows("two", "four"))
    name = manifest(
        data,
        data_conf={"validation_data": {"type": "CONCATENATION", "datasets": [{"path": str(checked)}]}},
    )
    result = finetune("validate", "-f", name, "--data")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 training and 2 validation examples" in result.stdout
    assert "1 too long, 0 cut, 2 repeated, 1 of validation in training too" in result.stdout
    document = json.loads(finetune("validate", "-f", name, "--data", "-o", "json").stdout)
    dataset = document["manifests"][0]["data"]["dataset"]
    assert (dataset["dropped"], dataset["duplicates"], dataset["leaks"]) == (1, 2, 1)


def test_every_bad_line_is_told_and_the_total_is_exact(finetune, manifest, tmp_path):
    bad = {"messages": [{"role": "usr", "content": "x"}]}
    data = write(tmp_path / "rows.jsonl", [*rows("fine"), *[bad] * 250, '{"messages": \n', *rows("fine")])
    name = manifest(data)
    result = finetune("validate", "-f", name, "--data", "--max-lines", 0)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 252
    assert lines[0] == f"{data}:2: error: message 1 has the unknown role 'usr'; did you mean 'user'?"
    assert lines[-2].startswith(f"{data}:252: error: broken JSON at column")
    assert lines[-1] == "job.json: error: 251 bad lines in the data"
    few = finetune("validate", "-f", name, "--data", "--max-lines", 3)
    assert len(few.stdout.splitlines()) == 4
    assert "251 bad lines in the data; 248 more are not listed" in few.stdout
    document = json.loads(finetune("validate", "-f", name, "--data", "-o", "json").stdout)
    assert (document["valid"], document["manifests"][0]["data"]["badLines"]) == (False, 251)
    assert len(document["manifests"][0]["data"]["listed"]) == 100
    planned = finetune("plan", "-f", name)
    assert planned.returncode == 1
    assert "251 bad lines in the data" in planned.stderr


def test_what_only_a_cluster_has_is_given_by_set(finetune, manifest, dialogues):
    name = manifest("pvc://lake/rows.jsonl")
    refused = finetune("validate", "-f", name, "--data")
    assert refused.returncode == 1
    key = "data_conf.training_data.datasets[0].path"
    assert f"--set {key}=/absolute/path names a local copy" in refused.stdout
    assert finetune("validate", "-f", name, "--data", "--set", f"{key}={dialogues}").returncode == 0


def test_what_is_missing_is_a_problem_of_the_data(finetune, manifest, tmp_path):
    result = finetune("validate", "-f", manifest(tmp_path / "none.jsonl"), "--data")
    assert result.returncode == 1
    assert "none.jsonl is not a file here" in result.stdout
    assert "is valid" not in result.stdout


@pytest.mark.parametrize(
    ("method", "arguments", "row", "bad", "words"),
    [
        (
            "dpo",
            {"dpo_args": {"max_seq_length": 64}},
            {
                "prompt_messages": [{"role": "user", "content": "Hi"}],
                "chosen_messages": [{"role": "assistant", "content": "Yes"}],
                "rejected_messages": [{"role": "assistant", "content": "No"}],
            },
            {"prompt_messages": [{"role": "user", "content": "Hi"}]},
            "no key 'chosen_messages'",
        ),
        ("clm", {"clm_args": {"block_size": 8}}, {"text": "the cat sat on a mat " * 5}, {"txt": "x"}, "'text'"),
    ],
)
def test_every_method_is_read_and_planned(finetune, manifest, tmp_path, method, arguments, row, bad, words):
    data = write(tmp_path / "rows.jsonl", [row] * 9)
    changes = {"method": method, "sft_args": None, **arguments}
    if method == "clm":
        changes["data_conf"] = {"chat_template_name": None}
    name = manifest(data, **changes)
    found = finetune("plan", "-f", name, "-o", "json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["dataset"]["examples"] == 9
    write(data, [row, bad])
    refused = finetune("validate", "-f", name, "--data")
    assert refused.returncode == 1
    assert f"{data}:2: error: " in refused.stdout
    assert words in refused.stdout


# --- a named dataset -------------------------------------------------------------------------------------------------


def test_a_named_dataset_is_told_by_an_option(finetune, manifest, dialogues, tmp_path):
    name = manifest("dataset://dialogues")
    unknown = finetune("plan", "-f", name)
    assert unknown.returncode == 1
    assert "--dataset dialogues=PATH says where it lies" in unknown.stderr
    write(tmp_path / "here.jsonl", rows("one", "two"))
    found = finetune("plan", "-f", name, "-o", "json", "--dataset", "dialogues=here.jsonl")
    assert json.loads(found.stdout)["dataset"]["examples"] == 2
    assert "uses no dataset://other" in finetune("plan", "-f", name, "--dataset", "other=here.jsonl").stderr
