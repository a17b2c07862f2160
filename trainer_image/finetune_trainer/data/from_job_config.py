"""What a JobConfig says about data, as the plain arguments that this package's parts take.

Every training method reads its files by the same DataPlan (assembling.py); what a row becomes is decided by the
method's own module, which is imported only for it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.data_conf import (
    AutoSplitDataInput,
    ConcatenationDataInput,
    DatasetDefinition,
    WeightedDatasetDefinition,
    WeightedMixDataInput,
)
from finetune_api.job_config import JobConfig
from finetune_api.locations import data_path, parse_location
from finetune_api.methods import CLMArguments
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import DatasetReport
from finetune_trainer.data.assembling import AutoSplit, DataPlan, Dataset, WeightedMix
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.preparing import PreparedTokenizer, prepare, prepare_plain
from finetune_trainer.errors import BadConfiguration


@dataclass(frozen=True)
class TrainingData:
    """Examples to train on (in order, before shuffling), to evaluate on, what the report says, and what the user
    should know. What an example is depends on the method; all have len() and trained_tokens."""

    train: list[Any]
    eval: list[Any] | None
    report: DatasetReport
    notices: tuple[str, ...] = ()


def load_training_data(config: JobConfig, tokenizer: Any, work_dir: Path) -> TrainingData:
    """Reads, checks, tokenises, mixes and splits the data files of a job, which lie below `work_dir` (data_path).

    tokenizer: a transformers fast tokenizer (after prepare_tokenizer) or a LightTokenizer.
    Raises BadData, InputMissing and BadConfiguration, naming file, line or key.
    """
    spec = config.parsed_spec()
    dataset = _load(spec, data_plan(spec, work_dir), tokenizer)
    return TrainingData(dataset.train, dataset.eval, dataset_report(dataset), tuple(dataset.account.notices))


def _load(spec: FineTuneJobSpec, plan: DataPlan, tokenizer: Any) -> Dataset[Any]:
    """The dataset of the job's method."""
    if spec.method == "sft" and spec.sft_args is not None:
        from finetune_trainer.data.dataset import Chats, load_dataset

        chats = Chats(
            chat_template_name=spec.data_conf.chat_template_name,
            max_seq_length=spec.sft_args.max_seq_length,
            completions_only=spec.sft_args.train_on_completions_only,
        )
        return load_dataset(plan, chats, tokenizer)
    if spec.method == "dpo" and spec.dpo_args is not None:
        from finetune_trainer.data.preference import load_preferences

        return load_preferences(plan, spec.data_conf, spec.dpo_args, tokenizer)
    if spec.method == "clm":
        from finetune_trainer.data.text import Texts, load_texts

        given = spec.clm_args or CLMArguments()
        texts = Texts(text_key=given.text_key, block_size=given.block_size, overlength=given.overlength)
        return load_texts(plan, texts, tokenizer)
    raise BadConfiguration(f"method {spec.method} is not supported by this trainer; use method sft, dpo or clm")


def prepare_tokenizer(config: JobConfig, tokenizer: Any) -> PreparedTokenizer:
    """Gives the tokenizer (in place) the job's chat template, padding token and side. Raises BadConfiguration."""
    spec = config.parsed_spec()
    data_conf = spec.data_conf
    if spec.method == "clm":
        return prepare_plain(
            tokenizer,
            padding_side=data_conf.padding_side,
            missing_pad_token_strategy=data_conf.missing_pad_token_strategy,
        )
    return prepare(
        tokenizer,
        chat_template_name=data_conf.chat_template_name,
        padding_side=data_conf.padding_side,
        missing_pad_token_strategy=data_conf.missing_pad_token_strategy,
    )


def data_plan(spec: FineTuneJobSpec, work_dir: Path) -> DataPlan:
    """The files of a spec where the download puts them, and how they are put together."""
    training, validation = spec.data_conf.training_data, spec.data_conf.validation_data
    mix = None
    if isinstance(training, WeightedMixDataInput):
        mix = WeightedMix(tuple(dataset.sampling_weight for dataset in training.datasets), training.seed)
    checked: tuple[DataFile, ...] | AutoSplit | None = None
    if isinstance(validation, AutoSplitDataInput):
        checked = AutoSplit(validation.ratio, validation.seed)
    elif isinstance(validation, ConcatenationDataInput):
        checked = tuple(_data_file(dataset, work_dir) for dataset in validation.datasets)
    return DataPlan(
        training=tuple(_data_file(dataset, work_dir) for dataset in training.datasets),
        mix=mix,
        validation=checked,
        max_examples=spec.data_conf.max_examples,
    )


def _data_file(dataset: DatasetDefinition | WeightedDatasetDefinition, work_dir: Path) -> DataFile:
    return DataFile(parse_location(dataset.path).uri, Path(data_path(dataset.path, str(work_dir))), dataset.format)


def data_uris(spec: FineTuneJobSpec) -> list[str]:
    """Every data file that the spec names and uses, once each, in order. A dataset of weight 0 is not used."""
    conf = spec.data_conf
    paths = [dataset.path for dataset in conf.training_data.datasets if getattr(dataset, "sampling_weight", 1.0) > 0]
    if isinstance(conf.validation_data, ConcatenationDataInput):
        paths += [dataset.path for dataset in conf.validation_data.datasets]
    return list(dict.fromkeys(paths))


def dataset_report(dataset: Dataset[Any]) -> DatasetReport:
    """The status's account of a dataset; steps and memory are the caller's to add."""
    account = dataset.account
    return DatasetReport(
        examples=len(dataset.train) if account.packed_from is None else account.packed_from,
        validation_examples=len(dataset.eval or []) if account.validation_from is None else account.validation_from,
        tokens=sum(len(example) for example in dataset.train),
        target_tokens=sum(example.trained_tokens for example in dataset.train),
        validation_tokens=sum(len(example) for example in dataset.eval or []),
        dropped=account.dropped,
        truncated=account.truncated,
        packed_into=len(dataset.train) if account.packed_from is not None else None,
        duplicates=account.duplicates,
        leaks=account.leaks,
        longest=account.longest_usable,
    )
