"""sft_args.overlength pack: what fits where, and that packed documents are trained as if each were alone."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.data.example import IGNORED, Example
from finetune_trainer.data.packing import fit, pack, pieces
from finetune_trainer.errors import BadConfiguration

ROWS = st.lists(
    st.lists(st.tuples(st.integers(3, 9), st.booleans()), min_size=1, max_size=25).map(
        lambda tokens: Example([token for token, _ in tokens], [token if on else IGNORED for token, on in tokens])
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([10], [[0]]),
        ([5, 5, 5], [[0, 1], [2]]),
        ([6, 3, 4, 7], [[0, 2], [1, 3]]),  # 7 opens, 6 opens, 4 fits beside 6 only, 3 beside 7
        ([8, 7, 2, 3], [[0, 2], [1, 3]]),  # 3 goes to the fuller sequence that still holds it, not to the first
        ([1] * 11, [list(range(10)), [10]]),
    ],
)
def test_best_fit_decreasing(lengths: list[int], groups: list[list[int]]) -> None:
    assert fit(lengths, 10) == groups


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=60))
def test_every_item_is_in_one_group_that_has_room(lengths: list[int]) -> None:
    groups = fit(lengths, 20)
    assert sorted(item for group in groups for item in group) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in group) <= 20 for group in groups)
    assert groups == fit(list(lengths), 20)
    half_full = [group for group in groups if sum(lengths[item] for item in group) <= 10]
    assert len(half_full) <= 1  # two of them would have been one


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(2, 12))
def test_nothing_trained_is_lost_but_what_begins_a_document(rows: list[Example], limit: int) -> None:
    """What packed sequences train, document by document, is what the rows' pieces would train alone."""
    packed = pack(rows, limit)
    assert all(len(sequence) <= limit for sequence in packed)
    documents = [piece for row in rows for piece in pieces(row, limit)]
    assert sum(sequence.targets for sequence in packed) == sum(document.targets for document in documents)
    found = []
    for sequence in packed:
        ids, labels = sequence.input_ids, sequence.labels
        for start, end in zip(sequence.starts, (*sequence.starts[1:], len(sequence)), strict=True):
            assert start == 0 or labels[start] == IGNORED
            found.append((tuple(ids[start:end]), tuple(labels[start + 1 : end])))
    assert sorted(found) == sorted((tuple(one.input_ids), tuple(one.labels[1:])) for one in documents)


def test_a_long_row_is_cut_and_pieces_without_targets_are_left_out() -> None:
    row = Example(range(10, 21), [IGNORED] * 5 + [15, 16] + [IGNORED] * 3 + [20])
    assert [(piece.input_ids, piece.labels) for piece in pieces(row, 4)] == [
        ([14, 15, 16, 17], [IGNORED, 15, 16, IGNORED]),
        ([18, 19, 20], [IGNORED, IGNORED, 20]),
    ]


# --- with models ------------------------------------------------------------------------------------------------------


def documents(count: int, seed: int) -> list[Example]:
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        ids = [draw.randrange(5, 300) for _ in range(draw.randint(2, 20))]
        cut = draw.randrange(len(ids))
        made.append(Example(ids, [IGNORED] * cut + ids[cut:]))
    return made


