"""The training methods and their own arguments: sft, dpo, clm (plain text) and memory (Memory Tuning)."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import SpecModel, Word

Method = Literal["sft", "dpo", "clm", "memory"]
SequenceLength = Annotated[int, Field(ge=1, le=16_777_216)]
Padding = Literal["longest", "max_length"]
PADDING_HELP = "Sequences are padded to the longest of a batch, or all to the maximum length."
LossType = Literal[
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
]
FolderName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][-._A-Za-z0-9]*$")]


class SFTArguments(SpecModel):
    """Supervised fine-tuning on conversations."""

    max_seq_length: SequenceLength = Field(
        2048,
        description="Maximum input sequence length in tokens. Longer ones are treated as overlength says, and counted.",
    )
    save_name_if_new_basemodel: FolderName = Field(
        "checkpoint-new-basemodel", description="If a new basemodel is saved, it is saved with this name."
    )
    train_on_completions_only: bool = Field(False, description="Only compute loss on the assistant's turns.")
    overlength: Literal["drop", "truncate", "pack"] = Field(
        "drop",
        description=(
            "Sequences longer than max_seq_length are left out, cut, or cut into pieces; pack also fills sequences "
            "with several examples, which do not see one another."
        ),
    )
    padding: Padding = Field("longest", description=PADDING_HELP)


class DPOArguments(SpecModel):
    """Direct preference optimisation on chosen and rejected conversations."""

    max_seq_length: SequenceLength = Field(2048, description="Maximum length of prompt and answer together, in tokens.")
    overlength: Literal["drop", "truncate"] = Field(
        "drop", description="Pairs with a longer sequence are left out, or cut at their end."
    )
    beta: Annotated[float, Field(gt=0, le=1_000)] = Field(0.1, description="Strength of the reference model's pull.")
    loss_type: LossType = Field("sigmoid", description="The preference loss.")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0, description="Assumed share of wrong preference labels, for the losses robust and exo_pair."
    )
    precompute_ref_log_probs: bool = Field(
        False, description="Compute the reference model's log probabilities once, before training."
    )
    disable_dropout: bool = Field(True, description="No dropout at all, that of an adapter included.")
    ld_alpha: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="LD-DPO: weight of the tokens beyond the shorter answer's length."
    )
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = Field(
        "reverse_kl", description="The divergence from the reference model."
    )
    f_alpha_divergence_coef: Annotated[float, Field(gt=0, le=1_000)] = Field(
        0.5, description="Alpha of alpha_divergence."
    )
    use_weighting: bool = Field(False, description="WPO: weigh pairs by the model's own probabilities.")
    discopop_tau: Annotated[float, Field(gt=0, le=1_000)] = Field(0.05, description="Temperature of loss discopop.")
    sync_ref_model: bool = Field(False, description="TR-DPO: move the reference model towards the trained one.")
    ref_model_mixup_alpha: Annotated[float, Field(ge=0, le=1)] = Field(0.6, description="Share of the trained model.")
    ref_model_sync_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(512, description="Every so many steps.")


class CLMArguments(SpecModel):
    """Causal language modelling on plain text."""

    block_size: SequenceLength = Field(1024, description="Length in tokens of blocks, or the longest text.")
    text_key: Word = Field("text", description="The key or column of rows that holds the text.")
    overlength: Literal["pack", "truncate", "drop"] = Field(
        "pack", description="pack: texts are joined and cut into blocks; truncate, drop: one text is one sequence."
    )
    padding: Padding = Field("longest", description=PADDING_HELP)


class MemoryArguments(SpecModel):
    """Memory Tuning: facts are learned into an indexed memory beside the frozen model."""

    max_seq_length: SequenceLength = Field(2048, description="Maximum input sequence length in tokens.")
    r_value: Annotated[int, Field(ge=1, le=4096)] = Field(64, description="Width of a memory slot and rank of LoRA.")
    index_method: Literal["IndexIVFPQ", "IndexHNSWPQ", "IndexHNSWFlat", "IndexFlatL2", "IndexPQ"] = Field(
        "IndexIVFPQ", description="Index for the nearest-neighbour search of memory slots."
    )
    index_k: Annotated[int, Field(ge=1, le=1024)] = Field(2, description="Number of nearest neighbours considered.")
    index_max_size: Annotated[int, Field(ge=1, le=16_777_216)] = Field(65536, description="Largest size of the index.")
    index_pq_m: Annotated[int, Field(ge=1, le=256)] = Field(8, description="Number of factors of product quantisation.")
    index_pq_nbits: Annotated[int, Field(ge=1, le=16)] = Field(8, description="Bits of each low-dimensional vector.")
    index_ivf_nlist: Annotated[int, Field(ge=1, le=1_048_576)] = Field(2048, description="Number of IVF buckets.")
    index_ivf_nprobe: Annotated[int, Field(ge=1, le=1_048_576)] = Field(48, description="Buckets searched first.")
    index_hnsw_m: Annotated[int, Field(ge=4, le=64)] = Field(32, description="Links per node of the HNSW graph.")
    index_hnsw_efConstruction: Annotated[int, Field(ge=8, le=512)] = Field(
        16, description="Expansion factor at construction of the HNSW graph."
    )
    index_hnsw_efSearch: Annotated[int, Field(ge=8, le=512)] = Field(
        8, description="Expansion factor at search in the HNSW graph."
    )


# training_args whose default depends on the method: preferences are learnt in small steps (TRL's DPOConfig).
METHOD_DEFAULTS: dict[str, dict[str, float]] = {"dpo": {"learning_rate": 1e-6}}
METHOD_ARGUMENTS: dict[str, str] = {"sft": "sft_args", "dpo": "dpo_args", "clm": "clm_args", "memory": "memory_args"}
