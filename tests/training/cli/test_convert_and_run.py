"""What `finetune convert` makes of each document's own example, downloaded and trained as a pod does it, on the CPU.

A small model and small data stand for the documents' (--basemodel, --data), and numbers that need thousands of rows are
made smaller with --set; every other key is the document's.
"""

import json
import math
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune_api.job_config import JobConfig
from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_cli.main import main

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "tests/unit/cli/convert"
WORDS = str.split("the cat dog sat on a mat ran to my house and saw one bird with red blue green hat")
ON_CPU = "finetuningGpus=0"


@pytest.fixture
def converted(capsys):
    """`converted(file, *flags, changes=[…])`: the manifest."""

    def run(file, *flags, changes=()):
        capsys.readouterr()
        sets = [word for change in changes for word in ("--set", change)]
        code = main(["convert", str(file), "-o", "json", *map(str, flags), *sets])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return run


@pytest.fixture
def trained(train_here, tmp_path):
    """`trained(manifest)`: (what the download reported, the run, the resolved spec), by the stages of the pods."""

    def run(manifest):
        from finetune_trainer.download import Places, download

        resolved = resolve(FineTuneJobSpec.model_validate(manifest["spec"]))
        config = JobConfig(name=manifest["metadata"]["name"], uid="converted", spec=resolved.spec.to_dict())
        places = Places(work=tmp_path, model=Path(resolved.spec.basemodel), cache=tmp_path / "cache")
        downloaded = download(config, places)
        assert downloaded.exit_code == 0, downloaded.message
        run = train_here(config, work=tmp_path)
        assert all(math.isfinite(loss) for loss in run.losses.values())
        assert (run.final / "model.safetensors").exists() or (run.final / "adapter_model.safetensors").exists()
        return downloaded, run, resolved.spec

    return run


def texts(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 30))) for _ in range(count)]