def load(folder: Path, attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()


def alone(model: Any, rows: list[Example]) -> Any:
    """The summed loss of each row by itself, by hand."""
    import torch
    from torch.nn import functional

    losses = []
    for row in rows:
        logits = model(torch.tensor([row.input_ids]), use_cache=False).logits[0, :-1]
        labels = torch.tensor(row.labels[1:])
        losses.append(functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"))
    return torch.stack(losses)


def objective(side: str = "right", length: int | None = None, pad: int = 0) -> Any:
    from finetune_trainer.train.batches import Padding
    from finetune_trainer.train.objective import LanguageModelling

    return LanguageModelling(Padding(pad, side, True, length))


ARCHITECTURES = {
    "llama": {},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "mistral": {"sliding_window": 8},
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_those_of_the_documents_alone(
    architecture: str, attention: str, side: str, make_model: Any
) -> None:
    import torch

    model = load(make_model(architecture=architecture, **ARCHITECTURES[architecture]), attention)
    rows = documents(12, seed=5)
    total = alone(model, rows).sum()
    total.backward()
    expected = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    sequences = pack(rows, 40)
    assert 1 < len(sequences) < 6
    task = objective(side)
    examples = task.examples(sequences)
    assert sum(examples.weights) == sum(row.targets for row in rows)
    loss = task.sums(model, examples.collate(sequences), training=True).loss
    loss.backward()
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    for name, one in model.named_parameters():
        if one.grad is not None:
            torch.testing.assert_close(
                one.grad, expected[name], rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_no_document_sees_another(architecture: str, attention: str, make_model: Any) -> None:
    """Another first document changes nothing in the loss of the second; the same batch without positions leaks."""
    from dataclasses import replace

    import torch

    model = load(make_model(architecture=architecture, **ARCHITECTURES[architecture]), attention)
    first, other, second = [5, 6, 7, 8, 9], [50, 60, 70, 80, 90], [11, 12, 13, 14]

    def loss(before: list[int], **change: Any) -> float:
        sequence = Example.packed([Example(before, [IGNORED] * 5), Example(second, second)])
        task = objective()
        batch = replace(task.examples([sequence]).collate([sequence]), **change)
        with torch.no_grad():
            return task.sums(model, batch, training=False).loss.item()

    assert loss(first) == loss(other)
    assert abs(loss(first, position_ids=None) - loss(other, position_ids=None)) > 1e-4


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("packed", [False, True])
def test_neither_width_nor_side_nor_token_of_padding_changes_the_loss(packed: bool, side: str, make_model: Any) -> None:
    """What pads may be a token of the text (eos-repurpose, bos-repurpose, unk-repurpose, unk-convert-to-eos)."""
    model = load(make_model(), "sdpa")
    rows = documents(5, seed=3)
    expected = alone(model, rows).sum().item()
    sequences = pack(rows, 40) if packed else rows
    for length, pad in ((None, 0), (64, 0), (64, rows[0].input_ids[1]), (None, rows[0].input_ids[-1])):
        task = objective(side, length, pad)
        batch = task.examples(sequences).collate(sequences)
        assert batch.input_ids.shape[1] == (length or max(map(len, sequences)))
        assert task.sums(model, batch, training=True).loss.item() == pytest.approx(expected, rel=1e-5)


# --- models that cannot ----------------------------------------------------------------------------------------------


def check(model: Any, takes_positions: bool = True, precision: str = "fp32") -> None:
    import torch

    from finetune_trainer.train.documents import check_documents_apart

    check_documents_apart(model, takes_positions, torch.device("cpu"), precision)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_models_that_keep_documents_apart_are_known_by_trying(
    architecture: str, attention: str, make_model: Any
) -> None:
    model = load(make_model(architecture=architecture, **ARCHITECTURES[architecture]), attention).train()
    check(model)
    check(model, precision="bf16")
    assert model.training


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),  # its mask is made without the positions
        ("falcon", {}),
        ("jamba", {"num_experts": 2, "use_mamba_kernels": False}),  # a recurrent state goes through
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_models_that_leak_are_refused(architecture: str, sizes: dict[str, Any], precision: str) -> None:
    """What today's transformers does with these; a version that mends one fails here, and the row can go."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    common = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = AutoConfig.for_model(architecture, vocab_size=100, max_position_embeddings=64, **common, **sizes)
    with pytest.raises(BadConfiguration, match="a document would see the one before it"):
        check(AutoModelForCausalLM.from_config(config), precision=precision)


def test_an_attention_without_masks_is_refused(make_model: Any) -> None:
    """As flash attention is with more than one row in a batch: it is never told where a document begins."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("unmasked", sdpa_attention_forward)
    model = load(make_model(), "unmasked")
    with pytest.raises(BadConfiguration, match=r"overlength pack.*unmasked: a document would see the one before it"):
        check(model)


def test_prompt_learning_is_refused(make_model: Any) -> None:
    from peft import PromptTuningConfig, get_peft_model

    model = get_peft_model(load(make_model(), "sdpa"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(BadConfiguration, match=r"overlength pack.*use truncate or drop"):
        check(model)


def test_a_model_without_positions_is_refused(make_model: Any) -> None:
    with pytest.raises(BadConfiguration, match="takes no position_ids"):
        check(load(make_model(), "sdpa"), takes_positions=False)


# --- a whole job ------------------------------------------------------------------------------------------------------


def test_a_job_of_packed_rows_trains_as_the_rows_do(train_here: Any, make_config: Any, dialogues: Path) -> None:
    """With all rows in one step, packing changes nothing but the number of sequences."""

    def train(overlength: str) -> Any:
        config = make_config(
            training_args={"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 2},
            total=42,
            per_device=42,
            validation=dialogues,
            spec={"sft_args": {"max_seq_length": 128, "overlength": overlength, "padding": "max_length"}},
        )
        return train_here(config)

    plain, packed = train("drop"), train("pack")
    report = packed.report.dataset
    assert report.examples == report.validation_examples == plain.report.dataset.examples == 42
    assert report.target_tokens == plain.report.dataset.target_tokens
    assert report.packed_into < 21
    assert packed.losses == pytest.approx(plain.losses, rel=1e-5)
    assert packed.eval_losses == pytest.approx(plain.eval_losses, rel=1e-5)


def test_a_packed_job_that_was_stopped_goes_on_with_the_same_losses(train_here: Any, make_config: Any) -> None:
    """With an adapter's dropout, accumulation, padding on the left and rows that are cut into pieces."""
    config = make_config(
        lora={"r": 4, "lora_dropout": 0.1, "target_modules": "all-linear"},
        total=4,
        per_device=2,
        spec={"sft_args": {"max_seq_length": 44, "overlength": "pack"}},
    )
    config.spec["data_conf"]["padding_side"] = "left"
    whole = train_here(config)
    assert whole.report.dataset.truncated > 0
    assert whole.report.dataset.packed_into % 4 != 0  # the last batch of an epoch is filled
    stopped = train_here(config, stop_after=4)
    config.spec["run_conf"]["resume_from_checkpoint"] = "auto"
    assert train_here(config, work=stopped.work).losses == whole.losses
