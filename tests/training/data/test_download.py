"""The download pod as the operator starts it: what it leaves on the volumes, what it says, and how it fails."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_api import constants
from finetune_api.job_config import JobConfig
from finetune_api.report import TerminationReport
from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer import download, transfer
from finetune_trainer.transfer import upload_tree

ROWS = [
    {"messages": [{"role": "user", "content": f"What is {n}?"}, {"role": "assistant", "content": "Machines " * n}]}
    for n in range(1, 11)
]


def make_model(folder: Path, tokenizer: Path) -> Path:
    """A model directory without a model: config, a tokenizer and weights of known shapes (1000 parameters)."""
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    header = json.dumps(
        {
            "model.layers.0.self_attn.q_proj.weight": {"dtype": "F32", "shape": [20, 30], "data_offsets": [0, 2400]},
            "lm_head.weight": {"dtype": "BF16", "shape": [10, 40], "data_offsets": [2400, 3200]},
        }
    ).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(3200))
    return folder


def write_rows(path: Path, rows: list[Any] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Pod:
    """A download pod's volumes and configuration, and what it said."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work, self.cache = folder / "work", folder / "cache"
        self.config, self.log = folder / "job.json", folder / "termination-log"
        self.environment = {
            constants.ENV_CONFIG: str(self.config),
            constants.ENV_WORK_DIR: str(self.work),
            constants.ENV_MODEL_DIR: str(folder / "basemodel"),
            constants.ENV_MODEL_CACHE_DIR: str(self.cache),
            constants.ENV_TERMINATION_LOG: str(self.log),
        }
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def configure(self, **changes: Any) -> None:
        spec: dict[str, Any] = {
            "basemodel": "s3://data/model",
            "finetuningGpus": 0,
            "data_conf": {
                "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://data/train.jsonl"}]},
                "validation_data": {"type": "AUTO_SPLIT", "ratio": 0.2},
                "chat_template_name": "chat-ml",
            },
            "training_args": {"learning_rate": 1e-3, "num_train_epochs": 3},
            "batchsize_conf": {"total_train_batch_size": 4, "max_per_device_train_batch_size": 2},
            "peft_conf": {"peft_type": "NO_PEFT"},
            "run_conf": {},
            "sft_args": {"max_seq_length": 64},
        }
        spec.update(changes)
        resolved = resolve(FineTuneJobSpec.model_validate(spec)).spec
        self.config.write_text(JobConfig(name="job", spec=resolved.to_dict()).to_json())

    def run(self) -> TerminationReport:
        code = download.main()
        report = TerminationReport.from_message(self.log.read_text())
        assert report is not None
        assert report.exit_code == code
        assert (self.work / "records/download.json").read_text() == self.log.read_text()
        return report


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    monkeypatch.setattr(transfer, "RETRY_SECONDS", 1.0)
    return Pod(tmp_path, monkeypatch)


@pytest.fixture
def filled(s3: str, tmp_path: Path, tokenizers_dir: Path) -> Path:
    """The bucket `data` with model/ and train.jsonl, uploaded from the returned folder."""
    folder = tmp_path / "bucket"
    make_model(folder / "model", tokenizers_dir / "chatty")
    write_rows(folder / "train.jsonl")
    upload_tree(folder, "s3://data")
    return folder


def test_model_and_data_arrive_and_the_account_is_right(pod: Pod, filled: Path) -> None:
    pod.configure()
    report = pod.run()
    assert (report.exit_code, report.reason) == (0, "Completed")
    assert report.dataset
    assert (report.dataset.examples, report.dataset.validation_examples, report.dataset.dropped) == (8, 2, 0)
    assert (report.dataset.steps_per_epoch, report.dataset.total_steps, report.total_steps) == (2, 6, 6)
    assert report.dataset.memory_estimate_bytes == 1000 * (4 + 4 + 8)
    assert report.effective
    assert (report.effective.per_device_batch, report.effective.accumulation, report.effective.world_size) == (2, 2, 1)
    (entry,) = [path for path in pod.cache.iterdir() if path.is_dir()]
    assert (entry / "model.safetensors").read_bytes() == (filled / "model/model.safetensors").read_bytes()
    assert json.loads((entry / "_COMPLETE.json").read_text())["files"]["config.json"] > 0
    assert (pod.work / "data/_COMPLETE.json").is_file()
    assert next((pod.work / "data").glob("*-train.jsonl")).read_bytes() == (filled / "train.jsonl").read_bytes()


