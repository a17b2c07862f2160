"""`finetune convert`: what becomes of every key of the other systems, on manifests that validate.

The documents' own examples are in convert/, as the documents print them.
"""

import json
from pathlib import Path

import pytest

from finetune_api.manifest import load_manifests
from finetune_api.parameters import parameters_of
from finetune_api.validation import validate_manifest
from finetune_cli.converting.arguments import BATCH_KEYS, LEFT_OUT
from finetune_cli.converting.helm import CHART_ONLY
from finetune_cli.main import main

DOCUMENTS = Path(__file__).parent / "convert"
ROOT = Path(__file__).resolve().parents[3]


class Converted:
    """What the command printed."""

    def __init__(self, code, captured):
        self.code, self.output = code, captured.out
        lines = captured.err.splitlines()
        self.notes = [line.removeprefix("note: ") for line in lines if line.startswith("note: ")]
        self.errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]

    @property
    def manifest(self):
        assert self.code == 0, self.errors
        (manifest,) = load_manifests(self.output)
        assert [problem for problem in validate_manifest(manifest) if problem.severity == "error"] == []
        return manifest.document

    @property
    def spec(self):
        return self.manifest["spec"]

    def conversion_of(self, path):
        """Whether the manifest has a key at a path of spec."""
        here = self.spec
        for step in path.split("."):
            here = here[0] if isinstance(here, list) else here
            key = step.removesuffix("[]")
            if key not in here:
                return False
            here = here[key]
        return True

    def said(self, *parts):
        """The one note that has all of these parts."""
        (note,) = [note for note in self.notes if all(part in note for part in parts)]
        return note


@pytest.fixture
def convert(tmp_path, capsys, monkeypatch):
    """`convert(source, *flags, name=…)`: source is a path, a text, or data that is written as JSON."""
    monkeypatch.chdir(tmp_path)

    def run(source, *flags, name="source.json"):
        path = source
        if not isinstance(source, Path):
            path = tmp_path / name
            path.write_text(source if isinstance(source, str) else json.dumps(source))
        capsys.readouterr()
        code = main(["convert", str(path), *map(str, flags)])
        return Converted(code, capsys.readouterr())

    return run


@pytest.fixture
def lamini(convert):
    """`lamini(finetune_args, gpus=…)`: converted with a model and data."""

    def run(finetune_args, *flags, **tune):
        given = {"model_name": "org/model", "data_or_dataset_id": "faqs", "finetune_args": finetune_args, **tune}
        return convert(given, "--name", "x", *flags)

    return run


@pytest.fixture
def llmforge(convert):
    """`llmforge(**keys)`: a YAML of these keys beside a model and data."""

    def run(*flags, **keys):
        given = {"model_id": "org/model", "train_path": "s3://b/train.jsonl", **keys}
        return convert(given, "--from", "llmforge", *flags)

    return run


@pytest.fixture
def arguments(convert):
    """`arguments(**keys)`: TrainingArguments alone."""

    def run(*flags, **keys):
        return convert(keys, "--basemodel", "gpt2", "--data", "s3://b/x.jsonl", *flags)

    return run


# --- Lamini


def test_lamini_s_defaults_are_written_out(lamini):
    assert lamini({}).spec == {
        "basemodel": "hf://org/model",
        "finetuningGpus": 1,
        "nodes": 1,
        "method": "sft",
        "data_conf": {
            "input_key": "input",
            "output_key": "output",
            "chat_template_name": "none",
            "validation_data": {"type": "NONE"},
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "dataset://faqs"}]},
        },
        "sft_args": {"max_seq_length": 2048, "overlength": "pack", "train_on_completions_only": False},
        "batchsize_conf": {"max_per_device_train_batch_size": 1, "total_train_batch_size": 2},
        "training_args": {"max_steps": 100, "learning_rate": 9e-4, "save_steps": 60, "optim": "adafactor"},
        "peft_conf": {
            "peft_type": "LORA",
            "peft_kwargs": {"r": 64, "lora_alpha": 64, "target_modules": "all-linear"},
        },
        "run_conf": {},
    }


def test_a_call_of_lamini_s_client_with_every_argument(convert, tmp_path):
    converted = convert(DOCUMENTS / "document-000" / "tune.py")
    assert converted.spec["basemodel"] == "hf://meta-llama/Meta-Llama-3.1-8B-Instruct"
    assert converted.spec["data_conf"]["training_data"]["datasets"] == [{"path": str(tmp_path / "faqs.jsonl")}]
    assert converted.spec["data_conf"]["max_examples"] == 30
    assert "a path of this machine" in converted.said("data_or_dataset_id")
    assert converted.manifest["metadata"]["name"] == "tune"


