"""peft_conf: no adapter, a pretrained adapter, or a new one of any PEFT type."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from finetune_api.base import FreeForm, LocationText, SpecModel

NewPeftType = Literal[
    "PROMPT_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "LORA",
    "ADALORA",
    "BOFT",
    "ADAPTION_PROMPT",
    "IA3",
    "LOHA",
    "LOKR",
    "OFT",
    "POLY",
    "LN_TUNING",
    "VERA",
    "FOURIERFT",
    "XLORA",
    "HRA",
    "VBLORA",
]
TaskType = Literal["SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"]


class NoPeftConfig(SpecModel):
    """Full fine-tuning: no adapter."""

    peft_type: Literal["NO_PEFT"] = Field(description="NO_PEFT: all weights are trained.")


class PretrainedPeftConfig(SpecModel):
    """Configuration and weights of an adapter trained before."""

    peft_type: Literal["PRETRAINED_PEFT"] = Field(description="PRETRAINED_PEFT: training goes on from an adapter.")
    name_or_path: LocationText = Field(description="Hugging Face id or path of the pretrained adapter.")


class GenericPeftConfig(SpecModel):
    """A newly initialised adapter."""

    peft_type: NewPeftType = Field(description="The PEFT method of the new adapter.")
    task_type: TaskType = Field("CAUSAL_LM", description="PEFT's task type. Only CAUSAL_LM can be trained.")
    peft_kwargs: FreeForm = Field(
        default_factory=dict,
        description="Arguments of the PEFT type's config, e.g. r, lora_alpha, lora_dropout, target_modules for LORA.",
    )


def _peft_tag(value: Any) -> str:
    given = value.get("peft_type") if isinstance(value, dict) else getattr(value, "peft_type", None)
    return given if given in ("NO_PEFT", "PRETRAINED_PEFT") else "NEW"


PeftConfig = Annotated[
    Annotated[NoPeftConfig, Tag("NO_PEFT")]
    | Annotated[PretrainedPeftConfig, Tag("PRETRAINED_PEFT")]
    | Annotated[GenericPeftConfig, Tag("NEW")],
    Discriminator(_peft_tag),
]
