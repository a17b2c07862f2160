"""The rules of plain text (method clm), and of a model that is trained from scratch."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.violations import Violation

SIZES = (  # of run_conf.model_hyperparameters: fixed by the weights of a model that has them
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("hidden_size", "intermediate_size", "max_position_embeddings", "vocab_size"),
)
DEFAULT_TEMPLATE = "mistral-with-system"  # resolve() writes it out, so it cannot be told from a choice
DEFAULT_DATA_TYPE = "ChatConversation"  # likewise
NO_TEMPLATE = "method clm trains on text as it is, without a chat template; remove chat_template_name"
NO_PAIRS = "rows of method clm are one text each, under clm_args.text_key; remove {key}"
SIZES_OF_SCRATCH = (
    "a pretrained model keeps the sizes that its weights have; remove {key}, or set run_conf.from_scratch: true"
)
SCRATCH_ADAPTER = "an adapter on random weights would learn nothing of use; with from_scratch set peft_type: NO_PEFT"
DROPOUT_OFF = (
    "method dpo switches all dropout off unless dpo_args.disable_dropout is false; set that, or remove dropout"
)
SCRATCH_QUANTISED = "a model from scratch has no weights to quantise; remove quant_conf"


def _section(spec: Any, *path: str) -> Mapping[str, Any]:
    for name in path:
        spec = spec.get(name) if isinstance(spec, Mapping) else None
    return spec if isinstance(spec, Mapping) else {}


def check_plain_text(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Keys of conversations beside method clm: they would be ignored."""
    if spec.get("method") != "clm":
        return
    data = _section(spec, "data_conf")
    if data.get("chat_template_name") not in (None, DEFAULT_TEMPLATE):
        yield Violation(("data_conf", "chat_template_name"), NO_TEMPLATE)
    for key in ("input_key", "output_key"):
        if data.get(key) is not None:
            yield Violation(("data_conf", key), NO_PAIRS.format(key=key))
    for name in ("training_data", "validation_data"):
        if _section(data, name).get("data_type") not in (None, DEFAULT_DATA_TYPE):
            yield Violation(("data_conf", name, "data_type"), "data_type follows from the method; remove it")


def check_model_hyperparameters(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Sizes need a model from scratch; one of those takes no adapter and no quantisation."""
    run_conf = _section(spec, "run_conf")
    dropout = _section(run_conf, "model_hyperparameters").get("dropout")
    if spec.get("method") == "dpo" and dropout and _section(spec, "dpo_args").get("disable_dropout") is not False:
        yield Violation(("run_conf", "model_hyperparameters", "dropout"), DROPOUT_OFF)
    if run_conf.get("from_scratch") is True:
        if _section(spec, "peft_conf").get("peft_type", "NO_PEFT") != "NO_PEFT":
            yield Violation(("peft_conf", "peft_type"), SCRATCH_ADAPTER)
        quantisation = spec.get("quant_conf")
        if isinstance(quantisation, Mapping) and quantisation.get("quantization_type") != "no-quantization":
            yield Violation(("quant_conf", "quantization_type"), SCRATCH_QUANTISED)
        return
    for key in SIZES:
        if _section(run_conf, "model_hyperparameters").get(key) is not None:
            yield Violation(("run_conf", "model_hyperparameters", key), SIZES_OF_SCRATCH.format(key=key))
