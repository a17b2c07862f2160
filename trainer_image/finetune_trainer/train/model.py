"""The base model and its tokenizer: loading, placement, types of the weights, vocabulary."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finetune_api.placement import PlacementError, place
from finetune_trainer.errors import BadConfiguration, InputMissing
from finetune_trainer.train import fresh_model
from finetune_trainer.train.inputs import check_model_folder
from finetune_trainer.train.quantization import prepare_quantised, quantization_config, stored_elements
from finetune_trainer.train.settings import ModelSettings


def load_tokenizer(folder: Path, trusted: bool = False) -> Any:
    """The tokenizer in a folder; trusted: code beside it may run. Raises InputMissing or BadConfiguration."""
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise InputMissing(f"there is no tokenizer in {folder}; check basemodel and run_conf.tokenizer")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    except OSError as error:
        raise InputMissing(f"no tokenizer in {folder}: {_first_line(error)}; set run_conf.tokenizer") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadConfiguration(f"the tokenizer in {folder} cannot be loaded: {_first_line(error)}") from None


def load_model(
    folder: Path, settings: ModelSettings, *, device: torch.device, world_size: int, precision: str, trains_all: bool
) -> Any:
    """The base model on its device, ready to be trained.

    trains_all: all weights will be trained; they are then held in fp32 unless another type was asked for. Frozen
    weights keep the type of the checkpoint, except on CPU, which computes in fp32.
    Raises InputMissing or BadConfiguration.
    """
    from transformers import AutoModelForCausalLM

    path = folder / (settings.loading.get("subfolder") or "")
    check_model_folder(path)
    dtype: Any = settings.dtype
    if dtype == "auto" and (trains_all or (device.type == "cpu" and precision == "fp32")):
        dtype = "float32"
    _refuse_stored_quantised(path)
    arguments: dict[str, Any] = dict(settings.loading)
    device_map = _device_map(settings, device, world_size)
    if device_map is not None:
        arguments["device_map"] = device_map
    if settings.quantization is not None:
        arguments["quantization_config"] = quantization_config(settings.quantization)
    if settings.attention:
        arguments["attn_implementation"] = settings.attention
    wanted = settings.hyperparameters
    if wanted.wanted:
        config = fresh_model.changed_config(path, wanted, trusted=bool(settings.loading.get("trust_remote_code")))
        if wanted.from_scratch:
            model = fresh_model.build_model(
                config, path, wanted.seed, dtype=getattr(torch, dtype), attention=settings.attention
            )
            model.config.use_cache = False  # restored in the export
            return model.to(device)
        arguments["config"] = config
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
            **arguments,
        )
    except OSError as error:
        raise InputMissing(f"the model in {path} is incomplete: {_first_line(error)}") from None
    except (ValueError, KeyError, ImportError, RuntimeError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if isinstance(error, ImportError) and settings.attention:
            raise BadConfiguration(
                f"run_conf.model_args.attn_implementation {settings.attention} cannot be used here: "
                f"{_first_line(error)}; use sdpa, or an image that has it"
            ) from None
        raise BadConfiguration(f"the model in {path} cannot be loaded: {_first_line(error)}") from None
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            raise InputMissing(
                f"the weights in {path} are damaged ({_first_line(error)}); download the model again"
            ) from None
        raise
    _check_loaded(loaded, path)
    model.config.use_cache = False  # restored in the export
    if settings.quantization is not None:
        prepare_quantised(model, settings.quantization, mixed=precision != "fp32")
    elif device_map is None:
        model.to(device)
    return model


def load_original(folder: Path, settings: ModelSettings) -> Any:
    """The base model on the CPU, not quantised, in the type of its files: what an adapter is merged into."""
    plain = replace(settings, quantization=None, device_map=None, attention=None)
    return load_model(folder, plain, device=torch.device("cpu"), world_size=1, precision="as stored", trains_all=False)


def _device_map(settings: ModelSettings, device: torch.device, world_size: int) -> Any:
    try:
        return place(
            settings.device_map,
            processes=world_size,
            on_cpu=device.type == "cpu",
            local_rank=device.index or 0,
            quantised=settings.quantization is not None,
        )
    except PlacementError as error:
        raise BadConfiguration(f"run_conf.model_args.{error}") from None


def _refuse_stored_quantised(path: Path) -> None:
    """A model whose files are quantised already can be neither trained whole nor merged into."""
    stored = json.loads((path / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    if isinstance(stored, dict):
        kind = stored.get("quant_method") or "unknown"
        raise BadConfiguration(
            f"the weights in {path} are stored quantised ({kind}); use the original model as basemodel, and quant_conf "
            "to quantise it while it is loaded"
        )


def _check_loaded(loaded: dict[str, Any], path: Path) -> None:
    missing = sorted(loaded.get("missing_keys", ()))
    if missing:
        raise BadConfiguration(
            f"the checkpoint in {path} lacks {len(missing)} weights of a causal language model "
            f"({', '.join(missing[:3])}…); they would be random. Use a model for text generation"
        )
    wrong = loaded.get("mismatched_keys") or ()
    if wrong:
        raise BadConfiguration(f"weights in {path} do not fit its config.json: {sorted(map(str, wrong))[:3]}")


def stored_dtype(folder: Path, settings: ModelSettings) -> torch.dtype:
    """The type that the result's weights shall have: the one asked for, else that of the base model's files."""
    if settings.dtype != "auto":
        asked: torch.dtype = getattr(torch, settings.dtype)
        return asked
    config = json.loads(
        (folder / (settings.loading.get("subfolder") or "") / "config.json").read_text(encoding="utf-8")
    )
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    found = getattr(torch, str(name).removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) and found.is_floating_point else torch.float32


def grow_vocabulary(model: Any, tokens: int) -> bool:
    """Makes the embeddings large enough for the tokenizer; True if they grew. Drawn from the current random state."""
    if tokens <= model.get_input_embeddings().weight.shape[0]:
        return False
    model.resize_token_embeddings(tokens)
    return True


def save_memory(model: Any, settings: ModelSettings) -> None:
    """Gradient checkpointing, if wanted: activations are computed again in the backward pass."""
    if not settings.gradient_checkpointing:
        return
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise BadConfiguration(
            f"{type(model).__name__} has no gradient checkpointing; remove training_args.gradient_checkpointing"
        )
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings.gradient_checkpointing_kwargs)


def trainable_in_fp32(model: Any, asked: str) -> None:
    """Trained weights are fp32 unless another type was asked for: an update of 1e-5 is lost in bf16's 8 bits."""
    if asked in ("float16", "bfloat16"):
        return
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()


def count_parameters(model: Any) -> tuple[int, int]:
    """Trained and all parameters."""
    sizes = [(stored_elements(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:400]
