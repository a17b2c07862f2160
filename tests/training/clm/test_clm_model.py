"""Document 004's model hyperparameters: dropout of a pretrained model, sizes of one that is trained from scratch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.errors import BadConfiguration, InputMissing
from finetune_trainer.train.fresh_model import Hyperparameters, build_model, changed_config, weight_shapes

SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 24, "vocab_size": 400}


@pytest.fixture(scope="module")
def config_only(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model without its weights."""
    folder = tmp_path_factory.mktemp("config-only")
    shutil.copytree(gpt2, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """folder_of(architecture, **settings) -> a folder with its config.json alone."""

    def make(architecture: str, **settings: Any) -> Path:
        from transformers import AutoConfig

        folder = tmp_path_factory.mktemp(architecture)
        AutoConfig.for_model(architecture, **settings).save_pretrained(folder)
        return folder

    return make


def test_from_scratch_trains_saves_and_resumes(
    train_here: Any, clm_job: Any, config_only: Path, text_file: Path
) -> None:
    """No weight files are read; the exported configuration has the changed sizes; resumed in the middle, dropout and
    all, the losses are the same; another seed gives another model."""
    from transformers import AutoModelForCausalLM

    def job(seed: int = 1) -> Any:
        return clm_job(
            config_only,
            text_file,
            training_args={"max_steps": 6, "seed": seed},
            run_conf={"from_scratch": True, "model_hyperparameters": {"dropout": 0.3, **SIZES}},
        )

    whole = train_here(job())
    assert whole.losses[6] < whole.losses[1]
    saved = AutoModelForCausalLM.from_pretrained(whole.final)
    assert saved.get_input_embeddings().weight.shape == (400, 24)
    written = json.loads((whole.final / "config.json").read_text())
    assert [written[key] for key in ("n_layer", "n_head", "attn_pdrop", "resid_pdrop", "embd_pdrop")] == [
        1,
        2,
        *[0.3] * 3,
    ]
    first = train_here(job(), stop_after=3)
    assert train_here(job(), work=first.work).losses == whole.losses
    assert train_here(job(seed=2)).losses[1] != whole.losses[1]


def test_dropout_of_a_pretrained_model(train_here: Any, clm_job: Any, gpt2: Path, text_file: Path) -> None:
    """The weights are the base model's, so the evaluation before the first step is too; training differs."""

    def run(dropout: float | None) -> Any:
        changed = {"model_hyperparameters": {"dropout": dropout}} if dropout is not None else {}
        arguments = {"max_steps": 1, "eval_strategy": "steps", "eval_on_start": True}
        return train_here(
            clm_job(gpt2, text_file, validation={"type": "AUTO_SPLIT"}, training_args=arguments, run_conf=changed)
        )

    plain, same, changed = run(None), run(0.0), run(0.4)
    assert same.losses == plain.losses
    assert changed.eval_losses[0] == plain.eval_losses[0]
    assert changed.losses[1] != plain.losses[1]


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("gpt2", {"attn_pdrop", "resid_pdrop", "embd_pdrop"}),
        ("llama", {"attention_dropout"}),
        ("opt", {"dropout", "attention_dropout"}),
        ("gpt_neox", {"attention_dropout", "hidden_dropout"}),
        ("phi", {"resid_pdrop", "embd_pdrop", "attention_dropout"}),
        ("starcoder2", {"residual_dropout", "embedding_dropout", "attention_dropout"}),
        ("biogpt", {"hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout"}),
    ],
)
def test_dropout_by_every_name_that_it_has(folder_of: Callable[..., Path], architecture: str, names: set[str]) -> None:
    """Exactly those change, none of a classifier's head; and the model that is built really drops."""
    import torch

    folder = folder_of(architecture)
    before = changed_config(folder, Hyperparameters()).to_dict()
    shape = {**SIZES, "vocab_size": 60, "num_attention_heads": 4, "hidden_size": 32}
    wanted = Hyperparameters(True, {"dropout": 0.37, **shape}, seed=1)
    config = changed_config(folder, wanted)
    assert {name for name, value in config.to_dict().items() if value == 0.37 and before[name] != 0.37} == names
    model = build_model(config, folder, 1, dtype=torch.float32, attention=None).train()
    ids = torch.arange(3, 13)[None]
    torch.manual_seed(1)
    assert not torch.equal(model(ids, use_cache=False).logits, model(ids, use_cache=False).logits)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "opt", "gpt_neox", "phi3", "gemma2", "falcon"])
def test_sizes_by_the_architectures_own_names(folder_of: Callable[..., Path], architecture: str) -> None:
    """The weights that are made have the sizes asked for, whatever the configuration calls them."""
    wanted = Hyperparameters(True, {**SIZES, "num_attention_heads": 4, "hidden_size": 64, "vocab_size": 352})
    config = changed_config(folder_of(architecture), wanted)
    shapes = weight_shapes(config)
    embedding = next(
        shape
        for name, shape in shapes.items()
        if name.endswith(("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight"))
    )
    assert embedding[0] == 352
    assert 64 in embedding
    layers = {part for name in shapes for part in name.split(".") if part.isdigit()}
    assert layers == {"0"}