def test_an_outline_is_the_model_without_its_weights(pod: Pod, filled: Path) -> None:
    """What `finetune plan` fetches: the plan is that of the whole model."""
    pod.configure()
    whole = pod.run()
    shutil.rmtree(pod.cache)
    config = download.read_config()
    resolved = resolve(config.parsed_spec())
    places = download.Places.from_environment()
    folder, _ = download.bring_inputs(resolved.spec, places, outline=True)
    plan, _ = download.examine(config, resolved, places, folder)
    assert plan.dataset_report() == whole.dataset
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["_TENSORS.json", *(path.name for path in (filled / "model").iterdir() if path.suffix != ".safetensors")]
    )
    pod.run()  # brings the whole, which an outline must not stand for
    folder, _ = download.bring_inputs(resolved.spec, places, outline=True)
    assert (folder / "model.safetensors").is_file()


def test_a_second_run_needs_no_model_and_sees_changed_data(pod: Pod, filled: Path) -> None:
    pod.configure()
    pod.run()
    remove_tree("model")  # a complete cache entry must do without it
    write_rows(filled / "train.jsonl", ROWS[:6])
    upload_one(filled / "train.jsonl", "train.jsonl")
    report = pod.run()
    assert report.exit_code == 0
    assert report.dataset
    assert (report.dataset.examples, report.dataset.validation_examples) == (4, 2)


def remove_tree(key: str) -> None:
    remote = transfer.Remote(f"s3://data/{key}")
    remote.fs.rm(remote.path, recursive=True)


def upload_one(path: Path, key: str) -> None:
    remote = transfer.Remote(f"s3://data/{key}")
    remote.fs.put_file(str(path), remote.path)


def test_a_damaged_cache_entry_is_fetched_again(pod: Pod, filled: Path) -> None:
    pod.configure()
    pod.run()
    (entry,) = [path for path in pod.cache.iterdir() if path.is_dir()]
    (entry / "model.safetensors").write_bytes(b"cut")
    assert pod.run().exit_code == 0
    assert (entry / "model.safetensors").stat().st_size > 3200
    assert [path.name for path in pod.cache.iterdir() if path.is_dir()] == [entry.name]


def test_downloads_of_one_model_at_once_share_it(pod: Pod, filled: Path) -> None:
    pod.configure()
    command = [sys.executable, "-m", "finetune_trainer.download"]
    others = []
    for number in (1, 2):
        work = pod.work.with_name(f"work-{number}")
        environment = {
            **os.environ,
            constants.ENV_WORK_DIR: str(work),
            constants.ENV_TERMINATION_LOG: str(work) + ".log",
        }
        others.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=120)[0] for process in others]
    assert [process.returncode for process in others] == [0, 0], outputs
    assert len([path for path in pod.cache.iterdir() if path.is_dir()]) == 1


def test_a_pretrained_adapter_arrives_and_is_checked(pod: Pod, filled: Path) -> None:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": ["q_proj"]}
    (filled / "adapter").mkdir()
    (filled / "adapter/adapter_config.json").write_text(json.dumps(config))
    (filled / "adapter/adapter_model.safetensors").write_bytes((filled / "model/model.safetensors").read_bytes())
    upload_tree(filled, "s3://data")
    pod.configure(peft_conf={"peft_type": "PRETRAINED_PEFT", "name_or_path": "s3://data/adapter"})
    report = pod.run()
    assert report.exit_code == 0, report.message
    assert json.loads((pod.work / "adapter/adapter_config.json").read_text()) == config
    (filled / "adapter/adapter_config.json").write_text(json.dumps({**config, "target_modules": ["p_proj"]}))
    upload_one(filled / "adapter/adapter_config.json", "adapter/adapter_config.json")
    report = pod.run()
    assert (report.exit_code, report.reason) == (78, "BadConfiguration")
    assert "target_modules names 'p_proj'" in report.message


