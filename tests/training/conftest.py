"""A model and dialogues small enough to train in a second, and ways to run a job: in this process, or as the pod does.

Importing torch and transformers costs more than all the training here, so most tests run a job's stages in process;
only what is about processes (signals, exit codes, data parallelism) goes through the launcher.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from finetune_api import constants
from finetune_api.job_config import JobConfig
from finetune_api.report import TerminationReport
from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec

WORDS = str.split(
    "the cat dog sat on a mat ran to my house and saw one bird with red blue green hat who what is your name I am fine "
    "thank you tell me about weather today it rains in spring but not here"
)


def _dialogues(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        question = " ".join(draw.choices(WORDS, k=draw.randint(2, 8)))
        answer = " ".join(draw.choices(WORDS, k=draw.randint(2, 12)))
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return rows


@pytest.fixture(scope="session")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 rows of training data: with 32 left after the split's quarter, no multiple of most batches."""
    path = tmp_path_factory.mktemp("data") / "dialogues.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _dialogues(42, seed=7)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 rows of validation data."""
    path = tmp_path_factory.mktemp("data") / "validation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in _dialogues(10, seed=8)), encoding="utf-8")
    return path


MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """make_model(**config) -> the folder of a small model with a byte-level BPE tokenizer, made once."""
    made: dict[str, Path] = {}

    def make(dtype: str = "float32", architecture: str = "llama", **config: Any) -> Path:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

        key = json.dumps([dtype, architecture, config], sort_keys=True)
        if key in made:
            return made[key]
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=340,
            special_tokens=["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token=None
        )
        torch.manual_seed(0)
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": False,
        }
        if architecture == "gpt2":
            sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(
                architecture,
                **{"vocab_size": len(fast), **sizes, **config},
                bos_token_id=fast.bos_token_id,
                eos_token_id=fast.eos_token_id,
                pad_token_id=fast.pad_token_id,
            )
        )
        folder = tmp_path_factory.mktemp("model")
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        fast.save_pretrained(folder)
        made[key] = folder
        return folder

    return make


@pytest.fixture(scope="session")
def base_model(make_model: MakeModel) -> Path:
    """The small model with random weights."""
    return make_model()


LORA = {"peft_type": "LORA", "peft_kwargs": {"r": 4, "lora_alpha": 16, "target_modules": "all-linear"}}
MakeConfig = Callable[..., JobConfig]


@pytest.fixture
def make_config(base_model: Path, dialogues: Path) -> MakeConfig:
    """make_config(training_args={…}, total=8, …) -> a resolved job of 2 epochs over all 42 rows on CPU."""

    def make(
        *,
        training_args: dict[str, Any] | None = None,
        total: int = 8,
        per_device: int = 8,
        eval_batch: int | None = None,
        lora: dict[str, Any] | bool = False,
        data: Path | None = None,
        validation: Any = None,
        model: Path | None = None,
        uid: str = "job-1",
        spec: dict[str, Any] | None = None,
    ) -> JobConfig:
        arguments = {"num_train_epochs": 2, "learning_rate": 5e-3, "logging_steps": 1, "save_steps": 1000}
        batch: dict[str, Any] = {"total_train_batch_size": total, "max_per_device_train_batch_size": per_device}
        if eval_batch:
            batch["per_device_eval_batch_size"] = eval_batch
        peft = (
            {**LORA, **({"peft_kwargs": lora} if isinstance(lora, dict) else {})} if lora else {"peft_type": "NO_PEFT"}
        )
        checked: Any = {"type": "NONE"}
        if isinstance(validation, Path):
            checked = {"type": "CONCATENATION", "datasets": [{"path": str(validation)}]}
        elif validation:
            checked = validation
        raw = {
            "basemodel": str(model or base_model),
            "finetuningGpus": 0,
            "data_conf": {
                "training_data": {"type": "CONCATENATION", "datasets": [{"path": str(data or dialogues)}]},
                "validation_data": checked,
                "chat_template_name": "chat-ml",
            },
            "training_args": {**arguments, **(training_args or {})},
            "batchsize_conf": batch,
            "peft_conf": peft,
            "run_conf": {},
            "sft_args": {"max_seq_length": 128},
            **(spec or {}),
        }
        resolved = resolve(FineTuneJobSpec.model_validate(raw))
        return JobConfig(name="small", uid=uid, spec=resolved.spec.to_dict(), notices=resolved.notices)

    return make