@pytest.mark.parametrize(
    ("architecture", "settings", "expected"),
    [
        ("llama", {}, {"head_dim": 16, "num_key_value_heads": 4}),  # followed from the base model's sizes
        ("llama", {"num_key_value_heads": 2, "head_dim": 8}, {"head_dim": 8, "num_key_value_heads": 2}),  # chosen there
        ("gemma2", {}, {"head_dim": 256, "num_key_value_heads": 4}),
        ("qwen3", {"num_hidden_layers": 6}, {"layer_types": ["full_attention"] * 3}),
        ("opt", {}, {"word_embed_proj_dim": 64}),
    ],
)
def test_what_follows_from_a_size_follows(
    folder_of: Callable[..., Path], architecture: str, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Four heads, width 64, three layers: what the base model's configuration spelt out moves with them, unless
    it was a choice of its own."""
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 64}
    config = changed_config(folder_of(architecture, **settings), Hyperparameters(True, sizes)).to_dict()
    assert {key: config[key] for key in expected} == expected


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(folder_of: Callable[..., Path]) -> None:
    import torch

    config = changed_config(folder_of("llama"), Hyperparameters(True, {**SIZES, "num_key_value_heads": 1}))
    models = []
    for drawn in (0, 3):
        torch.manual_seed(drawn)
        before = torch.random.get_rng_state()
        models.append(build_model(config, Path("/nowhere"), 7, dtype=torch.float32, attention=None))
        assert torch.equal(torch.random.get_rng_state(), before)
    first, second = (list(model.parameters()) for model in models)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    other = build_model(config, Path("/nowhere"), 8, dtype=torch.float32, attention=None)
    assert not torch.equal(next(other.parameters()), first[0])


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("mamba", {"dropout": 0.1}, "dropout: the architecture mamba has no dropout"),
        (
            "gpt2",
            {"num_key_value_heads": 2},
            "num_key_value_heads: the architecture gpt2 has no such size; it has num_",
        ),
        ("gpt2", {"hidden_size": 50}, "hidden_size 50 is not divisible by num_attention_heads 12; 48 or 60 would be"),
        ("llama", {"num_attention_heads": 32, "num_key_value_heads": 5}, "is not divisible by num_key_value_heads 5"),
        ("gptj", {"hidden_size": 64, "num_attention_heads": 4}, "no gptj can be built with run_conf.model_hyperparam"),
        ("gemma3", {"hidden_size": 64}, "work with plain text models only, and gemma3 has several parts"),
        ("bart", {"dropout": 0.1}, "work with plain text models only, and bart has several parts"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder_of: Callable[..., Path], architecture: str, changes: dict[str, Any], message: str
) -> None:
    import torch

    small = {} if architecture != "gptj" else {"num_hidden_layers": 1, "vocab_size": 60}
    folder = folder_of(architecture)

    def build() -> None:
        config = changed_config(folder, Hyperparameters(True, {**small, **changes}))
        build_model(config, folder, 1, dtype=torch.float32, attention=None)

    with pytest.raises(BadConfiguration, match=message):
        build()


def test_the_download_accepts_a_model_without_weights(
    clm_job: Any, config_only: Path, text_file: Path, tmp_path: Path
) -> None:
    from finetune_trainer.download import Places, download

    def check(**run_conf: Any) -> Any:
        config = clm_job(config_only, text_file, training_args={"max_steps": 1}, run_conf=run_conf)
        return download(config, Places(tmp_path, config_only, tmp_path))

    assert check(from_scratch=True, model_hyperparameters=SIZES).exit_code == 0
    with pytest.raises(InputMissing, match="has no weights"):
        check()
    with pytest.raises(BadConfiguration, match=r"vocab_size is 100, but the tokenizer has \d+ tokens"):
        check(from_scratch=True, model_hyperparameters={"vocab_size": 100})
    with pytest.raises(BadConfiguration, match="hidden_size 33 is not divisible"):
        check(from_scratch=True, model_hyperparameters={"hidden_size": 33})


def test_training_refuses_a_vocabulary_without_room(
    train_here: Any, clm_job: Any, config_only: Path, text_file: Path
) -> None:
    config = clm_job(
        config_only, text_file, run_conf={"from_scratch": True, "model_hyperparameters": {"vocab_size": 100}}
    )
    with pytest.raises(BadConfiguration, match=r"model_hyperparameters.vocab_size is 100, but the tokenizer has"):
        train_here(config)


def test_more_tokens_than_positions(
    train_here: Any, clm_job: Any, gpt2: Path, base_model: Path, text_file: Path, tmp_path: Path
) -> None:
    """GPT-2 looks positions up in a table of 64: refused by the download pod and by training. Llama computes them:
    a notice."""
    from finetune_trainer.download import Places, download

    config = clm_job(gpt2, text_file, block_size=65, padding="max_length", training_args={"max_steps": 1})
    message = (
        r"the longest sequence has 65 tokens, but the model \(gpt2\) has 64 positions: make clm_args.block_size 64"
    )
    with pytest.raises(BadConfiguration, match=message):
        download(config, Places(tmp_path, gpt2, tmp_path))
    with pytest.raises(BadConfiguration, match=message):
        train_here(config)
    computed = clm_job(base_model, text_file, block_size=260, training_args={"max_steps": 1})
    told = [one for one in train_here(computed).notices if "was made for 256 (max_position_embeddings)" in one]
    assert len(told) == 1


def test_the_plan_counts_the_weights_that_will_be_made(
    clm_job: Any, config_only: Path, text_file: Path, tmp_path: Path
) -> None:
    from finetune_trainer.download import Places, download

    config = clm_job(
        config_only,
        text_file,
        training_args={"max_steps": 1, "optim": "adamw_torch"},
        run_conf={"from_scratch": True, "model_hyperparameters": SIZES},
    )
    elements = 400 * 24 + 64 * 24 + (12 * 24 * 24 + 13 * 24) + 2 * 24
    memory = download(config, Places(tmp_path, config_only, tmp_path)).dataset.memory
    assert (memory.weights, memory.optimizer) == (4 * elements, 8 * elements)