def test_lamini(converted, trained, base_model, tmp_path):
    rows = zip(texts(40, 1), texts(40, 2), strict=True)
    (tmp_path / "faqs.csv").write_text(
        "input,output\n" + "".join(f"{question},{answer}\n" for question, answer in rows)
    )
    changes = [ON_CPU, "sft_args.max_seq_length=128", "training_args.max_steps=6", "training_args.logging_steps=1"]
    manifest = converted(
        EXAMPLES / "document-000/tune.py",
        *("--basemodel", base_model, "--data", tmp_path / "faqs.csv"),
        changes=[*changes, "mergeAdapter=false"],
    )
    downloaded, run, spec = trained(manifest)
    assert downloaded.dataset.examples == 30  # max_finetuning_examples
    assert downloaded.dataset.packed_into < 30
    assert run.report.total_steps == 6
    assert (spec.training_args.optim, spec.training_args.learning_rate) == ("adafactor", 9e-4)
    adapter = json.loads((run.final / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (64, 64)
    assert run.losses[6] < run.losses[1]


def test_llmforge(converted, trained, base_model, dialogues, validation, tmp_path):
    """All fragments of the document as one file."""
    whole = tmp_path / "llmforge.yaml"
    whole.write_text("\n".join(path.read_text() for path in sorted((EXAMPLES / "document-001").glob("*.yaml"))))
    text = re.sub(r"^num_devices: 8\n", "", whole.read_text(), flags=re.MULTILINE)  # it stands in two fragments
    whole.write_text(text)
    assert len(yaml.safe_load(text)) == 13
    manifest = converted(
        whole,
        *("--basemodel", base_model, "--data", dialogues, "--validation", validation),
        changes=[
            *(ON_CPU, "data_conf.chat_template_name=chat-ml", "batchsize_conf.total_train_batch_size=14"),
            *("batchsize_conf.max_per_device_train_batch_size=14", "training_args.logging_steps=1"),
            *("sft_args.max_seq_length=128", "data_conf.max_examples=14"),
        ],
    )
    _, run, spec = trained(manifest)
    assert manifest["spec"]["acceleratorType"] == "A10G"
    assert run.report.total_steps == 10  # num_epochs, one step each
    assert sorted(run.eval_losses) == [5, 10]  # checkpoint_every_n_epochs
    kept = {int(path.name.removeprefix("checkpoint-")) for path in run.checkpoints.glob("checkpoint-[0-9]*")}
    best = min(run.eval_losses, key=lambda step: run.eval_losses[step])
    assert kept == {best, 10}  # num_checkpoints_to_keep, and the newest
    assert spec.peft_conf.peft_kwargs["target_modules"][-2:] == ["embed_tokens", "lm_head"]
    assert run.losses[10] < run.losses[1]
    assert (run.checkpoints / "checkpoint-final-merged").is_dir()


def test_the_engine_s_values(converted, trained, base_model, dialogues, validation):
    changes = ["num_train_epochs=2", "training_args.logging_steps=1", "sft_args.max_seq_length=128"]
    elsewhere = ["tracking=null", "checkpointsRemote=null", "bucketStorageHost=null", "bucketCredentialsSecret=null"]
    manifest = converted(
        ROOT / "examples/values-nested.yaml",
        *("--basemodel", base_model, "--data", dialogues, "--validation", validation),
        changes=[*changes, *elsewhere],
    )
    _, run, spec = trained(manifest)
    assert spec.sft_args.train_on_completions_only
    assert len(run.eval_losses) == 2
    assert list(run.losses.values())[-1] < run.losses[1]


@pytest.fixture
def wikitext(tmp_path):
    """A dataset with the document's configuration and splits in a folder, as it lies on the hub."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "wikitext" / "wikitext-2-raw-v1"
    folder.mkdir(parents=True)
    for split, count in (("train", 20), ("validation", 6)):
        rows = [line for text in texts(count, seed=count) for line in (text, "")]  # blank lines, as it has
        pyarrow.parquet.write_table(pyarrow.table({"text": rows}), folder / f"{split}-00000-of-00001.parquet")
    files = [{"split": split, "path": f"{folder.name}/{split}-*"} for split in ("train", "validation")]
    card = yaml.safe_dump({"configs": [{"config_name": folder.name, "data_files": files}]})
    (folder.parent / "README.md").write_text(f"---\n{card}---\n")
    return folder.parent


def script_on(data):
    """The changes that put data in the place of the script's dataset."""
    place = json.dumps(str(data))
    return [f"data_conf.{part}.datasets[0].path={place}" for part in ("training_data", "validation_data")]


def test_the_hugging_face_script(converted, trained, make_model, wikitext):
    manifest = converted(
        EXAMPLES / "document-004/script.py",
        *("--basemodel", make_model(architecture="gpt2")),
        changes=[ON_CPU, "training_args.fp16=null", *script_on(wikitext)],
    )
    downloaded, run, _ = trained(manifest)
    assert downloaded.dataset.examples == 20
    assert run.report.total_steps == 9  # 3 epochs of 20 rows in batches of 8
    assert sorted(run.eval_losses) == [3, 6, 9]
    saved = {path.name for path in run.checkpoints.glob("checkpoint-[0-9]*")}
    assert saved == {"checkpoint-3", "checkpoint-6", "checkpoint-9"}
    assert (run.final / "tokenizer.json").exists()
    assert run.report.eval_loss == run.eval_losses[9]


def test_finetune_run_trains_on_the_cpu_what_a_script_would_on_a_gpu(converted, make_model, wikitext, tmp_path):
    """Nothing but the model and the data is changed: one GPU and fp16 are asked for."""
    model = make_model(architecture="gpt2")
    manifest = converted(EXAMPLES / "document-004/script.py", "--basemodel", model, changes=script_on(wikitext))
    assert (manifest["spec"]["finetuningGpus"], manifest["spec"]["training_args"]["fp16"]) == (1, True)
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "finetune_cli.main",
            "run",
            "-f",
            "-",
            "--work-dir",
            str(tmp_path / "work"),
            "-o",
            "json",
        ],
        input=json.dumps(manifest),
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "note: this machine has no GPU: finetuningGpus 1 -> 0" in result.stderr
    assert "note: training_args.fp16 needs a GPU: trained in fp32" in result.stderr
    told = json.loads(result.stdout)
    assert (told["phase"], told["step"]) == ("Succeeded", 9)
    assert (Path(told["model"]["path"]) / "model.safetensors").exists()
