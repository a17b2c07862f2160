"""What can be seen to be missing before torch is imported: such a job fails in a second instead of ten."""

import json
from pathlib import Path

from finetune_trainer.data.sources import datasets_of, file_of
from finetune_trainer.errors import InputMissing
from finetune_trainer.train.settings import Settings


def check_inputs(settings: Settings) -> None:
    """Raises InputMissing if the model or a data file is not there."""
    check_model_folder(settings.places.model / (settings.model.loading.get("subfolder") or ""))
    for wanted in datasets_of(settings.resolved.spec):
        path = file_of(wanted.dataset, settings.places.work, wanted.default_split).path
        if not path.exists():
            raise InputMissing(f"the data file {wanted.uri} is not at {path}; check its path in data_conf")


def check_model_folder(folder: Path) -> None:
    """Raises InputMissing unless the folder holds a readable config.json."""
    if not folder.is_dir():
        raise InputMissing(f"there is no model in {folder}; check basemodel")
    config = folder / "config.json"
    if not config.is_file():
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise InputMissing(f"{folder} holds no config.json (but {found}): it is no Hugging Face model; check basemodel")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        raise InputMissing(f"{config} is not valid JSON; download the model again") from None