@pytest.mark.parametrize(
    ("example", "gpus", "total"), [("gpu-config-1", 4, 8), ("gpu-config-2", 8, 16), ("gpu-config-5", 8, 16)]
)
def test_gpus_of_one_node(convert, example, gpus, total):
    """The last one asks for 9: "total 8 GPUs, assuming max GPUs per node is 8", the operator's default too."""
    spec = convert(DOCUMENTS / f"document-000/{example}.py", "--basemodel", "org/model", "--data", "s3://b/x.csv").spec
    assert (spec["finetuningGpus"], spec["batchsize_conf"]["total_train_batch_size"]) == (gpus, total)


def test_the_cap_is_the_operator_s_setting(convert, monkeypatch):
    monkeypatch.setenv("FINETUNE_MAX_GPUS_PER_NODE", "16")
    flags = ("--basemodel", "org/model", "--data", "s3://b/x.csv")
    spec = convert(DOCUMENTS / "document-000/gpu-config-5.py", *flags).spec
    assert (spec["finetuningGpus"], spec["batchsize_conf"]["total_train_batch_size"]) == (9, 18)
    monkeypatch.setenv("FINETUNE_MAX_GPUS_PER_NODE", "4")
    converted = convert(DOCUMENTS / "document-000/gpu-config-5.py", *flags)
    assert "gpu_config.gpus: 9 -> finetuningGpus: 4 (a node has 4" in converted.said("gpu_config.gpus")


@pytest.mark.parametrize(("example", "gpus"), [("gpu-config-3", 8), ("gpu-config-4", 4)])
def test_many_nodes(convert, example, gpus):
    """gpus is Lamini's number for each node; the total batch is spread over all."""
    spec = convert(DOCUMENTS / f"document-000/{example}.py", "--basemodel", "org/model", "--data", "s3://b/x.csv").spec
    assert (spec["nodes"], spec["finetuningGpus"]) == (2, gpus)


@pytest.mark.parametrize(
    ("given", "steps", "epochs"),
    [
        ({}, 100, None),
        ({"max_steps": 50}, 50, None),
        ({"max_steps": 50, "num_train_epochs": 3}, 50, None),
        ({"num_train_epochs": 2.5}, None, 2.5),  # what was given beats what is a default
        ({"max_steps": -1}, None, 10),
        ({"max_steps": 0, "num_train_epochs": 3}, None, 3),
    ],
)
def test_max_steps_beats_epochs(lamini, given, steps, epochs):
    arguments = lamini(given).spec["training_args"]
    assert (arguments.get("max_steps"), arguments.get("num_train_epochs")) == (steps, epochs)


@pytest.mark.parametrize(
    ("gpus", "accumulation", "per_device", "total"), [(1, None, None, 2), (4, 3, None, 12), (2, 1, 4, 8)]
)
def test_the_total_batch_is_gpus_times_batch_times_accumulation(lamini, gpus, accumulation, per_device, total):
    given = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": per_device}
    spec = lamini(given, gpu_config={"gpus": gpus, "nodes": 1}).spec
    assert spec["batchsize_conf"] == {
        "max_per_device_train_batch_size": per_device or 1,
        "total_train_batch_size": total,
    }


@pytest.mark.parametrize(
    ("optim", "becomes", "note"),
    [
        ("adafactor", "adafactor", ""),
        ("adamw_torch", "adamw_torch", ""),
        ("adamw_torch_fused", "adamw_torch_fused", ""),
        ("adamw_hf", "adamw_torch_fused", "no longer exists in transformers"),
        ("adamw_apex_fused", "adamw_torch_fused", "no longer exists in transformers"),
        ("adamw_anyprecision", "adamw_torch", "it needs torchdistx"),
    ],
)
def test_lamini_s_optimizers(lamini, optim, becomes, note):
    converted = lamini({"optim": optim})
    assert converted.spec["training_args"]["optim"] == becomes
    assert note in converted.said("finetune_args.optim:")


def test_an_optimizer_that_cannot_be_mapped_exactly_is_refused(lamini):
    converted = lamini({"optim": "adamw_anyprecision", "optim_args": "use_kahan_summation=True"})
    (error,) = converted.errors
    assert 'finetune_args.optim_args: "use_kahan_summation=True"' in error
    assert "torchdistx" in error


def test_the_other_keys_of_finetune_args(lamini):
    given = {"max_finetuning_examples": 7, "max_length": 512, "r_value": 32, "learning_rate": 3e-4, "save_steps": 10}
    spec = lamini({**given, "weight_decay": 0.1, "warmup_ratio": 0.1}).spec
    assert spec["data_conf"]["max_examples"] == 7
    assert spec["sft_args"]["max_seq_length"] == 512
    assert spec["peft_conf"]["peft_kwargs"] | {"r": 32, "lora_alpha": 32} == spec["peft_conf"]["peft_kwargs"]
    assert spec["training_args"] == {
        **{"max_steps": 100, "learning_rate": 3e-4, "save_steps": 10, "optim": "adafactor"},
        **{"weight_decay": 0.1, "warmup_steps": 0.1},
    }