ADAPTION_PROMPT = {"peft_type": "ADAPTION_PROMPT", "peft_kwargs": {"adapter_len": 2, "adapter_layers": 1}}


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"basemodel": "s3://data/none"}, 66, ["s3://data/none", "does not exist"]),
        ({"basemodel": "s3://nobucket/model"}, 66, ["s3://nobucket/model", "does not exist"]),
        ({"basemodel": "data/train.jsonl"}, 66, ["s3://data/train.jsonl"]),
        ({"basemodel": "/nowhere"}, 66, ["/nowhere is no folder"]),
        ({"sft_args": {"max_seq_length": 3}}, 65, ["max_seq_length (3 tokens)", "the shortest row has"]),
        (
            {"data_conf": "poro", "peft_conf": {"peft_type": "LORA"}, "quant_conf": {"load_in_4bit": True}},
            78,
            ["lacks 2 tokens", "poro", "quantised model cannot grow"],
        ),
        (
            {"data_conf": "poro", "peft_conf": {**ADAPTION_PROMPT}},
            78,
            ["lacks 2 tokens", "ADAPTION_PROMPT cannot train their embeddings"],
        ),
        (
            {"peft_conf": {"peft_type": "LORA", "peft_kwargs": {"modules_to_save": ["embed_token"]}}},
            78,
            ["modules_to_save names 'embed_token'", "the model has no such module; it has", "q_proj"],
        ),
        ({"peft_conf": {"peft_type": "PRETRAINED_PEFT", "name_or_path": "s3://data/none"}}, 66, ["s3://data/none"]),
        (
            {"peft_conf": {"peft_type": "PRETRAINED_PEFT", "name_or_path": "s3://data/model"}},
            66,
            ["s3://data/model has no adapter_config.json"],
        ),
    ],
)
def test_failures_name_what_is_wrong(
    changes: dict[str, Any], code: int, words: list[str], pod: Pod, filled: Path
) -> None:
    if isinstance(changes.get("data_conf"), str):
        changes["data_conf"] = {
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://data/train.jsonl"}]},
            "validation_data": {"type": "NONE"},
            "chat_template_name": changes["data_conf"],
        }
    pod.configure(**changes)
    report = pod.run()
    assert report.exit_code == code
    for word in words:
        assert word in report.message


def test_bad_lines_are_reported_with_the_users_path(pod: Pod, filled: Path) -> None:
    write_rows(filled / "train.jsonl", [*ROWS, {"messages": [{"role": "usr", "content": "x"}]}])
    upload_one(filled / "train.jsonl", "train.jsonl")
    pod.configure()
    report = pod.run()
    assert (report.exit_code, report.reason) == (65, "BadData")
    assert "s3://data/train.jsonl:11: message 1 has the unknown role 'usr'; did you mean 'user'?" in report.message


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda model: (model / "config.json").unlink(), "no model: it has no config.json"),
        (lambda model: (model / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda model: (model / "model.safetensors").unlink(), "has no weights"),
        (lambda model: (model / "model.safetensors").write_bytes(b"\x10" + bytes(20)), "model.safetensors"),
        (lambda model: (model / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda model: (model / "tokenizer.json").write_text("{}"), "the tokenizer cannot be read"),
    ],
)
def test_a_folder_that_is_no_model(
    damage: Callable[[Path], object], words: str, pod: Pod, tmp_path: Path, tokenizers_dir: Path
) -> None:
    model = make_model(tmp_path / "model", tokenizers_dir / "chatty")
    damage(model)
    data = write_rows(tmp_path / "rows.jsonl")
    pod.configure(basemodel=str(model), data_conf=local_data(data))
    report = pod.run()
    assert (report.exit_code, report.reason) == (66, "InputMissing")
    assert words in report.message


def local_data(path: Path, **validation: Any) -> dict[str, Any]:
    return {
        "training_data": {"type": "CONCATENATION", "datasets": [{"path": str(path)}]},
        "validation_data": {"type": "NONE", **validation},
        "chat_template_name": "chat-ml",
    }


