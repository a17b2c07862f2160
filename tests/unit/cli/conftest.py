"""The command as a user runs it: a process of its own, with output that no terminal reads."""

import os
import select
import subprocess
import sys

import pytest

MANIFEST = """\
apiVersion: finetune-operator.io/v1alpha1
kind: FineTuneJob
metadata:
  name: example
  namespace: team-a
spec:
  basemodel: s3://models/base
  finetuningGpus: 0
  data_conf:
    training_data:
      type: CONCATENATION
      datasets:
        - path: s3://data/train.jsonl
    validation_data:
      type: NONE
  training_args:
    learning_rate: 2e-5
  batchsize_conf:
    total_train_batch_size: 4
    max_per_device_train_batch_size: 4
  peft_conf:
    peft_type: NO_PEFT
  run_conf: {}
  sft_args:
    max_seq_length: 64
"""


@pytest.fixture
def finetune(tmp_path):
    """`finetune(*args, input=None)`: run the command in `tmp_path`."""

    def run(*args, input=None, timeout=120):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FINETUNE_")}
        command = [sys.executable, "-m", "finetune_cli.main", *map(str, args)]
        return subprocess.run(
            command,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env=environment,
            check=False,
        )

    return run


@pytest.fixture
def manifest(tmp_path):
    """`manifest(old, new, …)`: a file with a good manifest, in which each `old` is replaced by its `new`."""

    def write(*changes, name="job.yaml"):
        text = MANIFEST
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        return name

    return write


@pytest.fixture
def ends():
    """`ends(pid)`: whether the process is gone, or goes within seconds."""

    def ends(pid):
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([handle], [], [], 10)[0])
        finally:
            os.close(handle)

    return ends