def test_the_form_without_experts_is_plain_lora(lamini):
    off = {"index_method": "IndexFlatL2", "index_max_size": 1, "index_ivf_nlist": 1, "index_k": 1}
    converted = lamini(off)
    assert "memory_args" not in converted.spec
    assert "leaves LoRA" in converted.said("finetune_args.index_k: 1 is left out")
    assert not [note for note in converted.notes if "Memory Tuning (a mixture" in note]


def test_memory_tuning_is_an_error_for_every_key_of_it(lamini):
    converted = lamini({"index_k": 5, "index_method": "IndexPQ", "index_pq_m": 8, "r_value": 0})
    assert (converted.code, converted.output) == (1, "")
    assert converted.errors == [
        "finetune_args.r_value: 0: give a whole number of at least 1",
        'finetune_args.index_method: "IndexPQ": Memory Tuning is not in this version yet; remove it to train LoRA',
        "finetune_args.index_k: 5: Memory Tuning is not in this version yet; remove it to train LoRA",
    ]


def test_without_index_keys_a_note_says_that_lamini_would_tune_a_memory(lamini):
    assert "this job trains one LoRA adapter" in lamini({}).said("Memory Tuning")


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ("s3://bucket/rows.csv", "s3://bucket/rows.csv"),
        ("/data/rows.jsonl", "/data/rows.jsonl"),
        ("a498ecf98f2d4f5c", "dataset://a498ecf98f2d4f5c"),
    ],
)
def test_files_and_dataset_ids(lamini, data, path):
    assert lamini({}, data_or_dataset_id=data).spec["data_conf"]["training_data"]["datasets"] == [{"path": path}]


def test_other_keys_of_pairs(lamini):
    data = lamini({}, input_key="question", output_key="answer").spec["data_conf"]
    assert (data["input_key"], data["output_key"], data["chat_template_name"]) == ("question", "answer", "none")


def test_rows_in_the_call_belong_into_a_file(lamini):
    (error,) = lamini({}, "--set", "max_steps=1", data_or_dataset_id=[{"input": "a", "output": "b"}]).errors[:1]
    assert "write the rows to a JSONL file" in error


def test_a_dataset_id_that_no_config_map_can_have(lamini):
    assert "name it with a-z, 0-9 and '-'" in lamini({}, data_or_dataset_id="My_Data").errors[0]


# --- reading Python


def test_python_is_read_and_never_run(convert, tmp_path):
    text = f"""
from lamini import Lamini
open({str(tmp_path / "ran")!r}, "w")
raise SystemExit(3)
RANK = 16
BASE = dict(learning_rate=1e-3, r_value=RANK)
llm = Lamini("org/model")
llm.train(data_or_dataset_id="/data/x.jsonl", finetune_args={{**BASE, "max_steps": 20}}, gpu_config=dict(gpus=2))
"""
    spec = convert(text, name="job.py").spec
    assert not (tmp_path / "ran").exists()
    assert spec["training_args"]["max_steps"] == 20
    assert spec["peft_conf"]["peft_kwargs"]["r"] == 16
    assert spec["finetuningGpus"] == 2


def test_names_of_names_do_not_grow_without_end(convert):
    doubled = "\n".join(f"n{i + 1} = [n{i}, n{i}]" for i in range(40))
    text = f"n0 = [1, 2, 3, 4]\n{doubled}\nllm.tune(data_or_dataset_id='/a.csv', finetune_args={{'max_steps': n40}})"
    (error,) = convert(text, "--basemodel", "org/model", name="job.py").errors
    assert error == "finetune_args.max_steps: n40: the program computes it; write its value"


def test_what_the_program_computes_is_an_error_with_its_text(convert):
    text = 'llm.tune(data_or_dataset_id=load(), finetune_args={"max_steps": 10}, gpu_config=choose(2))'
    errors = convert(text, "--basemodel", "org/model", name="job.py").errors
    assert "gpu_config: choose(2): the program computes it; write its value" in errors
    assert any(error.startswith("data_or_dataset_id: load()") for error in errors)


def test_a_source_that_is_no_python(convert):
    converted = convert("def (", name="job.py")
    assert converted.code == 1
    assert "job.py:1: this is no Python" in converted.errors[0]


# --- LLMForge


