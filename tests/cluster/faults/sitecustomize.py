"""Faults in a trainer's process, for tests with real pods: Python imports this at its start, see bin/python.

FAULT_ROWS_THAT_FIT=n      more rows in one batch run out of memory, as on a GPU.
FAULT_HANG_ONCE_AT=n       the n-th batch never ends, in the first pod of a job's volume.
FAULT_BATCH_SECONDS=x      every batch takes that much longer, so that a test can come in between.
"""

import importlib.abc
import importlib.util
import os
import sys
import time
from pathlib import Path

MODEL = "transformers.models.llama.modeling_llama"


class AfterTheModel(importlib.abc.MetaPathFinder):
    """Imports the model's module as ever, then puts the faults into its forward."""

    def find_spec(self, name, path, target=None):
        if name != MODEL:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            put_faults_into(module.LlamaForCausalLM)

        spec.loader.exec_module = exec_module
        return spec


def put_faults_into(model):
    fits = int(os.environ.get("FAULT_ROWS_THAT_FIT") or 0)
    hang_at = int(os.environ.get("FAULT_HANG_ONCE_AT") or 0)
    seconds = float(os.environ.get("FAULT_BATCH_SECONDS") or 0)
    hung = Path(os.environ.get("FINETUNE_WORK_DIR", ".")) / "hung"
    forward, batches = model.forward, 0

    def faulty(self, *args, **kwargs):
        nonlocal batches
        if self.training:
            batches += 1
            time.sleep(seconds)
            if batches == hang_at and not hung.exists():
                hung.touch()
                time.sleep(3600)
            if fits and kwargs["input_ids"].shape[0] > fits:
                import torch

                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return forward(self, *args, **kwargs)

    model.forward = faulty


if any(name.startswith("FAULT_") for name in os.environ):
    sys.meta_path.insert(0, AfterTheModel())
