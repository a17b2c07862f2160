"""The training methods and their own arguments: sft, dpo, clm (plain text) and memory (Memory Tuning)."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import SpecModel, Word

Method = Literal["sft", "dpo", "clm", "memory"]
SequenceLength = Annotated[int, Field(ge=1, le=16_777_216)]
FolderName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][-._A-Za-z0-9]*$")]


class SFTArguments(SpecModel):
    """Supervised fine-tuning on conversations."""

    max_seq_length: SequenceLength = Field(
        2048, description="Maximum input sequence length in tokens. Longer sequences are filtered out, and counted."
    )
    save_name_if_new_basemodel: FolderName = Field(
        "checkpoint-new-basemodel", description="If a new basemodel is saved, it is saved with this name."
    )
    train_on_completions_only: bool = Field(False, description="Only compute loss on the assistant's turns.")


class DPOArguments(SpecModel):
    """Direct preference optimisation on chosen and rejected conversations."""

    max_seq_length: SequenceLength = Field(2048, description="Maximum length of prompt and answer together, in tokens.")
    beta: Annotated[float, Field(gt=0, le=1_000)] = Field(0.1, description="Strength of the reference model's pull.")
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust"] = Field("sigmoid", description="The preference loss.")
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        0.0, description="Assumed share of wrong preference labels, for the sigmoid and robust losses."
    )
    precompute_ref_log_probs: bool = Field(
        False, description="Compute the reference model's log probabilities once, before training."
    )


class CLMArguments(SpecModel):
    """Causal language modelling on plain text."""

    block_size: SequenceLength = Field(1024, description="Length in tokens of the blocks that the text is cut into.")
    text_key: Word = Field("text", description="The key of JSONL rows that holds the text.")


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


METHOD_ARGUMENTS: dict[str, str] = {"sft": "sft_args", "dpo": "dpo_args", "clm": "clm_args", "memory": "memory_args"}