def test_local_model_and_data_need_no_download(pod: Pod, tmp_path: Path, tokenizers_dir: Path) -> None:
    model = make_model(tmp_path / "model", tokenizers_dir / "chatty")
    data = write_rows(tmp_path / "rows.jsonl", [*ROWS, ROWS[0]])
    pod.configure(
        basemodel=str(model), data_conf=local_data(data), peft_conf={"peft_type": "LORA", "peft_kwargs": {"r": 2}}
    )
    report = pod.run()
    assert report.exit_code == 0
    assert report.dataset
    assert (report.dataset.examples, report.dataset.validation_examples) == (11, 0)
    # LoRA: 1000 frozen weights, in fp32 on CPU, and an adapter of 2 * (20 + 30) with gradient and moments
    assert report.dataset.memory_estimate_bytes == 1000 * 4 + 100 * 16
    assert not pod.cache.exists()


def test_a_missing_local_file_says_where_to_put_data(pod: Pod, tmp_path: Path, tokenizers_dir: Path) -> None:
    model = make_model(tmp_path / "model", tokenizers_dir / "chatty")
    pod.configure(basemodel=str(model), data_conf=local_data(tmp_path / "none.jsonl"))
    report = pod.run()
    assert report.exit_code == 66
    assert "none.jsonl is not a file here" in report.message


