"""Every manifest under examples/: valid, trained for a few steps by the stages that pods run, and its result loaded.

The manifests are found, not listed, so that a new one is tested too. What lies in a bucket, in a claim or on the hub
is given as local files, made once, and each job trains on the same few rows in every step, so that its loss must fall.
A job for GPUs runs on the CPU. Nothing else is changed.
"""

import copy
import importlib.util
import math
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.generator.crd import spec_schema
from finetune_api.job_config import JobConfig
from finetune_api.manifest import load_manifests
from finetune_api.peft_types import PEFT_TYPES
from finetune_api.resolve import resolve
from finetune_api.spec import FineTuneJobSpec
from finetune_api.support import REFUSALS
from finetune_api.training_args import SUPPORTED
from finetune_api.validation import validate_manifest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROWS = 4  # of training data: all of them in each step
STEPS = 4


def jobs() -> dict[str, dict[str, Any]]:
    """Path below examples/ -> manifest."""
    found = {}
    for path in sorted(EXAMPLES.rglob("*.yaml")):
        if path.name.startswith("values-"):
            continue  # values of the chart: tests/unit/data/test_examples.py compares them with the quickstart
        for manifest in load_manifests(path.read_text(encoding="utf-8"), path.name):
            if manifest.kind == "FineTuneJob":
                found[path.relative_to(EXAMPLES).as_posix()] = dict(manifest.document)
    return found


JOBS = jobs()
every_job = pytest.mark.parametrize("name", JOBS)


