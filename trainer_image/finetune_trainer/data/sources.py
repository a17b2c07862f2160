"""Where a dataset lies on the job's volume, for the download pod that puts it there and the train pod that reads it.

A dataset that is one plain file is that file (data_path). Any other (a folder, a repository on the hub, a named
dataset, one configuration or split of these) is a folder on the volume which holds just its files, and SOURCE beside
them, which says what they are. The train pod looks nothing up: what the download chose is what is trained on.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_api.data_conf import ConcatenationDataInput, DatasetDefinition, WeightedDatasetDefinition
from finetune_api.locations import data_path, parse_location
from finetune_api.spec import FineTuneJobSpec
from finetune_trainer.data.files import DataFile, format_of

SOURCE = "_SOURCE.json"
TRAIN, VALIDATION = "train", "validation"
Definition = DatasetDefinition | WeightedDatasetDefinition


@dataclass(frozen=True)
class Wanted:
    """A dataset that a spec names, and the split to take where it has several and names none."""

    dataset: Definition
    default_split: str = TRAIN

    @property
    def uri(self) -> str:
        return parse_location(self.dataset.path).uri


def datasets_of(spec: FineTuneJobSpec) -> Iterator[Wanted]:
    """Every dataset that the spec names and uses, in order. One of weight 0 is not used."""
    conf = spec.data_conf
    for dataset in conf.training_data.datasets:
        if getattr(dataset, "sampling_weight", 1.0) > 0:
            yield Wanted(dataset)
    if isinstance(conf.validation_data, ConcatenationDataInput):
        for dataset in conf.validation_data.datasets:
            yield Wanted(dataset, VALIDATION)


def file_of(dataset: Definition, work_dir: Path, default_split: str = TRAIN) -> DataFile:
    """The dataset as the readers take it: a file, or a folder that is read as one."""
    wanted = Wanted(dataset, default_split)
    folder = folder_of(wanted, work_dir)
    if (folder / SOURCE).is_file():
        facts = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        return DataFile(facts["source"], folder, facts["format"])
    return DataFile(wanted.uri, Path(data_path(dataset.path, str(work_dir))), format_of(wanted.uri, dataset.format))


def folder_of(wanted: Wanted, work_dir: Path) -> Path:
    """The folder on the volume for a dataset that is not one plain file; it depends on all that chooses the files."""
    dataset = wanted.dataset
    parts = (wanted.uri, dataset.config or "", dataset.split or f"default {wanted.default_split}", dataset.format or "")
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
    return work_dir / "data" / f"{digest}-{parse_location(dataset.path).basename}"