def test_llmforge_s_own_examples(convert):
    fragments = sorted((DOCUMENTS / "document-001").glob("*.yaml"))
    assert len(fragments) == 6
    flags = ("--basemodel", "org/model", "--data", "s3://b/x.jsonl", "--validation", "s3://b/v.jsonl")
    specs = {path.stem: convert(path, *flags).spec for path in fragments}
    assert specs["gpu-resources"]["finetuningGpus"] == 16
    assert specs["gpu-resources"]["acceleratorType"] == "A10G"
    learning = {"learning_rate": 1e-4, "lr_scheduler_type": "cosine", "warmup_steps": 10}
    assert specs["learning-rate"]["training_args"] == learning
    assert specs["batch-size"]["batchsize_conf"] == {
        "max_per_device_train_batch_size": 16,
        "total_train_batch_size": 128,
        "per_device_eval_batch_size": 16,
    }
    assert specs["number-of-epochs"]["training_args"]["num_train_epochs"] == 10
    assert "overrides" not in specs["number-of-epochs"]
    events = specs["validation-and-checkpointing"]["evaluation_conf"]
    assert events == {"every_n_epochs": 5, "max_events": 10, "keep_best": 1}
    kwargs = specs["lora-configs"]["peft_conf"]["peft_kwargs"]
    assert (kwargs["r"], kwargs["lora_alpha"], kwargs["lora_dropout"], len(kwargs["target_modules"])) == (
        8,
        16,
        0.05,
        9,
    )
    assert specs["lora-configs"]["peft_conf"]["task_type"] == "CAUSAL_LM"


def test_a_whole_llmforge_file(llmforge):
    keys = {"valid_path": "s3://b/valid.jsonl", "context_length": 512, "num_devices": 4, "num_epochs": 3}
    batch = {"train_batch_size_per_device": 4, "eval_batch_size_per_device": 8, "padding": "max_length"}
    converted = llmforge(**keys, **batch, gradient_checkpointing=True, output_dir="/mnt/local_storage")
    assert converted.spec == {
        "basemodel": "hf://org/model",
        "finetuningGpus": 4,
        "method": "sft",
        "data_conf": {
            "validation_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://b/valid.jsonl"}]},
            "training_data": {"type": "CONCATENATION", "datasets": [{"path": "s3://b/train.jsonl"}]},
            "chat_template_name": "keep-original",
        },
        "sft_args": {
            "train_on_completions_only": False,
            "max_seq_length": 512,
            "overlength": "truncate",
            "padding": "max_length",
        },
        "batchsize_conf": {
            "max_per_device_train_batch_size": 4,
            "total_train_batch_size": 16,
            "per_device_eval_batch_size": 8,
        },
        "training_args": {
            "learning_rate": 1e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 10,
            "num_train_epochs": 3,
            "gradient_checkpointing": True,
        },
        "evaluation_conf": {"every_n_epochs": 1, "keep_best": 1},
        "peft_conf": {"peft_type": "NO_PEFT"},
        "run_conf": {},
    }
    assert "left out: checkpoints go to the job's own volume" in converted.said("output_dir")


@pytest.mark.parametrize(
    ("given", "epochs", "least"),
    [
        ({}, None, 100),
        ({"min_update_steps": 30}, None, 30),
        ({"min_num_update_steps": 40}, None, 40),
        ({"min_update_steps": 40, "min_num_update_steps": 40}, None, 40),
        ({"num_epochs": 2, "min_update_steps": 30}, 2, None),
    ],
)
def test_epochs_or_the_least_number_of_update_steps(llmforge, given, epochs, least):
    spec = llmforge(**given).spec
    assert spec["training_args"].get("num_train_epochs") == epochs
    assert spec.get("overrides", {}).get("min_update_steps") == least


@pytest.mark.parametrize(
    ("given", "evaluation", "arguments"),
    [
        ({"valid_path": "s3://b/v"}, {"every_n_epochs": 1, "keep_best": 1}, {}),
        (
            {"valid_path": "s3://b/v", "max_num_checkpoints": 4, "num_checkpoints_to_keep": 2},
            {"max_events": 4, "keep_best": 2},
            {},
        ),
        ({}, None, {"save_strategy": "epoch"}),
        ({"checkpoint_every_n_epochs": 1, "num_checkpoints_to_keep": 3}, None, {"save_total_limit": 3}),
        ({"max_num_checkpoints": 4}, None, {"save_steps": 0.25}),
        ({"max_num_checkpoints": 1}, None, {"save_strategy": "epoch"}),  # 1/1 would be every step
        ({"checkpoint_every_n_epochs": 2, "num_epochs": 8}, None, {"save_steps": 0.25}),
    ],
)
def test_validation_and_checkpoints_are_one_event_where_there_is_validation_data(
    llmforge, given, evaluation, arguments
):
    spec = llmforge(**given).spec
    assert spec.get("evaluation_conf") == evaluation
    assert arguments.items() <= spec["training_args"].items()