def script(name: str) -> ModuleType:
    """A script of the examples as a module."""
    found = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(EXAMPLES))
    try:
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of all examples, by the scripts that a user runs."""
    folder = tmp_path_factory.mktemp("examples") / "data"
    script("make_dialogues").write(folder)
    script("make_data").write(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples' base model with its tokenizer, but not pre-trained: that takes most of a minute."""
    make = script("make_base_model")
    tokenizer = make.train_tokenizer(make.sentences())
    folder = tmp_path_factory.mktemp("examples") / "tiny-llama"
    make.make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What examples/lora.yaml leaves in the bucket, for the example that goes on from it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    given = JOBS["lora.yaml"]["spec"]["peft_conf"]["peft_kwargs"]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(llama), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **given)
    )
    folder = tmp_path_factory.mktemp("examples") / "checkpoint-final"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def places(data: Path, llama: Path, adapter: Path, make_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """URI in a manifest -> what stands for it here."""
    hub = tmp_path_factory.mktemp("hub") / "wikitext"
    shutil.copytree(data / "corpus" / "science", hub / "wikitext-2-raw-v1")
    (hub / "README.md").write_text(script("make_data").dataset_card(["wikitext-2-raw-v1"]), encoding="utf-8")
    named = {
        "s3://models/tiny-llama": llama,
        "hf://Qwen/Qwen2.5-7B": llama,
        "hf://openai-community/gpt2": make_model(architecture="gpt2"),
        "hf://datasets/Salesforce/wikitext": hub,
        "s3://checkpoints/lora/checkpoint-final": adapter,
        "pvc://datasets/support/train.jsonl": data / "dialogues-train.jsonl",
        "pvc://datasets/support/validation.jsonl": data / "dialogues-validation.jsonl",
        "s3://datasets/general.jsonl": data / "smalltalk.jsonl",
        "configmap://chats/train.jsonl": data / "dialogues-train.jsonl",
        "dataset://trivia": data / "pairs.jsonl",
    }
    made = {f"s3://datasets/{path.relative_to(data).as_posix()}": path for path in data.rglob("*")}
    return {uri: str(path) for uri, path in (made | named).items()}


def shortened(spec: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """The spec with local places, a few rows, a few steps, and no GPU."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner) for inner in value]
        if isinstance(value, str) and re.match(r"[a-z0-9]+://", value):
            assert value in places, (
                f"{value}: add it to the places of {Path(__file__).name}, or make it in make_data.py"
            )
            return places[value]
        return value

    spec = copy.deepcopy(dict(spec))
    for elsewhere in ("checkpointsRemote", "bucketStorageHost", "bucketCredentialsSecret", "hfTokenSecret", "tracking"):
        spec.pop(elsewhere, None)
    spec = moved(spec) | {"finetuningGpus": 0}
    spec["data_conf"]["max_examples"] = ROWS
    spec["batchsize_conf"]["total_train_batch_size"] = ROWS
    arguments = spec["training_args"]
    arguments |= {"warmup_steps": 0, "logging_steps": 1}
    if "keep_best" not in spec.get("evaluation_conf", {}):
        arguments["save_total_limit"] = 1
    if "min_update_steps" in spec.get("overrides", {}):
        spec["overrides"]["min_update_steps"] = STEPS
    else:
        arguments["num_train_epochs"] = STEPS  # one step each
    for key in ("eval_steps", "save_steps"):
        if key in arguments:
            arguments[key] = STEPS
    return spec


@every_job
def test_it_is_valid_and_says_nothing_surprising(name: str) -> None:
    (manifest,) = load_manifests((EXAMPLES / name).read_text(encoding="utf-8"), name)
    assert [str(problem) for problem in validate_manifest(manifest)] == []
    resolved = resolve(FineTuneJobSpec.model_validate(manifest.spec))
    assert resolved.notices == []
    assert resolved.warnings == []


@every_job
def test_it_trains_and_its_result_loads(
    name: str, places: dict[str, str], train_here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetune_trainer.download import Places, download

    resolved = resolve(FineTuneJobSpec.model_validate(shortened(JOBS[name]["spec"], places)))
    config = JobConfig(name=JOBS[name]["metadata"]["name"], uid=name, spec=resolved.spec.to_dict())
    model = Path(resolved.spec.basemodel)
    found = download(config, Places(work=tmp_path, model=model, cache=tmp_path / "cache"))
    assert found.exit_code == 0, found.message
    assert found.dataset is not None

    run = train_here(config, work=tmp_path)
    losses = list(run.losses.values())
    assert len(losses) == run.report.total_steps == found.total_steps
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0], losses
    if resolved.spec.data_conf.validation_data.type != "NONE":
        assert run.report.eval_loss is not None
        assert math.isfinite(run.report.eval_loss)
    _check_result(run.checkpoints, model, resolved)


def _check_result(checkpoints: Path, base: Path, resolved: Any) -> None:
    """checkpoint-final loads as a user loads it, answers otherwise than the base model, and merged as it does."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    final, merged = checkpoints / "checkpoint-final", checkpoints / "checkpoint-final-merged"
    tokens = AutoTokenizer.from_pretrained(final)("The model is asked a question.", return_tensors="pt")

    def logits(model: Any) -> Any:
        with torch.no_grad():
            found = model.eval()(input_ids=tokens["input_ids"]).logits.float()
        assert torch.isfinite(found).all()
        return found

    if resolved.spec.peft_conf.peft_type == "NO_PEFT":
        tuned = logits(AutoModelForCausalLM.from_pretrained(final))
    else:
        loaded = AutoModelForCausalLM.from_pretrained(base)
        tuned = logits(PeftModel.from_pretrained(loaded, final))
        assert merged.is_dir() == resolved.merge_adapter
        if merged.is_dir():
            whole = logits(AutoModelForCausalLM.from_pretrained(merged))
            assert torch.allclose(whole, tuned, atol=1e-3 if resolved.spec.quant_conf.quantization_type else 1e-4)
    if not resolved.spec.run_conf.from_scratch:
        before = logits(AutoModelForCausalLM.from_pretrained(base))
        assert not torch.equal(tuned[:, -1], before[:, -1])


def test_every_job_has_a_name_of_its_own() -> None:
    names = [job["metadata"]["name"] for job in JOBS.values()]
    assert len(names) == len(set(names))
    for path, job in JOBS.items():
        assert job["metadata"]["name"] == Path(path).stem


def test_there_is_one_of_each_kind() -> None:
    specs = [job["spec"] for job in JOBS.values()]
    types = {name for name, row in PEFT_TYPES.items() if row.refused is None} | {"NO_PEFT", "PRETRAINED_PEFT"}
    assert {spec["peft_conf"]["peft_type"] for spec in specs} == types
    assert {spec.get("method", "sft") for spec in specs} == {"sft", "dpo", "clm"}
    quantised = [spec["quant_conf"] for spec in specs if "quant_conf" in spec]
    assert {key for conf in quantised for key in ("load_in_8bit", "load_in_4bit") if conf.get(key)} == {
        "load_in_8bit",
        "load_in_4bit",
    }
    parts = [spec["data_conf"][part] for spec in specs for part in ("training_data", "validation_data")]
    files = [dataset["path"] for part in parts for dataset in part.get("datasets", ())]
    assert {Path(path).suffix for path in files} >= {".jsonl", ".csv", ".parquet", ".txt"}
    assert {path.partition("://")[0] for path in files} == {"s3", "pvc", "configmap", "dataset", "hf"}
    assert {part["type"] for part in parts} == {"CONCATENATION", "PRECOMPUTE_WEIGHTED_MIX", "AUTO_SPLIT"}
    lengths = [spec["sft_args"].get("overlength", "drop") for spec in specs if "sft_args" in spec]
    assert set(lengths) == {"drop", "truncate", "pack"}


def test_the_index_lists_every_example() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([^)#]+\.(?:yaml|py))\)", index))
    there = {path.relative_to(EXAMPLES).as_posix() for kind in ("*.yaml", "*.py") for path in EXAMPLES.rglob(kind)}
    assert linked == there


def test_data_is_the_same_each_time(data: Path, tmp_path: Path) -> None:
    make = script("make_data")
    counts = make.write(tmp_path)
    assert min(counts.values()) >= 10
    for name in counts:
        assert (tmp_path / name).read_bytes() == (data / name).read_bytes()


def test_every_key_is_in_every_key() -> None:
    """The comments uncommented, every key of spec that is not refused has its line."""
    text = (EXAMPLES / "every-key.yaml").read_text(encoding="utf-8")
    uncommented = re.sub(r"^( *)# (( *)(- )?([a-zA-Z]\w*:|\{))", r"\1\2", text, flags=re.MULTILINE)
    (manifest,) = load_manifests(uncommented)
    assert manifest.duplicates == []
    assert sorted(set(_keys(spec_schema())) - set(_given(manifest.spec))) == []


REFUSED = {".".join(refusal.path) for refusal in REFUSALS} | {"memory_args"}
KUBERNETES_OWN = ("env", "affinity", "tolerations", "imagePullSecrets")  # documented there


def _keys(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Dotted paths of all keys; of training_args those that the trainer acts upon."""
    for key, inner in schema["properties"].items():
        here = f"{path}.{key}" if path else key
        if here in REFUSED or (path == "training_args" and key not in SUPPORTED):
            continue
        yield here
        element = inner.get("items", inner)
        if "properties" in element and key not in KUBERNETES_OWN:
            yield from _keys(element, here)


def _given(value: Any, path: str = "") -> Iterator[str]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _given(inner, f"{path}.{key}" if path else key)
    for inner in value if isinstance(value, list) else ():
        yield from _given(inner, path)


def test_every_key_shows_defaults_unless_it_says_so() -> None:
    """Without the key the job is the same, or the line says `default: …` or (required), or a key needs it."""
    (manifest,) = load_manifests((EXAMPLES / "every-key.yaml").read_text(encoding="utf-8"))
    lines = (EXAMPLES / "every-key.yaml").read_text(encoding="utf-8").splitlines()

    def resolved(spec: dict[str, Any]) -> Any:
        found = resolve(FineTuneJobSpec.model_validate(spec))
        return {**found.spec.to_dict(), "training_args": found.training_args}

    whole, other = resolved(manifest.spec), []
    for path in manifest.keys:
        line = lines[manifest.keys[path].line - 1]
        if len(path) < 3 or path[0] != "spec" or isinstance(path[-1], int) or "default:" in line or "(required" in line:
            continue
        spec = copy.deepcopy(manifest.spec)
        section: Any = spec
        for step in path[1:-1]:
            section = section[step]
        if isinstance(section.pop(path[-1]), dict | list) or {"labels", "annotations", "env", "peft_kwargs"} & set(
            path
        ):
            continue
        try:
            same = resolved(spec) == whole
        except ValidationError:
            same = True  # it has no default: another key asks for it
        if not same:
            other.append(".".join(map(str, path[1:])))
    assert other == []
