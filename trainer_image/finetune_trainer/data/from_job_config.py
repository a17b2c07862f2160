"""What a JobConfig says about data, as the plain arguments that this package's parts take."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.data_conf import AutoSplitDataInput, ConcatenationDataInput, WeightedMixDataInput
from finetune_api.job_config import JobConfig
from finetune_api.locations import data_path, parse_location
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import DatasetReport
from finetune_trainer.data.dataset import AutoSplit, DataPlan, Dataset, WeightedMix, load_dataset
from finetune_trainer.data.example import Example
from finetune_trainer.data.preparing import PreparedTokenizer, prepare
from finetune_trainer.data.rows import DataFile
from finetune_trainer.errors import BadConfiguration


@dataclass(frozen=True)
class TrainingData:
    """Examples to train on (in order, before shuffling), to evaluate on, what the report says, and what the user
    should know."""

    train: list[Example]
    eval: list[Example] | None
    report: DatasetReport
    notices: tuple[str, ...] = ()


def load_training_data(config: JobConfig, tokenizer: Any, work_dir: Path) -> TrainingData:
    """Reads, checks, tokenises, mixes and splits the data files of a job, which lie below `work_dir` (data_path).

    tokenizer: a transformers fast tokenizer (after prepare_tokenizer) or a LightTokenizer.
    Raises BadData, InputMissing and BadConfiguration, naming file, line or key.
    """
    dataset = load_dataset(data_plan(config.parsed_spec(), work_dir), tokenizer)
    return TrainingData(dataset.train, dataset.eval, dataset_report(dataset), tuple(dataset.account.notices))


def prepare_tokenizer(config: JobConfig, tokenizer: Any) -> PreparedTokenizer:
    """Gives the tokenizer (in place) the job's chat template, padding token and side. Raises BadConfiguration."""
    data_conf = config.parsed_spec().data_conf
    return prepare(
        tokenizer,
        chat_template_name=data_conf.chat_template_name,
        padding_side=data_conf.padding_side,
        missing_pad_token_strategy=data_conf.missing_pad_token_strategy,
    )


def data_plan(spec: FineTuneJobSpec, work_dir: Path) -> DataPlan:
    """The files of a spec where the download puts them, and how they become examples."""
    if spec.sft_args is None:
        raise BadConfiguration(f"method {spec.method} is not supported by this trainer; use method sft with sft_args")
    training, validation = spec.data_conf.training_data, spec.data_conf.validation_data
    mix = None
    if isinstance(training, WeightedMixDataInput):
        mix = WeightedMix(tuple(dataset.sampling_weight for dataset in training.datasets), training.seed)
    checked: tuple[DataFile, ...] | AutoSplit | None = None
    if isinstance(validation, AutoSplitDataInput):
        checked = AutoSplit(validation.ratio, validation.seed)
    elif isinstance(validation, ConcatenationDataInput):
        checked = tuple(_data_file(dataset.path, work_dir) for dataset in validation.datasets)
    return DataPlan(
        training=tuple(_data_file(dataset.path, work_dir) for dataset in training.datasets),
        mix=mix,
        validation=checked,
        chat_template_name=spec.data_conf.chat_template_name,
        max_seq_length=spec.sft_args.max_seq_length,
        completions_only=spec.sft_args.train_on_completions_only,
    )


def _data_file(path: str, work_dir: Path) -> DataFile:
    return DataFile(parse_location(path).uri, Path(data_path(path, str(work_dir))))


def data_uris(spec: FineTuneJobSpec) -> list[str]:
    """Every data file that the spec names and uses, once each, in order. A dataset of weight 0 is not used."""
    conf = spec.data_conf
    paths = [dataset.path for dataset in conf.training_data.datasets if getattr(dataset, "sampling_weight", 1.0) > 0]
    if isinstance(conf.validation_data, ConcatenationDataInput):
        paths += [dataset.path for dataset in conf.validation_data.datasets]
    return list(dict.fromkeys(paths))


def dataset_report(dataset: Dataset) -> DatasetReport:
    """The status's account of a dataset; steps and memory are the caller's to add."""
    return DatasetReport(
        examples=len(dataset.train),
        validation_examples=len(dataset.eval or []),
        tokens=sum(len(example) for example in dataset.train),
        target_tokens=sum(example.trained_tokens for example in dataset.train),
        dropped=dataset.account.dropped,
        longest=dataset.account.longest_usable,
    )