@dataclass
class Trained:
    """A finished run: what it reported and where it wrote."""

    work: Path
    report: TerminationReport
    notices: list[str]
    error: Exception | None = None

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    @property
    def final(self) -> Path:
        return self.checkpoints / "checkpoint-final"

    def history(self, step: int | None = None) -> list[dict[str, Any]]:
        """What was logged up to the checkpoint of a step; the last one by default."""
        from finetune_trainer.train.checkpoint_folder import list_checkpoints

        found = self.checkpoints / f"checkpoint-{step}" if step else list_checkpoints(self.checkpoints)[0]
        return list(json.loads((found / "trainer_state.json").read_text(encoding="utf-8"))["history"])

    @property
    def losses(self) -> dict[int, float]:
        """Training loss by step."""
        return {entry["step"]: entry["loss"] for entry in self.history() if "loss" in entry}

    @property
    def eval_losses(self) -> dict[int, float]:
        return {entry["step"]: entry["eval_loss"] for entry in self.history() if "eval_loss" in entry}


TrainHere = Callable[..., Trained]


@pytest.fixture
def train_here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> TrainHere:
    """train_here(config, work=None, stop_after=None) runs the job's stages in this process, as its only rank.

    stop_after: behaves as if SIGTERM came while that step ran. Raises what the stages raise, unless it is Interrupted.
    """

    def train(
        config: JobConfig, work: Path | None = None, stop_after: int | None = None, **environment: str
    ) -> Trained:
        import torch

        from finetune_trainer.errors import Interrupted
        from finetune_trainer.train.progress import Progress
        from finetune_trainer.train.run import Run
        from finetune_trainer.train.settings import read_settings, read_spec
        from finetune_trainer.train.stopping import Stop

        torch.set_num_threads(1)
        work = work or tmp_path_factory.mktemp("work")
        monkeypatch.setenv(constants.ENV_WORK_DIR, str(work))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        stop = Stop()

        class Watched(Progress):
            """Asks to stop in the middle of the step after the given one."""

            def beat(self) -> None:
                super().beat()
                if stop_after is not None and self.report().step == stop_after:
                    stop.requested = True

        progress = Watched(attempt=1)
        run = Run(read_settings(config, read_spec(config)), progress, stop)
        error: Exception | None = None
        try:
            run.train()
        except Interrupted as interrupted:
            error = interrupted
        finally:
            if run.uploader is not None:
                run.uploader.drain()
            if run.tracker is not None:
                progress.update(mlflow=run.tracker.close("FINISHED" if error is None else None))
            for name in environment:
                monkeypatch.delenv(name)
        report = progress.last_word("Completed", "", 0)
        return Trained(work, report, report.notices or [], error)

    return train


@dataclass
class Launched:
    """A launcher as the container starts it, and what it left."""

    process: "subprocess.Popen[str]"
    work: Path
    message: Path
    log: Path
    _report: TerminationReport | None = field(default=None)

    @property
    def checkpoints(self) -> Path:
        return self.work / "checkpoints"

    def wait(self, timeout: float = 300) -> int:
        """The exit code."""
        return self.process.wait(timeout)

    def wait_for(self, condition: Callable[[], bool], timeout: float = 300) -> None:
        """Waits until something is so; fails with the log if the process ends before."""
        limit = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            assert time.monotonic() < limit, self.log.read_text(encoding="utf-8")
            time.sleep(0.01)

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    @property
    def report(self) -> TerminationReport:
        report = TerminationReport.from_message(self.message.read_text(encoding="utf-8"))
        assert report is not None, self.message.read_text(encoding="utf-8")
        return report

    def rank_pids(self) -> list[int]:
        """The training processes, by number."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return sorted(int(pid) for pid in children.split())


Launch = Callable[..., Launched]


@pytest.fixture
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launch]:
    """launch(config, work=None, **environment) starts `python -m finetune_trainer.launch` and returns at once."""
    started: list[Launched] = []

    def start(config: JobConfig | str, work: Path | None = None, **environment: str) -> Launched:
        work = work or tmp_path_factory.mktemp("work")
        own = tmp_path_factory.mktemp("launch")
        text = config if isinstance(config, str) else config.to_json()
        (own / "job.json").write_text(text, encoding="utf-8")
        log = (own / "log").open("w", encoding="utf-8")
        variables = {
            constants.ENV_CONFIG: str(own / "job.json"),
            constants.ENV_WORK_DIR: str(work),
            constants.ENV_TERMINATION_LOG: str(own / "message"),
            "FINETUNE_PROGRESS_PORT": "0",
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer.launch"],
            env={**os.environ, **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log.close()
        launched = Launched(process, work, own / "message", own / "log")
        started.append(launched)
        return launched

    yield start
    for one in started:
        if one.process.poll() is None:
            for pid in one.rank_pids():
                os.kill(pid, 9)
            one.process.kill()
            one.process.wait()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a real S3 server."""
    os.environ.setdefault("MOTO_RECORDER_FILEPATH", str(tmp_path_factory.mktemp("moto") / "recording"))
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
