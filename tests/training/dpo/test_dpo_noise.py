"""Noise on embeddings beside a reference model: the trained model reads noisily, the reference never does."""

from typing import Any

import pytest


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapter"])
def test_noise_reaches_the_trained_model_only(train_here: Any, make_dpo: Any, lora: bool) -> None:
    """A reference computed before training, which no noise can have reached, gives the same losses."""

    def losses(**dpo_args: Any) -> dict[int, float]:
        arguments = {"max_steps": 3, "neftune_noise_alpha": 5.0}
        found: dict[int, float] = train_here(make_dpo(dpo_args, lora=lora, training_args=arguments)).losses
        return found

    noisy = losses()
    assert noisy == pytest.approx(losses(precompute_ref_log_probs=True), rel=1e-6)
    assert noisy[1] != pytest.approx(0.693147, rel=1e-4)  # what two equal models give
