"""Code that a model's repository brings along: run only if the manifest says so, at the commit that it names.

Whether an operator allows it at all is decided before there is a pod (finetune_operator.plan.allowed). Here it is kept
to the model: its own files, as they were at that commit. A repository may name code of another repository, whose commit
nobody has looked at; that is refused.
"""

import json
from pathlib import Path
from typing import Any

from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.errors import BadConfiguration

_FILES = ("config.json", "tokenizer_config.json", "generation_config.json")
_KEY = "run_conf.model_args.trust_remote_code"


def trusts_model(spec: FineTuneJobSpec) -> bool:
    """Whether the code of the base model may run."""
    return spec.run_conf.model_args.trust_remote_code


def trusts_tokenizer(spec: FineTuneJobSpec) -> bool:
    """Whether the tokenizer's may: only the base model's own, since another one is not pinned."""
    return trusts_model(spec) and spec.run_conf.tokenizer is None


def check_code(folder: Path, spec: FineTuneJobSpec) -> None:
    """The code that the model in `folder` needs, against what may run. Raises BadConfiguration."""
    classes = _classes(folder)
    if trusts_model(spec):
        if elsewhere := sorted(name for name in classes if "--" in name):
            raise BadConfiguration(
                f"the model's code lies in another repository ({elsewhere[0]}), which is not pinned, so it does not "
                "run; use a model that holds its own code, or one that transformers knows"
            )
        return
    if not _classes(folder, "config.json"):
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # seconds, hence only if there is code

    kind = _read(folder / "config.json").get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        raise BadConfiguration(
            f"the model needs code of its repository (model_type {kind!r}), which does not run unless {_KEY} is true, "
            "a commit is pinned and the operator allows it; use a model that transformers knows"
        )


def _classes(folder: Path, *files: str) -> list[str]:
    """What the files' auto_map names: module.Class, or repository--module.Class."""
    found: list[str] = []
    for name in files or _FILES:
        given = _read(folder / name).get("auto_map")
        for one in given.values() if isinstance(given, dict) else [given]:
            found += [text for text in (one if isinstance(one, list) else [one]) if isinstance(text, str)]
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # missing or damaged: said where it is needed
    return content if isinstance(content, dict) else {}