@pytest.mark.parametrize(
    ("task", "method", "section"),
    [
        (None, "sft", {"sft_args": {"train_on_completions_only": False}}),
        ("causal_lm", "sft", {"sft_args": {"train_on_completions_only": False}}),
        ("instruction_tuning", "sft", {"sft_args": {"train_on_completions_only": True}}),
        ("preference_tuning", "dpo", {"dpo_args": {}}),
    ],
)
def test_tasks(llmforge, task, method, section):
    spec = llmforge(task=task, context_length=256).spec
    ((name, arguments),) = section.items()
    assert spec["method"] == method
    assert spec[name] == {**arguments, "max_seq_length": 256, "overlength": "truncate"}


@pytest.mark.parametrize("stage", ["1", "3"])
def test_deepspeed_is_told_by_its_stage(llmforge, stage):
    given = {"config_path": f"configs/zero_{stage}.json"}
    assert llmforge(deepspeed=given).spec["distributedType"] == f"auto-deepspeed-stage{stage}"


def test_preference_tuning_is_told_by_its_section(llmforge):
    spec = llmforge(
        preference_tuning_config={"beta": 0.01, "logprob_processor_scaling_config": {"concurrency": 4}}
    ).spec
    assert (spec["method"], spec["dpo_args"]["beta"]) == ("dpo", 0.01)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"task": "classification"}, 'task: "classification": only causal_lm, instruction_tuning, preference_tuning'),
        ({"deepspeed": {"config_path": "zero_2.json"}}, "only ZeRO stages 1 and 3 have a distributedType"),
        ({"liger_kernel": {"enabled": True}}, "training_args.use_liger_kernel is not supported"),
        ({"logger": {"provider": "wandb"}}, 'logger.provider: "wandb": metrics go to MLflow'),
        ({"generation_config": {"prompt_format": {}}}, "generation_config"),
        ({"num_device": 4}, "num_device: 4: LLMForge has no such key; did you mean num_devices?"),
        ({"num_devices": 0}, "num_devices: 0: give a whole number of at least 1"),
        ({"lora_config": {"rank": 4}}, "lora_config.rank: 4 -> spec.peft_conf.peft_kwargs.rank"),
        ({"worker_resources": {"CPU": 4}}, "worker_resources.CPU: 4: give accelerator_type:KIND"),
        ({"checkpoint_every_n_epochs": 5, "max_num_checkpoints": 2}, "there is no validation data; give valid_path"),
        ({"checkpoint_and_evaluation_frequency": {"strategy": "steps", "value": 9}}, "give epochs, or remove it"),
        ({"max_num_checkpoints": 0}, "max_num_checkpoints: 0: give a whole number of at least 1"),
        ({"num_checkpoints_to_keep": "all"}, 'num_checkpoints_to_keep: "all": give a whole number'),
        ({"embedding_scaling_technique": "linear"}, "the context of a model is not extended"),
        ({"min_update_steps": 1, "min_num_update_steps": 2}, "min_update_steps (1) means the same; keep one"),
    ],
)
def test_what_llmforge_has_and_this_version_has_not(llmforge, given, error):
    converted = llmforge(**given)
    assert (converted.code, converted.output) == (1, "")
    assert error in converted.errors[0]


def test_every_problem_is_told_at_once(llmforge):
    given = {"task": "vision_language", "num_devices": "four", "logger": {"provider": "wandb"}, "liger_kernel": True}
    keys = [error.split(":")[0] for error in llmforge(**given).errors]
    assert keys == ["task", "num_devices", "logger.provider", "liger_kernel"]


def test_mlflow_and_earlier_checkpoints(llmforge):
    logger = {"provider": "mlflow", "provider_config": {"tracking_uri": "http://m:5000", "experiment_name": "e"}}
    spec = llmforge(
        logger=logger,
        initial_base_model_ckpt_path="s3://b/base",
        initial_adapter_model_ckpt_path="s3://b/adapter",
        lora_config={"r": 8},
        flash_attention_2=True,
    ).spec
    assert spec["tracking"] == {"mlflow_server_uri": "http://m:5000", "experiment_name": "e"}
    assert spec["basemodel"] == "s3://b/base"
    assert spec["peft_conf"] == {"peft_type": "PRETRAINED_PEFT", "name_or_path": "s3://b/adapter"}
    assert spec["run_conf"]["model_args"]["attn_implementation"] == "flash_attention_2"


# --- Hugging Face


