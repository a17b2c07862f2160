"""Code of a model's repository: run only where the manifest trusts it, pinned; refused before any GPU otherwise."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import BadConfiguration
from finetune_trainer.remote_code import check_code

REVISION = "0123456789abcdef0123456789abcdef01234567"
MODEL = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({mark!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = "own_llama"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def own_model(base_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A model whose class is in its repository, and the file that appears once that code has run."""
    folder, mark = tmp_path / "own", tmp_path / "code-has-run"
    shutil.copytree(base_model, folder)
    (folder / "own_code.py").write_text(MODEL.format(mark=str(mark)))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own_llama"
    config["architectures"] = ["OwnModel"]
    config["auto_map"] = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, mark


def job(make_config: Any, trusted: bool) -> Any:
    arguments = {"trust_remote_code": trusted, "revision": REVISION}
    spec = {"basemodel": "hf://org/own", "run_conf": {"model_args": arguments}}
    return make_config(training_args={"max_steps": 2}, spec=spec)


@pytest.mark.parametrize("trusted", [True, False])
def test_code_of_the_model_runs_only_if_it_is_trusted(
    train_here: Any,
    make_config: Any,
    own_model: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    trusted: bool,
) -> None:
    folder, mark = own_model
    monkeypatch.setenv("FINETUNE_MODEL_DIR", str(folder))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    if not trusted:
        with pytest.raises(BadConfiguration):
            train_here(job(make_config, trusted))
        assert not mark.exists()
        return
    run = train_here(job(make_config, trusted))
    assert mark.exists()
    assert (run.final / "own_code.py").is_file()  # the result can be loaded as the base model was
    assert json.loads((run.final / "config.json").read_text())["auto_map"]


def test_the_download_refuses_code_that_is_not_trusted(make_config: Any, own_model: tuple[Path, Path]) -> None:
    folder, mark = own_model
    with pytest.raises(BadConfiguration, match=r"model_type 'own_llama'.*trust_remote_code"):
        check_code(folder, job(make_config, False).parsed_spec())
    check_code(folder, job(make_config, True).parsed_spec())
    assert not mark.exists()


def test_code_that_transformers_has_itself_is_not_needed(make_config: Any, own_model: tuple[Path, Path]) -> None:
    folder, _ = own_model
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    check_code(folder, job(make_config, False).parsed_spec())


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_another_repository_never_runs(make_config: Any, own_model: tuple[Path, Path], file: str) -> None:
    folder, _ = own_model
    content = json.loads((folder / file).read_text())
    content["auto_map"] = {"AutoTokenizer": ["org/other--code.Own", None]}
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(BadConfiguration, match=r"org/other--code\.Own"):
        check_code(folder, job(make_config, True).parsed_spec())
