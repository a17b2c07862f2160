"""What each adapter type of peft_conf does in this version: one table for validation, the reference and the trainer.

Every statement was tried on the pinned PEFT with small models, and tests/training/test_peft_types.py tries it again.
PEFT itself says little: some types fail late (a merge after hours of training), others compute something else in
silence (rotations of weights that are packed four bits at a time).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class PeftType:
    """A row. refused: why the type cannot be trained at all (then nothing else counts).

    merges: whether the adapter can be merged into the base model. quantised: whether it trains on a quantised base.
    grows: whether new tokens' embeddings can be trained beside it. continues: whether PRETRAINED_PEFT goes on from it.
    virtual_tokens: whether it prepends learned positions to every row. required: arguments without a usable default.
    arguments: those of PEFT's config that are refused, with the reason.
    """

    what: str
    merges: bool = True
    quantised: bool = False
    grows: bool = True
    continues: bool = True
    virtual_tokens: bool = False
    required: tuple[str, ...] = ()
    arguments: tuple[tuple[str, str], ...] = ()
    note: str = ""
    refused: str | None = None


_TOKENIZER = "the job's own tokenizer is used; remove it"
_PROMPT_SHAPE = (
    ("num_transformer_submodules", "PEFT takes it from the model; remove it"),
    ("token_dim", "PEFT takes it from the model; remove it"),
    ("num_attention_heads", "PEFT takes it from the model; remove it"),
    ("num_layers", "PEFT takes it from the model; remove it"),
)
_PAST_EMBEDDINGS = (
    "modules_to_save",
    "with learned prompts PEFT reads the original embeddings, past a trained copy of them; use LORA or PREFIX_TUNING",
)
_CONVOLUTION = ("use_effective_conv2d", "language models have no such layers; remove it")
_ONE_TASK = "rows carry no task, so there is one; remove it"
_BIAS = ("bias", "only LORA trains biases in this version; remove it")
_NOT_LORAS = tuple(
    (name, f"{name} is a variant of LORA that ADALORA ignores; remove it")
    for name in ("use_dora", "lora_bias", "use_rslora", "alpha_pattern", "target_parameters")
)
_LORA_VARIANTS = (
    ("megatron_config", "Megatron's layers are not used in this version; remove it"),
    ("megatron_core", "Megatron's layers are not used in this version; remove it"),
    ("loftq_config", "LoftQ changes the base model's weights, so the adapter would not fit the original; remove it"),
    ("layer_replication", "it changes the base model's layers, so the result would not fit the original; remove it"),
    ("alora_invocation_tokens", "activated LoRA cannot be merged and needs its own inference code; remove it"),
    ("use_qalora", "QALoRA needs a GPTQ-quantised base model, and bits-and-bytes is the only kind here; remove it"),
    ("qalora_group_size", "QALoRA needs a GPTQ-quantised base model; remove it"),
    ("velora_config", "VeLoRA approximates gradients and is not supported in this version; remove it"),
    (
        "ensure_weight_tying",
        "PEFT merges a tied adapter twice; without it embedding and head get weights of their own",
    ),
)

PEFT_TYPES: dict[str, PeftType] = {
    "LORA": PeftType("Low-rank updates of weight matrices.", quantised=True, arguments=_LORA_VARIANTS),
    "ADALORA": PeftType(
        "LoRA that moves rank between layers while it trains.",
        quantised=True,
        continues=False,
        arguments=(
            *_LORA_VARIANTS,
            *_NOT_LORAS,
            ("r", "ADALORA ignores r; use init_r and target_r"),
            ("rank_pattern", "ADALORA finds the ranks itself; remove it"),
            ("trainable_token_indices", "not supported for ADALORA; use modules_to_save"),
            _BIAS,
        ),
        note="total_step is the run's number of steps unless given. The orthogonal regularisation acts on the gradient "
        "and is not part of the reported loss.",
    ),
    "IA3": PeftType("Learned scales of keys, values and feed-forward activations.", quantised=True),
    "LOHA": PeftType("Low-rank updates as Hadamard products.", arguments=(_CONVOLUTION,)),
    "LOKR": PeftType("Low-rank updates as Kronecker products.", arguments=(_CONVOLUTION,)),
    "OFT": PeftType("Orthogonal rotations of layers' inputs.", quantised=True, arguments=(_BIAS,)),
    "BOFT": PeftType(
        "Orthogonal rotations in butterfly form.",
        arguments=(
            _BIAS,
            (
                "boft_n_butterfly_factor",
                "more than one factor needs a CUDA extension that PEFT compiles when it runs, and falls back to 1 "
                "without; remove it",
            ),
        ),
    ),
    "VERA": PeftType("Shared random matrices with learned scales.", quantised=True, arguments=(_BIAS,)),
    "FOURIERFT": PeftType("Updates as sparse spectra.", quantised=True, arguments=(_BIAS,)),
    "HRA": PeftType("Householder reflections of weights.", arguments=(_BIAS,)),
    "VBLORA": PeftType(
        "LoRA composed of a shared bank of vectors.",
        quantised=True,
        arguments=(
            _BIAS,
            ("save_only_topk_weights", "a checkpoint without all weights could not be resumed; remove it"),
        ),
    ),
    "LN_TUNING": PeftType("Only the norms' weights are trained.", quantised=True),
    "PROMPT_TUNING": PeftType(
        "Learned embeddings before every row.",
        merges=False,
        quantised=True,
        virtual_tokens=True,
        required=("num_virtual_tokens",),
        grows=False,
        arguments=(
            *_PROMPT_SHAPE,
            _PAST_EMBEDDINGS,
            ("tokenizer_name_or_path", _TOKENIZER),
            ("tokenizer_kwargs", _TOKENIZER),
        ),
        note="The first token of a row is no target, as with other types, though PEFT could predict it.",
    ),
    "MULTITASK_PROMPT_TUNING": PeftType(
        "Learned embeddings with a low-rank part per task; trained as one task, number 0.",
        merges=False,
        quantised=True,
        grows=False,
        continues=False,
        virtual_tokens=True,
        required=("num_virtual_tokens",),
        arguments=(
            *_PROMPT_SHAPE,
            _PAST_EMBEDDINGS,
            ("tokenizer_name_or_path", _TOKENIZER),
            ("tokenizer_kwargs", _TOKENIZER),
            ("num_tasks", _ONE_TASK),
            ("prompt_tuning_init_task", _ONE_TASK),
            ("prompt_tuning_init_state_dict_path", "a file in the pod; remove it"),
        ),
        note="The result is exported as the PROMPT_TUNING adapter that it equals, since PEFT cannot generate with it.",
    ),
    "P_TUNING": PeftType(
        "Embeddings before every row, made by a small network.",
        merges=False,
        quantised=True,
        grows=False,
        continues=False,
        virtual_tokens=True,
        required=("num_virtual_tokens",),
        arguments=(*_PROMPT_SHAPE, _PAST_EMBEDDINGS),
        note="The saved adapter holds the embeddings, not the network; a job's own checkpoints hold both.",
    ),
    "PREFIX_TUNING": PeftType(
        "Learned keys and values before every row, in each layer.",
        merges=False,
        quantised=True,
        virtual_tokens=True,
        required=("num_virtual_tokens",),
        arguments=_PROMPT_SHAPE,
        note="Not with gradient_checkpointing.",
    ),
    "ADAPTION_PROMPT": PeftType(
        "Gated prompts in the upper layers (LLaMA-Adapter), for Llama, Mistral and GPT-2.",
        merges=False,
        grows=False,
        required=("adapter_len", "adapter_layers"),
    ),
    "POLY": PeftType(
        "A mixture of LoRA skills per task; trained as one task, number 0.",
        continues=False,
        arguments=(("n_tasks", _ONE_TASK),),
        note="The result is exported as the LORA adapter that it equals, since PEFT cannot generate with it. Not with "
        "gradient_checkpointing.",
    ),
    "XLORA": PeftType(
        "A gate over LoRA adapters that exist already.",
        merges=False,
        refused="XLORA mixes LoRA adapters that were trained before, and peft_kwargs.adapters names them by paths that "
        "no pod has; train one LORA, or go on from one with PRETRAINED_PEFT",
    ),
}
TRAINABLE = tuple(name for name, row in PEFT_TYPES.items() if row.refused is None)
CANNOT_MERGE = tuple(name for name, row in PEFT_TYPES.items() if not row.merges)
ON_QUANTISED = tuple(name for name, row in PEFT_TYPES.items() if row.quantised)


def cannot_merge_message(peft_type: str) -> str:
    """Why mergeAdapter: true is refused with a type."""
    return f"a {peft_type} adapter cannot be merged into the model; set mergeAdapter: false"
