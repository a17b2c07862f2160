"""The rules of method dpo: what its losses can be combined with. What would have no effect is refused."""

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_api.dpo_config import where_instead
from finetune_api.violations import Violation

SMOOTHED = ("robust", "exo_pair")  # losses that know label smoothing
# Only the difference of scores is defined under another divergence: f'(t) leaves a term that cancels in it.
OTHER_DIVERGENCES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop")


def check_preference(spec: Mapping[str, Any]) -> Iterator[Violation]:
    """Violations of method dpo by raw spec data."""
    if spec.get("method") != "dpo":
        return
    given = _section(spec, "dpo_args")
    yield from _loss(given)
    yield from _reference(given, spec)
    yield from _data(_section(spec, "data_conf"))
    arguments = _section(spec, "training_args")
    for key in arguments:
        instead = where_instead(key) if isinstance(key, str) else None
        if instead:
            yield Violation(("training_args", key), instead)
    if arguments.get("label_smoothing_factor"):
        yield Violation(
            ("training_args", "label_smoothing_factor"),
            "label_smoothing_factor smooths a cross-entropy, which method dpo does not train; remove it, or use "
            "dpo_args.label_smoothing",
        )


def _loss(given: Mapping[str, Any]) -> Iterator[Violation]:
    loss = given.get("loss_type", "sigmoid")
    smoothing = given.get("label_smoothing", 0)
    if smoothing and loss not in SMOOTHED:
        yield _violation(
            "label_smoothing", f"label_smoothing has no effect on loss_type {loss}; use robust or exo_pair"
        )
    if loss == "exo_pair" and not smoothing:
        yield _violation("label_smoothing", "loss_type exo_pair needs label_smoothing above 0; its paper uses 0.001")
    divergence = given.get("f_divergence_type", "reverse_kl")
    if divergence != "reverse_kl" and loss not in OTHER_DIVERGENCES:
        yield _violation(
            "f_divergence_type",
            f"loss_type {loss} is defined with reverse_kl only; remove f_divergence_type, or use one of "
            f"{', '.join(OTHER_DIVERGENCES)}",
        )
    if given.get("f_alpha_divergence_coef", 0.5) != 0.5 and divergence != "alpha_divergence":
        yield _violation(
            "f_alpha_divergence_coef", "f_alpha_divergence_coef counts only with f_divergence_type: alpha_divergence"
        )
    if given.get("discopop_tau", 0.05) != 0.05 and loss != "discopop":
        yield _violation("discopop_tau", "discopop_tau counts only with loss_type: discopop")
    if loss == "sft":
        for key in ("use_weighting", "ld_alpha"):
            if given.get(key) not in (None, False):
                yield _violation(key, f"{key} weighs preferences, and loss_type sft has none; remove it")


def _reference(given: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[Violation]:
    if given.get("sync_ref_model") is True:
        if given.get("precompute_ref_log_probs") is True:
            yield _violation(
                "sync_ref_model",
                "sync_ref_model moves the reference model, so its log probabilities cannot be computed before; remove "
                "one of sync_ref_model and precompute_ref_log_probs",
            )
        if _section(spec, "peft_conf").get("peft_type", "NO_PEFT") != "NO_PEFT":
            yield _violation(
                "sync_ref_model",
                "sync_ref_model needs peft_type: NO_PEFT; with an adapter the reference is the model without it, "
                "which cannot move",
            )
        return
    for key, default in (("ref_model_mixup_alpha", 0.6), ("ref_model_sync_steps", 512)):
        if given.get(key, default) != default:
            yield _violation(key, f"{key} counts only with sync_ref_model: true")


def _data(data: Mapping[str, Any]) -> Iterator[Violation]:
    if data.get("chat_template_name") == "none":
        yield Violation(
            ("data_conf", "chat_template_name"),
            "method dpo trains on conversations and needs a chat template; none is for rows of pairs",
        )
    for key in ("input_key", "output_key"):
        if data.get(key) is not None:
            yield Violation(
                ("data_conf", key),
                f"rows of method dpo are prompt_messages, chosen_messages and rejected_messages; remove {key}",
            )
    for name in ("training_data", "validation_data"):
        if _section(data, name).get("data_type", "ChatConversation") not in (None, "ChatConversation"):
            yield Violation(("data_conf", name, "data_type"), "data_type follows from the method; remove it")


def _violation(key: str, message: str) -> Violation:
    return Violation(("dpo_args", key), message)


def _section(spec: Any, name: str) -> Mapping[str, Any]:
    found = spec.get(name) if isinstance(spec, Mapping) else None
    return found if isinstance(found, Mapping) else {}