def test_the_script_of_document_004(convert):
    converted = convert(DOCUMENTS / "document-004" / "script.py")
    wikitext = {"path": "hf://datasets/Salesforce/wikitext", "config": "wikitext-2-raw-v1"}
    assert converted.spec == {
        "basemodel": "hf://gpt2",
        "finetuningGpus": 1,
        "method": "clm",
        "data_conf": {
            "training_data": {"type": "CONCATENATION", "datasets": [{**wikitext, "split": "train"}]},
            "validation_data": {"type": "CONCATENATION", "datasets": [{**wikitext, "split": "validation"}]},
        },
        "clm_args": {"text_key": "text", "block_size": 128, "overlength": "truncate", "padding": "max_length"},
        "batchsize_conf": {
            "max_per_device_train_batch_size": 8,
            "total_train_batch_size": 8,
            "per_device_eval_batch_size": 8,
        },
        "training_args": {
            "eval_strategy": "epoch",
            "learning_rate": 5e-5,
            "num_train_epochs": 3,
            "weight_decay": 0.01,
            "warmup_steps": 500,
            "logging_steps": 10,
            "save_strategy": "epoch",
            "fp16": True,
        },
        "peft_conf": {"peft_type": "NO_PEFT"},
        "run_conf": {},
    }
    assert "its name in today's transformers" in converted.said("TrainingArguments.evaluation_strategy")
    assert "left out" in converted.said("TrainingArguments.output_dir")
    assert "metrics go to MLflow" in converted.said("TrainingArguments.logging_dir")


SCRIPT = """
model = AutoModelForCausalLM.from_pretrained("org/model", torch_dtype=torch.bfloat16)
tokenizer = AutoTokenizer.from_pretrained("org/tokenizer")
tokenizer.padding_side = "left"
tokenizer.pad_token = tokenizer.unk_token
dataset = load_dataset({load})
dataset = dataset["train"].train_test_split(test_size=0.1, seed=7)
model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type=TaskType.CAUSAL_LM))
args = TrainingArguments("out", per_device_train_batch_size=2, gradient_accumulation_steps=4, **{more})
Trainer(model=model, args=args, train_dataset=dataset["train"], eval_dataset=dataset["test"])
"""


def test_a_script_with_an_adapter_files_and_a_split(convert):
    text = SCRIPT.format(load='"csv", data_files="/data/x.csv"', more='{"warmup_ratio": 0.1, "no_cuda": True}')
    spec = convert(text, name="train.py").spec
    assert spec["data_conf"] == {
        "training_data": {"type": "CONCATENATION", "datasets": [{"path": "/data/x.csv", "format": "csv"}]},
        "validation_data": {"type": "AUTO_SPLIT", "ratio": 0.1, "seed": 7},
        "padding_side": "left",
        "missing_pad_token_strategy": "unk-repurpose",
    }
    assert spec["run_conf"] == {"model_args": {"torch_dtype": "bfloat16"}, "tokenizer": "hf://org/tokenizer"}
    assert spec["peft_conf"] == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "peft_kwargs": {"r": 4, "target_modules": ["q_proj"]},
    }
    assert spec["batchsize_conf"]["total_train_batch_size"] == 8
    assert (spec["finetuningGpus"], spec["training_args"]["warmup_steps"]) == (0, 0.1)


@pytest.mark.parametrize(
    ("load", "more", "error"),
    [
        ('"unknown_corpus"', "{}", 'load_dataset: "unknown_corpus": name the dataset with its organisation'),
        ('"org/data", streaming=True', "{}", "load_dataset.streaming: true"),
        ('"org/data"', '{"deepspeed": "ds.json"}', "TrainingArguments.deepspeed"),
        ('"org/data"', '{"report_to": "wandb"}', "TrainingArguments.report_to"),
        ('"org/data"', '{"learning_rat": 1}', "did you mean learning_rate?"),
        ('"org/data"', '{"learning_rate": choose()}', "TrainingArguments.learning_rate: choose()"),
        ('"org/data"', '{"torch_compile": True}', "TrainingArguments.torch_compile: true"),
    ],
)
def test_what_a_script_has_and_a_manifest_cannot_say(convert, load, more, error):
    converted = convert(SCRIPT.format(load=load, more=more), name="train.py")
    assert (converted.code, converted.output) == (1, "")
    assert error in "\n".join(converted.errors)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"learning_rate": 2e-5, "max_steps": 10, "num_train_epochs": 3}', "a.json"),
        ("learning_rate: 2e-5\nmax_steps: 10\nnum_train_epochs: 3\n", "a.yaml"),
        ("arguments = {'learning_rate': 2e-5, 'max_steps': 10, 'num_train_epochs': 3}", "a.py"),
        ("dict_of = dict(learning_rate=2e-5, max_steps=10, num_train_epochs=3)", "a.py"),
    ],
)
def test_training_arguments_alone_in_three_languages(convert, text, name):
    converted = convert(text, "--basemodel", "gpt2", "--data", "s3://b/a.txt", name=name)
    assert converted.spec["training_args"] == {"learning_rate": 2e-5, "max_steps": 10}
    assert converted.spec["batchsize_conf"] == {"max_per_device_train_batch_size": 8, "total_train_batch_size": 8}
    assert "max_steps (10) decides" in converted.said("num_train_epochs")


