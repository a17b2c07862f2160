"""Preference learning (method dpo) as an objective: pairs become batches of both answers, losses are means over pairs.

Both answers go through the model in one forward pass: the chosen ones in a batch's first half, the rejected ones in
its second. What the reference model says of them is computed along, or once before training (reference_log_probs.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from finetune_trainer.data import IGNORED, Example
from finetune_trainer.data.preference import Preference
from finetune_trainer.train.batches import Examples, MicroBatch, Padding
from finetune_trainer.train.loss import target_logits
from finetune_trainer.train.objective import Objective, Sums
from finetune_trainer.train.preference_loss import Answers, PreferenceSettings, pair_losses, scores, weighs_tokens
from finetune_trainer.train.reference import FrozenCopy, Reference, as_reference
from finetune_trainer.train.sampler import FILLER

METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


@dataclass(frozen=True)
class Sync:
    """TR-DPO: every so many steps the reference moves by a share of the way towards the trained model."""

    steps: int
    share: float


@dataclass(frozen=True)
class KnownPair:
    """A pair with the reference's log probabilities of its answers, if they were computed before."""

    pair: Preference
    reference: tuple[float, float] | None


class Pairs(Examples):
    """Pairs with what the loop asks of each. A pair's length is that of both its sequences."""

    def __init__(
        self,
        rows: Sequence[Preference],
        padding: Padding,
        *,
        by_tokens: bool,
        reference: Sequence[tuple[float, float]] | None,
    ) -> None:
        super().__init__([], padding)
        self._rows = rows
        self._reference = reference
        empty = Example([padding.pad_input_id] * 2, [IGNORED] * 2)
        self._nothing = Preference(empty, empty)
        self.lengths = [len(pair) for pair in rows]
        self.weights = [pair.chosen.trained_tokens if by_tokens else 1 for pair in rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Any:
        if row == FILLER:
            return KnownPair(self._nothing, None if self._reference is None else (0.0, 0.0))
        return KnownPair(self._rows[row], None if self._reference is None else self._reference[row])

    def collate(self, examples: Sequence[Any]) -> MicroBatch:
        """The chosen sequences, then the rejected ones, as one padded batch."""
        sides = [known.pair.chosen for known in examples] + [known.pair.rejected for known in examples]
        batch = super().collate(sides)
        if self._reference is None:
            return batch
        known = [known.reference[0] for known in examples] + [known.reference[1] for known in examples]
        return replace(batch, reference=torch.tensor(known, dtype=torch.float32))


class PreferenceLearning(Objective):
    """The loss of pairs. `plain` is the model that is not wrapped for data parallelism, with which the reference
    speaks; reference None: its log probabilities come with the batches."""

    metrics = METRICS

    def __init__(
        self,
        plain: Any,
        padding: Padding,
        settings: PreferenceSettings,
        reference: Reference | None,
        *,
        sync: Sync | None = None,
    ) -> None:
        self._plain = plain
        self._padding = padding
        self._settings = settings
        self._reference = reference
        self._sync = sync

    def examples(self, rows: Sequence[Preference], reference: Sequence[tuple[float, float]] | None = None) -> Examples:
        by_tokens = weighs_tokens(self._settings.loss_type)
        return Pairs(rows, self._padding, by_tokens=by_tokens, reference=reference)

    def sums(self, model: Any, batch: MicroBatch, *, training: bool) -> Sums:
        known = batch.reference
        if known is None:
            known = self.reference_log_probs(batch)
        told = _tell(model, batch, self._settings)
        ratios = told.log_probs - known
        told_scores = scores(ratios, self._settings)
        chosen, rejected = (
            Answers(*side)
            for side in zip(
                ratios.chunk(2), told_scores.chunk(2), told.lengths.chunk(2), told.whole.chunk(2), strict=True
            )
        )
        losses = pair_losses(chosen, rejected, self._settings)
        if told.weights is not None:
            won, lost = told.weights.chunk(2)
            losses = losses * (won * lost)
        real = (chosen.lengths > 0).to(losses.dtype)  # not a filler
        with torch.no_grad():
            rewards = self._settings.beta * ratios.detach()
            won, lost = rewards.chunk(2)
            of_chosen, of_rejected = told.log_probs.detach().chunk(2)
            measured = torch.stack((won, lost, (won > lost).to(won.dtype), won - lost, of_chosen, of_rejected))
            metrics = (measured * real).double().sum(dim=1)
        return Sums((losses * real).sum(), metrics)

    def reference_log_probs(self, batch: MicroBatch) -> torch.Tensor:
        """What the reference says of each sequence of a batch."""
        assert self._reference is not None
        with as_reference(self._plain, self._reference, batch.input_ids.device):
            return _tell(self._plain, batch, self._settings).log_probs

    # --- a reference that moves --------------------------------------------------------------------------------------

    def after_step(self, step: int) -> None:
        if self._sync is not None and isinstance(self._reference, FrozenCopy) and step % self._sync.steps == 0:
            self._reference.follow(self._sync.share)

    def save(self, folder: Path) -> None:
        if self._sync is not None and isinstance(self._reference, FrozenCopy):
            self._reference.save(folder)

    def load(self, folder: Path) -> None:
        if self._sync is not None and isinstance(self._reference, FrozenCopy):
            self._reference.load(folder)


@dataclass(frozen=True)
class _Told:
    """What a model says of each sequence: the log probability of its answer (tokens beyond the shorter answer weighed
    by ld_alpha), the answer's length, its log probability with all tokens alike, and its WPO weight, if asked for."""

    log_probs: torch.Tensor
    lengths: torch.Tensor
    whole: torch.Tensor
    weights: torch.Tensor | None


def _tell(model: Any, batch: MicroBatch, settings: PreferenceSettings) -> _Told:
    rows, length = batch.input_ids.shape
    logits = target_logits(model, batch)

    def by_row(values: torch.Tensor) -> torch.Tensor:
        """Values of targets at their places, 0 elsewhere; places are distinct, so no order of adding matters."""
        flat = torch.zeros(rows * length, dtype=values.dtype, device=values.device)
        return flat.index_copy(0, batch.target_positions, values).view(rows, length)

    tokens = by_row(-functional.cross_entropy(logits, batch.target_ids, reduction="none"))
    is_target = by_row(torch.ones_like(batch.target_ids))
    lengths = is_target.sum(dim=1)
    whole = tokens.sum(dim=1)
    log_probs = whole
    if settings.ld_alpha is not None:
        shared = torch.minimum(*lengths.chunk(2)).repeat(2)
        beyond = is_target.cumsum(dim=1) > shared.unsqueeze(1)
        log_probs = torch.where(beyond, settings.ld_alpha * tokens, tokens).sum(dim=1)
    weights = None
    if settings.use_weighting:
        with torch.no_grad():
            expected = by_row(torch.logsumexp(2 * functional.log_softmax(logits, dim=-1), dim=-1))
            weights = torch.exp((tokens - expected).sum(dim=1) / lengths.clamp(min=1))
    return _Told(log_probs, lengths, whole, weights)


def disable_dropout(model: Any) -> None:
    """No dropout anywhere: modules, and the shares that attention and feed-forward code read as plain numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
