"""A job for GPUs on a machine that has fewer, or none."""

import pytest

from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_cli import local_machine
from finetune_cli.local_machine import fitted, gpus_here

SPEC = {
    "basemodel": "/m",
    "finetuningGpus": 4,
    "distributedType": "auto-ddp",
    "data_conf": {
        "training_data": {"type": "CONCATENATION", "datasets": [{"path": "/d.jsonl"}]},
        "validation_data": {"type": "NONE"},
    },
    "training_args": {"fp16": True, "learning_rate": 1e-4},
    "batchsize_conf": {"total_train_batch_size": 16, "max_per_device_train_batch_size": 2},
    "peft_conf": {"peft_type": "NO_PEFT"},
    "run_conf": {"model_args": {"attn_implementation": "flash_attention_2", "use_cache": False}},
    "sft_args": {},
}


def test_without_a_gpu_the_same_training_runs_on_the_cpu():
    spec, notes = fitted(SPEC, 0)
    resolved = resolve(FineTuneJobSpec.model_validate(spec))
    assert (resolved.on_cpu, resolved.world_size, resolved.total_batch) == (True, 1, 16)
    assert resolved.training_args["learning_rate"] == 1e-4
    assert "fp16" not in spec["training_args"]
    assert spec["run_conf"]["model_args"] == {"use_cache": False}
    assert [note.split(":")[0] for note in notes] == [
        "this machine has no GPU",
        "training_args.fp16 needs a GPU",
        "run_conf.model_args.attn_implementation flash_attention_2 needs a GPU",
    ]
    assert SPEC["training_args"]["fp16"] is True  # the job's own stays


@pytest.mark.parametrize(("gpus", "used"), [(1, 1), (2, 2), (3, 2), (4, 4), (8, 4)])
def test_fewer_gpus_than_asked_for_keep_the_total_batch(gpus, used):
    spec, notes = fitted(SPEC, gpus)
    assert spec["finetuningGpus"] == used
    assert bool(notes) == (gpus < 4)
    assert resolve(FineTuneJobSpec.model_validate(spec)).batch().per_device == 2


@pytest.mark.parametrize("asked", [0, 1])
def test_what_the_machine_has_is_left_alone(asked):
    spec = {**SPEC, "finetuningGpus": asked}
    assert fitted(spec, asked) == (spec, [])


def test_absent_means_one_gpu():
    spec = {key: value for key, value in SPEC.items() if key != "finetuningGpus"}
    assert fitted(spec, 0)[0]["finetuningGpus"] == 0
    assert fitted(spec, 1) == (spec, [])


def test_gpus_that_may_not_be_used_do_not_count(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200'\necho 'GPU 1: NVIDIA H200'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_here() == 2
    for visible, count in (("1", 1), ("", 0), ("-1", 0), ("0,1,2", 2)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus_here() == count


def test_amd_s_gpus_are_counted_and_its_cpus_are_not(monkeypatch, tmp_path):
    for number, simd_count in enumerate((0, 304, 304)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "properties").write_text(f"cpu_cores_count 4\nsimd_count {simd_count}\n")
    monkeypatch.setattr(local_machine, "AMD_NODES", tmp_path)
    monkeypatch.setattr(local_machine, "_nvidia", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "1")
    assert gpus_here() == 1
    monkeypatch.delenv("HIP_VISIBLE_DEVICES")
    assert gpus_here() == 2


def test_several_nodes_become_this_machine():
    spec, notes = fitted({**SPEC, "finetuningGpus": 0, "nodes": 4, "cpuProcesses": 2}, 0)
    assert "nodes" not in spec
    assert spec["cpuProcesses"] == 2
    assert notes == ["this machine is one node: nodes 4 -> 1; the total batch stays the same"]


def test_an_accelerate_config_for_other_processes_is_left_out():
    custom = {"distributed_type": "FSDP", "num_processes": 4}
    given = {"distributedType": "custom-accelerate-config", "customAccelerateConfig": custom}
    spec, notes = fitted({**SPEC, "finetuningGpus": 4, **given}, 2)
    assert not {"distributedType", "customAccelerateConfig"} & spec.keys()
    assert "customAccelerateConfig is for other processes" in notes[-1]
    assert fitted({**SPEC, "finetuningGpus": 4, **given}, 4)[1] == []