def test_claims_and_config_maps_are_read_from_their_mounts(
    pod: Pod, tmp_path: Path, tokenizers_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer import data_files

    monkeypatch.setitem(data_files._MOUNTS, "pvc", str(tmp_path / "pvc"))
    monkeypatch.setitem(data_files._MOUNTS, "configmap", str(tmp_path / "configmap"))
    make_model(tmp_path / "basemodel", tokenizers_dir / "chatty")
    write_rows(tmp_path / "pvc/claim/folder/train.jsonl")
    write_rows(tmp_path / "configmap/settings/eval.jsonl", ROWS[:3])
    conf = local_data(tmp_path / "x")
    conf["training_data"]["datasets"] = [{"path": "pvc://claim/folder/train.jsonl"}]
    conf["validation_data"] = {"type": "CONCATENATION", "datasets": [{"path": "configmap://settings/eval.jsonl"}]}
    pod.configure(basemodel="pvc://models/llama", data_conf=conf)
    report = pod.run()
    assert report.exit_code == 0, report.message
    assert report.dataset
    assert (report.dataset.examples, report.dataset.validation_examples) == (10, 3)
    (tmp_path / "pvc/claim/folder/train.jsonl").unlink()
    report = pod.run()
    assert report.exit_code == 66
    assert "pvc://claim/folder/train.jsonl does not exist in the mounted volume" in report.message


# --- datasets that are more than one file ----------------------------------------------------------------------------


def data_of(training: dict[str, Any], validation: dict[str, Any] | None = None) -> dict[str, Any]:
    checked = {"type": "CONCATENATION", "datasets": [validation]} if validation else {"type": "NONE"}
    return {
        "training_data": {"type": "CONCATENATION", "datasets": [training]},
        "validation_data": checked,
        "chat_template_name": "chat-ml",
    }


def counts(report: TerminationReport) -> tuple[int | None, int | None]:
    assert report.exit_code == 0, report.message
    assert report.dataset
    return report.dataset.examples, report.dataset.validation_examples


def test_a_folder_in_a_bucket_is_a_dataset_with_splits(pod: Pod, filled: Path) -> None:
    """Training takes train and validation takes validation, only their files are fetched, and a changed one again."""
    for name, rows in (("train-0", ROWS[:4]), ("train-1", ROWS[4:7]), ("validation", ROWS[7:9]), ("test", ROWS[:1])):
        upload_one(write_rows(filled / f"{name}.jsonl", rows), f"folder/{name}.jsonl")
    folder = {"path": "s3://data/folder"}
    pod.configure(data_conf=data_of(folder, folder))
    assert counts(pod.run()) == (7, 2)
    placed = sorted(path.name for path in (pod.work / "data").glob("*-folder/*.jsonl"))
    assert placed == ["train-0.jsonl", "train-1.jsonl", "validation.jsonl"]
    upload_one(write_rows(filled / "train-1.jsonl", ROWS[4:6]), "folder/train-1.jsonl")
    remove_tree("folder/train-0.jsonl")
    assert counts(pod.run()) == (2, 2)
    pod.configure(data_conf=data_of({**folder, "split": "test"}))
    assert counts(pod.run()) == (1, 0)
    pod.configure(data_conf=data_of({**folder, "split": "dev"}))
    report = pod.run()
    assert report.exit_code == 66
    assert "s3://data/folder has no split 'dev': set split to one of train, validation, test" in report.message


def test_a_bad_line_in_a_folder_is_told_with_its_file(pod: Pod, filled: Path) -> None:
    upload_one(write_rows(filled / "a.jsonl", [*ROWS, {"messages": []}]), "folder/part/a.jsonl")
    pod.configure(data_conf=data_of({"path": "s3://data/folder"}))
    report = pod.run()
    assert report.exit_code == 65
    assert "s3://data/folder/part/a.jsonl:11: " in report.message


def test_folders_that_are_here_are_not_copied(
    pod: Pod, tmp_path: Path, tokenizers_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer import data_files

    monkeypatch.setitem(data_files._MOUNTS, "pvc", str(tmp_path / "pvc"))
    model = make_model(tmp_path / "model", tokenizers_dir / "chatty")
    write_rows(tmp_path / "local/train/1.jsonl", ROWS[:3])
    write_rows(tmp_path / "local/train/2.jsonl", ROWS[3:5])
    write_rows(tmp_path / "local/test/1.jsonl", ROWS[5:6])
    write_rows(tmp_path / "pvc/claim/folder/1.jsonl", ROWS[6:10])
    pod.configure(
        basemodel=str(model), data_conf=data_of({"path": str(tmp_path / "local")}, {"path": "pvc://claim/folder"})
    )
    assert counts(pod.run()) == (5, 4)
    (linked,) = (pod.work / "data").glob("*-local/train/1.jsonl")
    assert linked.readlink() == tmp_path / "local/train/1.jsonl"
    (copied,) = (pod.work / "data").glob("*-folder/1.jsonl")
    assert not copied.is_symlink()


@pytest.mark.parametrize("key", ["config", "split"])
def test_a_file_has_no_splits(key: str, pod: Pod, tmp_path: Path, tokenizers_dir: Path) -> None:
    model = make_model(tmp_path / "model", tokenizers_dir / "chatty")
    data = write_rows(tmp_path / "rows.jsonl")
    pod.configure(basemodel=str(model), data_conf=data_of({"path": str(data), key: "train"}))
    report = pod.run()
    assert report.exit_code == 78
    assert f"rows.jsonl is a file, which has no {key}" in report.message


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """named(path=…, split=…): the mounted ConfigMap of the dataset `dialogues`, as the kubelet writes it."""
    from finetune_trainer import data_files

    monkeypatch.setitem(data_files._MOUNTS, "dataset", str(tmp_path / "dataset"))

    def write(**keys: str) -> None:
        folder = tmp_path / "dataset/dialogues"
        (folder / "..data").mkdir(parents=True, exist_ok=True)
        for key, value in keys.items():
            (folder / "..data" / key).write_text(value + "\n")
            if not (folder / key).is_symlink():
                (folder / key).symlink_to(folder / "..data" / key)

    return write


def test_a_named_dataset_lies_where_its_config_map_says(named: Callable[..., None], pod: Pod, filled: Path) -> None:
    import csv

    with (filled / "pairs").open("w", newline="") as stream:
        csv.writer(stream).writerows([["input", "output"], ["What is AI?", "Machines that think."], ["Hi", ""]])
    upload_one(filled / "pairs", "pairs")
    named(path="s3://data/pairs", format="csv", description="questions and answers")
    conf = data_of({"path": "dataset://dialogues"})
    pod.configure(data_conf={**conf, "input_key": "input"})
    assert counts(pod.run()) == (2, 0)
    for name in ("train", "test"):
        upload_one(write_rows(filled / f"{name}.jsonl", ROWS[: len(name)]), f"folder/{name}.jsonl")
    named(path="data/folder", format="jsonl", split="test")  # the name stays, what it names has moved
    pod.configure(data_conf=conf)
    assert counts(pod.run()) == (4, 0)
    pod.configure(data_conf=data_of({"path": "dataset://dialogues", "split": "train"}))
    assert counts(pod.run()) == (5, 0)


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ({}, 66, "dataset://dialogues does not exist: it is a ConfigMap dialogues in the namespace of the job"),
        ({"pth": "s3://data/x"}, 66, "whose key path says where the data lies (found pth"),
        ({"path": "s3://data/x", "splt": "a"}, 78, "has the key 'splt', which nothing reads; it may have path, format"),
        ({"path": "s3://data/x", "format": "xml"}, 78, "'jsonl', 'csv', 'parquet' or 'text'"),
        ({"path": "pvc://claim/x"}, 78, "must lie where every pod can reach it: hf, s3, gs, az, http, https"),
        ({"path": "/etc/passwd"}, 78, "has the scheme local"),
        ({"path": "dataset://dialogues"}, 78, "has the scheme dataset"),
        ({"path": "ftp://x/y"}, 78, "unknown scheme ftp://"),
        ({"path": "s3://data/none.jsonl"}, 66, "s3://data/none.jsonl does not exist"),
    ],
)
def test_a_named_dataset_that_is_none(
    keys: dict[str, str], code: int, words: str, named: Callable[..., None], pod: Pod, filled: Path
) -> None:
    if keys:
        named(**keys)
    pod.configure(data_conf=data_of({"path": "dataset://dialogues"}))
    report = pod.run()
    assert report.exit_code == code, report.message
    assert words in report.message


