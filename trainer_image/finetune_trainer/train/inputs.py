"""What can be seen to be missing before torch is imported: such a job fails in a second instead of ten."""

import json
from pathlib import Path

from finetune_api.locations import data_path
from finetune_trainer.data import data_uris
from finetune_trainer.errors import InputMissing
from finetune_trainer.train.settings import Settings


def check_inputs(settings: Settings) -> None:
    """Raises InputMissing if the model or a data file is not there."""
    check_model_folder(settings.places.model / (settings.model.loading.get("subfolder") or ""))
    for uri in data_uris(settings.resolved.spec):
        path = Path(data_path(uri, str(settings.places.work)))
        if not path.is_file():
            raise InputMissing(f"the data file {uri} is not at {path}; check its path in data_conf")


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
