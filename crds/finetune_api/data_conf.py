"""data_conf: where training and validation data come from, and how conversations become token sequences."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import LocationText, SpecModel, Word

Seed = Annotated[int, Field(ge=0, le=4_294_967_295)]
MAX_DATASETS = 128
DATA_PATH_HELP = (
    "A JSONL, CSV, Parquet or text file: a path in the pod, hf://, s3://, gs://, az://, https://, pvc://claim/path, "
    "configmap://name/key or dataset://name; a bare bucket/path means s3://bucket/path."
)
DataFormat = Literal["jsonl", "csv", "parquet", "text"]
FORMAT_HELP = "Format of the files. Default: by their ending."
CONFIG_HELP = "Configuration of a dataset that is a folder or an hf:// repository."
SPLIT_HELP = "Split of such a dataset. Default: train, and validation for validation data."
DATA_TYPE_HELP = "The kind of rows. Set automatically from method."


class DatasetDefinition(SpecModel):
    """Where one dataset lies."""

    path: LocationText = Field(description=DATA_PATH_HELP)
    format: DataFormat | None = Field(None, description=FORMAT_HELP)
    config: Word | None = Field(None, description=CONFIG_HELP)
    split: Word | None = Field(None, description=SPLIT_HELP)


class WeightedDatasetDefinition(SpecModel):
    """Where one dataset lies, with its weight for sampling."""

    path: LocationText = Field(description=DATA_PATH_HELP)
    format: DataFormat | None = Field(None, description=FORMAT_HELP)
    config: Word | None = Field(None, description=CONFIG_HELP)
    split: Word | None = Field(None, description=SPLIT_HELP)
    sampling_weight: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        1.0, description="Relative weight of this dataset in the mix. Zero leaves it out."
    )


class ConcatenationDataInput(SpecModel):
    """A simple list of datasets, concatenated."""

    type: Literal["CONCATENATION"] = Field(description="CONCATENATION: the datasets follow one another.")
    datasets: Annotated[list[DatasetDefinition], Field(min_length=1, max_length=MAX_DATASETS)] = Field(
        description="The datasets."
    )
    data_type: Word = Field("ChatConversation", description=DATA_TYPE_HELP)


class WeightedMixDataInput(SpecModel):
    """Datasets interleaved by sampling weights until every sample of every dataset was picked."""

    type: Literal["PRECOMPUTE_WEIGHTED_MIX"] = Field(description="PRECOMPUTE_WEIGHTED_MIX: interleaved by weights.")
    datasets: Annotated[list[WeightedDatasetDefinition], Field(min_length=1, max_length=MAX_DATASETS)] = Field(
        description="The datasets and their weights."
    )
    data_type: Word = Field("ChatConversation", description=DATA_TYPE_HELP)
    seed: Seed = Field(19851243, description="Seed of the random number generator for interleaving draws.")


class AutoSplitDataInput(SpecModel):
    """Automatic validation split from the training data."""

    type: Literal["AUTO_SPLIT"] = Field(description="AUTO_SPLIT: validation data is split off the training data.")
    data_type: Word = Field("ChatConversation", description=DATA_TYPE_HELP)
    ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Ratio of the training data to use for validation."
    )
    seed: Seed = Field(1289525893, description="Seed of the random number generator for splitting.")


class NoneDataInput(SpecModel):
    """No data, e.g. no validation."""

    type: Literal["NONE"] = Field(description="NONE: no validation data.")
    data_type: Word = Field("ChatConversation", description=DATA_TYPE_HELP)


TrainingData = Annotated[ConcatenationDataInput | WeightedMixDataInput, Field(discriminator="type")]
ValidationData = Annotated[AutoSplitDataInput | ConcatenationDataInput | NoneDataInput, Field(discriminator="type")]
ChatTemplateName = Literal["mistral-with-system", "chat-ml", "poro", "keep-original", "simplified-llama31", "none"]
MissingPadTokenStrategy = Literal["eos-repurpose", "bos-repurpose", "unk-repurpose", "unk-convert-to-eos"]


class ChatTrainValidConfig(SpecModel):
    """Training and validation data, the chat template and padding."""

    training_data: TrainingData = Field(description="The training data.")
    validation_data: ValidationData = Field(description="The validation data; type NONE for none.")
    chat_template_name: ChatTemplateName = Field(
        "mistral-with-system",
        description="How a conversation becomes text for the model; none: pairs are joined as is.",
    )
    padding_side: Literal["left", "right"] = Field("right", description="Padding side; right is usually right.")
    missing_pad_token_strategy: MissingPadTokenStrategy = Field(
        "bos-repurpose",
        description=(
            "What pads when the tokenizer has no padding token. eos-repurpose may keep the model from learning to "
            "stop; unk-convert-to-eos pads with UNK, shown to the model as EOS."
        ),
    )
    max_examples: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        None, description="Train on at most so many examples, the first ones. Default: all."
    )
    input_key: Word | None = Field(
        None, description="Rows are pairs, whose prompt has this key. Default, with output_key: input."
    )
    output_key: Word | None = Field(
        None, description="Rows are pairs, whose answer has this key. Default, with input_key: output."
    )