@pytest.mark.parametrize(
    ("given", "dtype"),
    [({}, "float32"), ({"bf16": False, "fp16": False}, "float32"), ({"bf16": True}, None), ({"fp16": True}, None)],
)
def test_without_half_precision_transformers_trains_in_fp32(arguments, given, dtype):
    assert arguments(**given, max_steps=3).spec["run_conf"].get("model_args", {}).get("torch_dtype") == dtype


def test_set_changes_the_spec_before_it_is_checked(arguments):
    flags = ("--set", "method=sft", "--set", "clm_args=null", "--set", "sft_args={}", "--set", "finetuningGpus=0")
    spec = arguments(*flags, max_steps=5).spec
    assert (spec["method"], spec["sft_args"], spec["finetuningGpus"]) == ("sft", {}, 0)


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ({"evaluation_strategy": "no"}, {"eval_strategy": "no"}),
        ({"save_strategy": False}, {"save_strategy": "no"}),
        ({"group_by_length": True}, {"train_sampling_strategy": "group_by_length"}),
        ({"warmup_ratio": 0.03, "warmup_steps": 0}, {"warmup_steps": 0.03}),
        ({"warmup_ratio": 0.03, "warmup_steps": 20}, {"warmup_steps": 20}),
        ({"save_safetensors": True, "overwrite_output_dir": True, "report_to": "none"}, {}),
    ],
)
def test_old_names_of_arguments(arguments, given, becomes):
    converted = arguments(**given, max_steps=3)
    assert converted.spec["training_args"] == {**becomes, "max_steps": 3}
    for key in given:
        assert [note for note in converted.notes if f"TrainingArguments.{key}:" in note], key


# --- the engine's chart, without Helm (test_convert_helm.py compares with it)


def test_arguments_of_dpo_leave_training_args(convert):
    values = {
        "basemodel": "bucket/model",
        "trainingData": "bucket/pairs.jsonl",
        "finetuning_config": {
            "method": "dpo",
            "data_conf": {"validation_data": {"type": "NONE"}},
            "training_args": {"learning_rate": 5e-7, "beta": 0.2, "loss_type": "ipo", "max_length": 512},
            "batchsize_conf": {"total_train_batch_size": 4, "max_per_device_train_batch_size": 2},
            "peft_conf": {"peft_type": "NO_PEFT"},
            "run_conf": {},
        },
    }
    converted = convert(values, name="values.json")
    assert converted.spec["dpo_args"] == {"beta": 0.2, "loss_type": "ipo", "max_seq_length": 512}
    assert converted.spec["training_args"] == {"learning_rate": 5e-7}
    assert converted.said("training_args.max_length: 512 -> dpo_args.max_seq_length")
    values["finetuning_config"]["training_args"]["pad_token"] = "<pad>"
    assert "missing_pad_token_strategy" in convert(values).errors[0]


# --- all sources


def sample(row):
    """A value of a parameter to convert."""
    return {"max_finetuning_examples": 5, "min_num_update_steps": 50}.get(row.key, row.default)


@pytest.mark.parametrize("row", list(parameters_of("000")), ids=lambda row: row.name)
def test_no_argument_of_lamini_is_lost(lamini, row):
    if row.section == "finetune_args":
        converted = lamini({row.key: sample(row)})
    elif row.section == "gpu_config":
        converted = lamini({}, gpu_config={row.key: sample(row)})
    else:
        converted = lamini({})
    assert [line for line in converted.notes if row.key in line]
    assert converted.spec


OTHERS_OF_LLMFORGE = {
    "model_id": "org/model",
    "train_path": "s3://b/t.jsonl",
    "valid_path": "s3://b/v.jsonl",
    "initial_base_model_ckpt_path": "s3://b/base",
    "initial_adapter_model_ckpt_path": "s3://b/adapter",
    "weight_decay": 0.1,
    "gradient_checkpointing": True,
    "liger_kernel": {"enabled": False},
    "preference_tuning_config": {"beta": 0.1},
    "logger": {"provider": "mlflow", "tracking_uri": "http://m:5000"},
    "checkpoint_and_evaluation_frequency": {"strategy": "epochs", "value": 2},
    "embedding_scaling_technique": "none",
    "output_dir": "/mnt",
    "artifact_storage": "s3://b/artifacts",
    "dataset_size_scaling_factor": 10_000,
    "trainer_resources": {"memory": 1},
    "min_num_update_steps": 50,
}
REFUSED_OF_LLMFORGE = {
    "deepspeed": {"config_path": "zero_2.json"},
    "generation_config": {"prompt_format": {}},
    "classifier_config": {"label_tokens": ["a"]},
    "vision_language_config": {},
}


