"""run_conf: how the model is loaded and where training resumes."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import LocationText, SpecModel, Text, Word
from finetune_api.constants import MODEL_DIR

ModuleName = Annotated[str, Field(max_length=128)]  # "" is the whole model
DeviceMap = Annotated[dict[ModuleName, int | Word], Field(max_length=256)]
MaxMemory = Annotated[dict[Word, int | Word], Field(max_length=64)]
Proxies = Annotated[dict[Word, Text], Field(max_length=16)]


class ModelArguments(SpecModel):
    """Passed to AutoModelForCausalLM.from_pretrained. Quantisation is given in quant_conf instead."""

    torch_dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="Type of the loaded weights; auto takes the checkpoint's."
    )
    device_map: DeviceMap | Word | int | None = Field(
        "auto",
        description=(
            "Each process holds the whole model on its own device: auto, or what says the same (balanced, "
            "balanced_low_0, sequential, a device or a map, with one GPU)."
        ),
    )
    max_memory: MaxMemory | None = Field(None, description="Only null: the whole model is on one device.")
    low_cpu_mem_usage: bool = Field(False, description="Only false: today's transformers always loads this way.")
    attn_implementation: Word | None = Field(
        None,
        description="eager, sdpa, flash_attention_2, flash_attention_3 or flex_attention. Default: sdpa if possible.",
    )
    offload_folder: Text | None = Field(None, description="Only null: weights are not offloaded.")
    offload_state_dict: bool | None = Field(None, description="Only null: today's transformers ignores it.")
    offload_buffers: bool | None = Field(None, description="Only false: weights are not offloaded.")
    use_cache: bool = Field(True, description="The model's key-value cache setting; training itself never uses it.")
    cache_dir: Text | None = Field(None, description="Only null: the operator's model cache is used.")
    force_download: bool = Field(False, description="Only false: the operator downloads the model.")
    local_files_only: bool = Field(False, description="Whether loading may not look beyond local files.")
    proxies: Proxies | None = Field(None, description="Only null: use httpProxy, httpsProxy and noProxy of spec.")
    resume_download: bool = Field(False, description="Accepted for old manifests; downloads always resume.")
    revision: Word = Field("main", description="Branch, tag or commit of an hf:// base model.")
    code_revision: Word = Field("main", description="Only main: code is taken at revision.")
    subfolder: Text | None = Field(None, description="Folder of the model inside its repository.")
    token: Text | None = Field(None, description="Only null: a token belongs into a Secret, see hfTokenSecret.")
    use_safetensors: bool | None = Field(None, description="Load only (true) or never (false) safetensors files.")
    variant: Word | None = Field(None, description="Variant of the weight files, e.g. fp16.")
    trust_remote_code: bool = Field(
        False,
        description="Run code of the model's repository. Needs a commit in revision, and the operator's permission.",
    )


Size = Annotated[int, Field(ge=1, le=16_777_216)]


class ModelHyperparameters(SpecModel):
    """The model's own hyperparameters: dropout of any model, sizes of one that is trained from scratch."""

    dropout: Annotated[float, Field(ge=0, lt=1)] | None = Field(None, description="Every dropout probability.")
    num_hidden_layers: Size | None = Field(None, description="Layers.")
    num_attention_heads: Size | None = Field(None, description="Attention heads.")
    num_key_value_heads: Size | None = Field(None, description="Key-value heads of grouped-query attention.")
    hidden_size: Size | None = Field(None, description="Width of hidden states.")
    intermediate_size: Size | None = Field(None, description="Width inside the MLP.")
    max_position_embeddings: Size | None = Field(None, description="Longest sequence.")
    vocab_size: Size | None = Field(None, description="Rows of the embedding; at least the tokenizer's size.")


class RunConfig(SpecModel):
    """Model and run configuration."""

    model: LocationText = Field(
        MODEL_DIR, description="Path of the model in the pod. Leave the default: see basemodel."
    )
    model_args: ModelArguments = Field(
        default_factory=ModelArguments, description="Arguments of AutoModelForCausalLM.from_pretrained."
    )
    tokenizer: LocationText | None = Field(None, description="Tokenizer's id or path. Default: the model's own.")
    use_fast_tokenizer: bool = Field(True, description="Only true: today's transformers has fast tokenizers only.")
    resume_from_checkpoint: bool | LocationText = Field(
        False,
        description=(
            "For the first attempt: auto (continue if a checkpoint exists), true (must exist), false (start over) or a "
            "path. Later attempts always resume."
        ),
    )
    final_checkpoint_name: Word = Field("checkpoint-final", description="Only checkpoint-final.")
    from_scratch: bool = Field(
        False, description="Random weights in the shape of the base model's config.json, instead of its own."
    )
    model_hyperparameters: ModelHyperparameters | None = Field(
        None, description="Dropout, and with from_scratch the model's sizes. Default: the base model's."
    )
