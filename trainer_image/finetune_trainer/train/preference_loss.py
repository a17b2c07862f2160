"""The losses of preference learning, each as a number per pair, by the names of TRL's DPOConfig.

All of them are functions of how much more likely the model makes an answer than the reference model does. A pair's loss
depends on that pair alone, so that sums over any split of a batch add up to the same; losses that compare the pairs of
a batch with one another (aot, aot_unpaired) therefore have no place here. tests/training/test_dpo_losses.py holds every
one to TRL's trainer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class PreferenceSettings:
    """dpo_args, as far as the loss takes them."""

    loss_type: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    ld_alpha: float | None = None
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    use_weighting: bool = False
    discopop_tau: float = 0.05


@dataclass(frozen=True)
class Answers:
    """One side of all pairs: log ratios of model and reference, scores (ratios through the f-divergence), lengths in
    tokens, and the log probability of all tokens together (ld_alpha not applied)."""

    ratios: torch.Tensor
    scores: torch.Tensor
    lengths: torch.Tensor
    whole: torch.Tensor


def pair_losses(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    """The loss of each pair."""
    return _LOSSES[settings.loss_type](chosen, rejected, settings)


def scores(ratios: torch.Tensor, settings: PreferenceSettings) -> torch.Tensor:
    """f'(t) of the divergence f at t = model / reference; the log ratio itself for reverse KL."""
    kind, alpha = settings.f_divergence_type, settings.f_alpha_divergence_coef
    if kind == "forward_kl":
        return 1 - torch.exp(-ratios)
    if kind == "js_divergence":
        return math.log(2) + logsigmoid(ratios)
    if kind == "alpha_divergence" and abs(alpha - 1.0) >= 1e-6:
        exponent = torch.clamp((alpha - 1.0) * ratios, max=80.0)  # beyond it exp leaves fp32
        return (torch.exp(exponent) - 1.0) / (alpha - 1.0)
    return ratios


def _sigmoid(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    return -logsigmoid(settings.beta * (chosen.scores - rejected.scores))


def _sigmoid_norm(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    return -logsigmoid(settings.beta * (_per_token(chosen) - _per_token(rejected)))


def _hinge(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    return torch.relu(1 - settings.beta * (chosen.scores - rejected.scores))


def _ipo(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    """Over means per token, as its authors computed it: sums would grow with the answers' lengths."""
    return (_per_token(chosen) - _per_token(rejected) - 1 / (2 * settings.beta)) ** 2


def _per_token(answers: Answers) -> torch.Tensor:
    return answers.scores / answers.lengths.clamp(min=1)


def _exo_pair(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    """KL from the model's preference to the smoothed label, which must not be 0 or 1."""
    logits = settings.beta * (chosen.scores - rejected.scores)
    won = torch.sigmoid(logits) * (logsigmoid(logits) - math.log1p(-settings.label_smoothing))
    lost = torch.sigmoid(-logits) * (logsigmoid(-logits) - math.log(settings.label_smoothing))
    return won + lost


def _nca_pair(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    won, lost = settings.beta * chosen.ratios, settings.beta * rejected.ratios
    return -logsigmoid(won) - 0.5 * logsigmoid(-won) - 0.5 * logsigmoid(-lost)


def _robust(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    """Unbiased where a share label_smoothing of the labels is flipped."""
    logits, flipped = settings.beta * (chosen.scores - rejected.scores), settings.label_smoothing
    return (-(1 - flipped) * logsigmoid(logits) + flipped * logsigmoid(-logits)) / (1 - 2 * flipped)


def _bco_pair(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    return -logsigmoid(settings.beta * chosen.ratios) - logsigmoid(-settings.beta * rejected.ratios)


def _sppo_hard(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    return (chosen.ratios - 0.5 / settings.beta) ** 2 + (rejected.ratios + 0.5 / settings.beta) ** 2


def _apo_zero(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    return 1 - torch.sigmoid(settings.beta * chosen.ratios) + torch.sigmoid(settings.beta * rejected.ratios)


def _apo_down(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    margin = settings.beta * (chosen.ratios - rejected.ratios)
    return torch.sigmoid(settings.beta * chosen.ratios) + 1 - torch.sigmoid(margin)


def _discopop(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    logits = settings.beta * (chosen.scores - rejected.scores)
    share = torch.sigmoid(logits / settings.discopop_tau)
    return -logsigmoid(logits) * (1 - share) + torch.exp(-logits) * share


def _sft(chosen: Answers, rejected: Answers, settings: PreferenceSettings) -> torch.Tensor:
    """Cross-entropy of the chosen answers; a mean over their tokens, not over pairs (see weighs_tokens)."""
    return -chosen.whole


_LOSSES: dict[str, Callable[[Answers, Answers, PreferenceSettings], torch.Tensor]] = {
    "sigmoid": _sigmoid,
    "sigmoid_norm": _sigmoid_norm,
    "hinge": _hinge,
    "ipo": _ipo,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "robust": _robust,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
    "sft": _sft,
}


def weighs_tokens(loss_type: str) -> bool:
    """Whether the loss is a mean over the chosen answers' tokens instead of over pairs."""
    return loss_type == "sft"