def test_wrong_keys_name_the_secret_and_its_keys(pod: Pod, filled: Path, s3_with_keys: str) -> None:
    secret = {"name": "team-keys", "accessKeyKey": "id", "secretKeyKey": "word"}
    pod.configure(bucketCredentialsSecret=secret)
    report = pod.run()
    assert report.exit_code == 66
    assert "access denied" in report.message
    assert "the keys id and word of Secret team-keys" in report.message


def test_an_endpoint_that_does_not_answer_is_worth_a_retry(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "demo")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "demo-secret")
    pod.configure(bucketStorageHost="http://127.0.0.1:9")
    report = pod.run()
    assert (report.exit_code, report.reason) == (69, "Unavailable")
    assert "s3://data/model: no answer" in report.message
    assert os.environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"


def test_a_configuration_that_is_none(pod: Pod) -> None:
    pod.config.write_text("{")
    assert pod.run().exit_code == 78
    pod.config.unlink()
    assert pod.run().exit_code == 78


def test_it_never_loads_torch(pod: Pod, tmp_path: Path, tokenizers_dir: Path) -> None:
    model = make_model(tmp_path / "model", tokenizers_dir / "chatty")
    pod.configure(basemodel=str(model), data_conf=local_data(write_rows(tmp_path / "rows.jsonl")))
    program = (
        "import sys; from finetune_trainer import download; code = download.main();"
        "assert not {'torch', 'transformers', 'numpy', 'fsspec'} & set(sys.modules), 'slow'; sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


class Stuck(BaseHTTPRequestHandler):
    """A store that begins to answer and then says nothing more."""

    begun = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"{")
        self.wfile.flush()
        self.begun.set()
        time.sleep(30)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_sigterm_ends_it_at_once_with_75(pod: Pod, tmp_path: Path, tokenizers_dir: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stuck)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = make_model(tmp_path / "model", tokenizers_dir / "chatty")
    conf = local_data(tmp_path / "x")
    conf["training_data"]["datasets"] = [{"path": f"http://127.0.0.1:{server.server_port}/train.jsonl"}]
    pod.configure(basemodel=str(model), data_conf=conf)
    process = subprocess.Popen([sys.executable, "-m", "finetune_trainer.download"], stdout=subprocess.DEVNULL)
    assert Stuck.begun.wait(60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 75
    server.shutdown()
    report = TerminationReport.from_message(pod.log.read_text())
    assert report is not None
    assert (report.reason, report.exit_code) == ("Interrupted", 75)
