"""quant_conf: quantisation of the base model. Absent means none; present without a type means bits-and-bytes."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from finetune_api.base import SpecModel, Word

ModuleNames = Annotated[list[Word], Field(max_length=256)]
Dtype = Literal["float32", "float16", "bfloat16"]
StorageDtype = Literal["uint8", "float16", "float32", "bfloat16"]


class BnBQuantizationConfig(SpecModel):
    """bitsandbytes; the options are those of transformers.BitsAndBytesConfig."""

    quantization_type: Literal["bits-and-bytes"] = Field("bits-and-bytes", description="bits-and-bytes.")
    load_in_8bit: bool = Field(False, description="Quantise to 8 bits (LLM.int8).")
    load_in_4bit: bool = Field(False, description="Quantise to 4 bits (QLoRA).")
    llm_int8_threshold: Annotated[float, Field(ge=0, le=1_000_000)] = Field(
        6.0, description="Outlier threshold of LLM.int8."
    )
    llm_int8_skip_modules: ModuleNames | None = Field(None, description="Modules that are not quantised.")
    llm_int8_enable_fp32_cpu_offload: bool = Field(False, description="Keep parts on the CPU in fp32.")
    llm_int8_has_fp16_weight: bool = Field(False, description="Keep 16-bit main weights for the backward pass.")
    bnb_4bit_compute_dtype: Dtype | None = Field(None, description="Compute type of 4-bit layers. Default: float32.")
    bnb_4bit_quant_type: Literal["fp4", "nf4"] = Field("fp4", description="4-bit data type.")
    bnb_4bit_use_double_quant: bool = Field(False, description="Quantise the quantisation constants too.")
    bnb_4bit_quant_storage: StorageDtype | None = Field(
        None, description="Storage type of packed 4-bit weights. Default: uint8."
    )


class NoQuantizationConfig(SpecModel):
    """No quantisation."""

    quantization_type: Literal["no-quantization"] = Field("no-quantization", description="no-quantization.")


def _quantization_tag(value: Any) -> str:
    given = value.get("quantization_type") if isinstance(value, dict) else getattr(value, "quantization_type", None)
    return "no-quantization" if given == "no-quantization" else "bits-and-bytes"


QuantConfig = Annotated[
    Annotated[BnBQuantizationConfig, Tag("bits-and-bytes")] | Annotated[NoQuantizationConfig, Tag("no-quantization")],
    Discriminator(_quantization_tag),
]
