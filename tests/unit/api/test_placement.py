"""Where a base model goes, for every device_map that a manifest can hold."""

from typing import Any

import pytest

from finetune_api.placement import PlacementError, place

CPU, ONE, DISTRIBUTED = (1, True), (1, False), (4, False)


@pytest.mark.parametrize(
    ("where", "wanted", "placed"),
    [
        (CPU, "auto", None),
        (CPU, None, None),
        (CPU, "cpu", None),
        (CPU, {"": "cpu"}, None),
        (DISTRIBUTED, "auto", None),
        (DISTRIBUTED, None, None),
        (ONE, None, {"": 0}),
        (ONE, "auto", {"": 0}),
        (ONE, "balanced", {"": 0}),
        (ONE, "balanced_low_0", {"": 0}),
        (ONE, "sequential", {"": 0}),
        (ONE, 0, {"": 0}),
        (ONE, "cuda:0", {"": 0}),
        (ONE, {"model.embed_tokens": 0, "model.layers": "cuda:0"}, {"": 0}),
    ],
)
def test_a_map_places_the_model(where: tuple[int, bool], wanted: Any, placed: Any) -> None:
    processes, on_cpu = where
    assert place(wanted, processes=processes, on_cpu=on_cpu) == placed


def test_a_quantised_model_is_loaded_onto_its_own_gpu() -> None:
    """It cannot be moved afterwards."""
    assert place("auto", processes=4, on_cpu=False, local_rank=3, quantised=True) == {"": 3}
    assert place("auto", processes=1, on_cpu=False, quantised=True) == {"": 0}
    assert place("auto", processes=2, on_cpu=True, quantised=True) is None


@pytest.mark.parametrize(
    ("where", "wanted", "words"),
    [
        (CPU, "cuda:0", "device_map cuda:0: the job trains on the CPU"),
        (CPU, {"": 0}, "device_map 0: the job trains on the CPU"),
        (CPU, "balanced", "device_map balanced"),
        (DISTRIBUTED, "balanced", "each holds the whole model on its own GPU"),
        (DISTRIBUTED, {"": 0}, "each holds the whole model on its own GPU"),
        (ONE, "cuda:1", "the process has one GPU"),
        (ONE, {"model": 0, "lm_head": "cpu"}, "device_map cpu"),
        (ONE, "cpu", "leave device_map out"),
        (ONE, {"model": 0, "lm_head": "disk"}, "device_map disk: the process has one GPU"),
    ],
)
def test_a_map_that_would_have_no_effect_is_refused(where: tuple[int, bool], wanted: Any, words: str) -> None:
    processes, on_cpu = where
    with pytest.raises(PlacementError, match=words):
        place(wanted, processes=processes, on_cpu=on_cpu)
