"""What a JobConfig says about data, as the plain arguments that this package's parts take.

Every training method reads its files by the same DataPlan (assembling.py); what a row becomes is decided by the
method's own module, which is imported only for it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.data_conf import AutoSplitDataInput, ConcatenationDataInput, WeightedMixDataInput
from finetune_api.job_config import JobConfig
from finetune_api.methods import CLMArguments
from finetune_api.spec import FineTuneJobSpec
from finetune_api.status import DatasetReport
from finetune_trainer.data.assembling import AutoSplit, DataPlan, Dataset, WeightedMix
from finetune_trainer.data.example import Example
from finetune_trainer.data.files import DataFile
from finetune_trainer.data.preparing import PreparedTokenizer, prepare, prepare_plain
from finetune_trainer.data.rows import PairKeys
from finetune_trainer.data.sources import VALIDATION, file_of
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
            overlength=spec.sft_args.overlength,
            pairs=_pairs(spec),
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


def _pairs(spec: FineTuneJobSpec) -> PairKeys | None:
    """The keys of rows that are pairs: either key given turns them on."""
    given = spec.data_conf
    if given.input_key is None and given.output_key is None:
        return None
    return PairKeys(given.input_key or "input", given.output_key or "output")


def padded_length(spec: FineTuneJobSpec) -> int | None:
    """The length to which every batch is padded; None: each to its longest row."""
    if spec.method == "sft" and spec.sft_args is not None and spec.sft_args.padding == "max_length":
        return spec.sft_args.max_seq_length
    if spec.method == "clm" and spec.clm_args is not None and spec.clm_args.padding == "max_length":
        return spec.clm_args.block_size
    return None


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
        checked = tuple(file_of(dataset, work_dir, VALIDATION) for dataset in validation.datasets)
    return DataPlan(
        training=tuple(file_of(dataset, work_dir) for dataset in training.datasets),
        mix=mix,
        validation=checked,
        max_examples=spec.data_conf.max_examples,
    )


def dataset_report(dataset: Dataset[Any]) -> DatasetReport:
    """The status's account of a dataset; steps and memory are the caller's to add."""
    account = dataset.account
    return DatasetReport(
        examples=len(dataset.train) if account.packed_from is None else account.packed_from,
        validation_examples=len(dataset.eval or []) if account.validation_from is None else account.validation_from,
        tokens=sum(len(example) for example in dataset.train),
        target_tokens=sum(_targets(example) for example in dataset.train),
        validation_tokens=sum(len(example) for example in dataset.eval or []),
        dropped=account.dropped,
        truncated=account.truncated,
        packed_into=len(dataset.train) if account.packed_from is not None else None,
        duplicates=account.duplicates,
        leaks=account.leaks,
        longest=account.longest_usable,
    )


def _targets(example: Any) -> int:
    return example.targets if isinstance(example, Example) else int(example.trained_tokens)