@pytest.mark.parametrize("row", list(parameters_of("001")), ids=lambda row: row.name)
def test_no_key_of_llmforge_is_lost(llmforge, row):
    if row.key in REFUSED_OF_LLMFORGE:
        converted = llmforge(**{row.key: REFUSED_OF_LLMFORGE[row.key]})
        assert [error for error in converted.errors if error.startswith(row.key)]
        return
    value = OTHERS_OF_LLMFORGE.get(row.key, row.default)
    nested = row.section in ("lora_config", "worker_resources")
    given = {"valid_path": "s3://b/v.jsonl", **({row.section: {row.key: value}} if nested else {row.key: value})}
    converted = llmforge(**given)
    assert [line for line in converted.notes if row.key in line]
    assert all(converted.conversion_of(path) for path in row.ours)


JUNK = (-1, 0, 1.5, "x", "", True, [], ["a", 1], {}, {"a": 1}, [[{}]])


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_values_of_a_wrong_kind_are_told_and_never_crash(lamini, llmforge, arguments, convert, junk):
    """Every key of every source, each alone with a value that may not fit it."""

    def told(key, converted):
        said = "\n".join((*converted.notes, *converted.errors))
        assert key in said, f"nothing was said of {key}: {junk!r}"
        assert bool(converted.errors) == (converted.code != 0)

    for row in parameters_of("000"):
        if row.section == "finetune_args":
            told(row.key, lamini({row.key: junk}))
        else:
            key = row.section if row.section == "gpu_config" else row.key
            told(row.key, lamini({}, **{key: {row.key: junk} if row.section == "gpu_config" else junk}))
    for row in parameters_of("001"):
        nested = row.section in ("lora_config", "worker_resources")
        told(row.key, llmforge(**({row.section: {row.key: junk}} if nested else {row.key: junk})))
    for key in ("lora_config", "worker_resources"):
        told(key, llmforge(**{key: junk}))
    for key in (*BATCH_KEYS.values(), *LEFT_OUT, "warmup_steps", "max_steps", "optim", "use_cpu", "save_strategy"):
        told(key, arguments(**{key: junk, "learning_rate": 1e-4}))
    for key in (*CHART_ONLY, "finetuningGpus", "data_conf", "batchsize_conf", "overrides", "imagePullSecrets"):
        assert convert({"method": "dpo", "training_args": junk, key: junk}, "--from", "helm").errors


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({"r_value": 8}, "Lamini"),
        ({"max_steps": 10, "max_length": 512}, "Lamini"),
        ({"gpu_config": {"gpus": 1}}, "Lamini"),
        ({"num_devices": 2, "learning_rate": 1e-4}, "LLMForge"),
        ({"learning_rate": 1e-4, "max_steps": 3}, "TrainingArguments"),
        ({"finetuning_config": {}}, "chart"),
        ({"finetuningGpus": 1, "training_args": {}}, "chart"),
    ],
)
def test_the_source_is_told_by_its_keys(convert, given, source):
    from finetune_cli.converting import detect

    name = detect.detect(given, "x")
    assert source in {"training-arguments": "TrainingArguments"}.get(name, detect.NAMES[name])


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("a: 1", "x.yaml", "no known source has such keys (a); give --from"),
        ("kind: FineTuneJob", "x.yaml", "is a FineTuneJob already"),
        ("- 1", "x.yaml", "one mapping is wanted"),
        ("a: [", "x.yaml", "x.yaml:1"),
        ("num_devices: 1\nnum_devices: 2", "x.yaml", "x.yaml:2: num_devices is given twice; keep one"),
        (f"x = {'(' * 5000}{')' * 5000}", "x.py", "x.py"),
        ("print(1)", "x.py", "there is no call of tune or TrainingArguments"),
    ],
)
def test_files_that_are_no_source(convert, text, name, message):
    converted = convert(text, name=name)
    assert converted.code in (1, 2)
    assert message in converted.errors[0]


def test_a_model_and_data_that_nobody_named(convert):
    errors = convert({"r_value": 8}).errors
    assert "basemodel: the source names no model; give --basemodel hf://org/name, or another place" in errors
    assert "data_conf.training_data: the source names no data; give --data LOCATION" in errors


@pytest.mark.parametrize("example", ["convert/lamini.py", "convert/llmforge.yaml", "convert/hugging_face.py"])
def test_the_examples_convert(convert, example):
    spec = convert(ROOT / "examples" / example).spec
    assert spec["basemodel"] == "s3://models/tiny-llama"
    assert spec["data_conf"]["training_data"]["datasets"][0]["path"].startswith("s3://datasets/")


def test_json_output_and_stdin(finetune):
    source = json.dumps({"r_value": 8})
    result = finetune("convert", "-", "--basemodel", "gpt2", "--data", "s3://b/x.csv", "-o", "json", input=source)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["metadata"]["name"] == "lamini"
    checked = finetune("validate", "-f", "-", input=result.stdout)
    assert checked.returncode == 0, checked.stdout
    assert "note: finetune_args.r_value: 8 -> peft_conf.peft_kwargs.r" in result.stderr
