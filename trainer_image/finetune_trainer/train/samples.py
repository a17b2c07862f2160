"""What the model writes at each evaluation: a few prompts answered greedily, to be read beside the falling loss.

Only rank 0 writes. Nothing random is drawn and no weight is touched, so the losses are those of a run without samples;
and a model that cannot write (or has no memory left to) is told about once, and trained on.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch

from finetune_trainer.data import PreparedTokenizer
from finetune_trainer.errors import BadConfiguration
from finetune_trainer.positions import positions_of, virtual_tokens
from finetune_trainer.train.adapters import base_of
from finetune_trainer.train.console import logger
from finetune_trainer.train.distributed import autocast

FILE = "samples.jsonl"  # in the records folder
SHOWN = 160  # characters of a prompt and of an answer in the log


@dataclass(frozen=True)
class Sample:
    """One prompt and what the model wrote after it, at a step."""

    step: int
    prompt: str
    output: str


def prompt_ids(tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    """A prompt as the model was trained to see it: a user's message and the mark of the answer, or the text alone.

    Raises BadConfiguration if the chat template does not take a user's message alone.
    """
    if not chat:
        return list(tokenizer(prompt)["input_ids"])
    messages = [{"role": "user", "content": prompt}]
    try:
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    except (jinja2.TemplateError, ValueError) as error:
        raise BadConfiguration(
            f"evaluation_conf.sample_prompts: the chat template refuses a single user's message ({error}); remove the "
            "prompts, or choose another data_conf.chat_template_name"
        ) from None
    return list(encoded["input_ids"])


class Sampler:
    """The prompts of a job, and where the answers go: the log, a file of the volume, and `publish` (MLflow).

    chat: prompts are users' messages. Raises BadConfiguration for a prompt that leaves the model no room to answer.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreparedTokenizer,
        prompts: Sequence[str],
        *,
        chat: bool,
        max_new_tokens: int,
        precision: str,
        folder: Path,
        publish: Callable[[str, str], None] = lambda name, text: None,
        notice: Callable[[str], None] = lambda text: None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._prompts = [(prompt, prompt_ids(tokenizer.tokenizer, prompt, chat)) for prompt in prompts]
        self._most = max_new_tokens
        self._precision = precision
        self._file = folder / FILE
        self._publish = publish
        self._notice = notice
        self._beat = beat
        self._works = True
        self._room = self._positions()
        for number, (_, ids) in enumerate(self._prompts):
            if self._room is not None and len(ids) >= self._room:
                raise BadConfiguration(
                    f"evaluation_conf.sample_prompts[{number}] has {len(ids)} tokens, but the model has {self._room} "
                    "positions: shorten it"
                )

    def _positions(self) -> int | None:
        """How many tokens a prompt and its answer may have; None: any number."""
        limit = positions_of(base_of(self._model).config.to_dict())
        return None if limit is None else limit - virtual_tokens(self._model)

    def begin(self, step: int) -> None:
        """Forgets what an attempt wrote beyond the step that this one begins at, and what an earlier job left."""
        kept = [line for line in self._lines() if step > 0 and json.loads(line)["step"] <= step]
        self._replace(kept)

    def write(self, step: int) -> list[Sample]:
        """Answers every prompt; logs, keeps and publishes the answers."""
        if not self._works:
            return []
        try:
            samples = [Sample(step, prompt, self._answer(ids)) for prompt, ids in self._prompts]
        except Exception as error:  # of any adapter or architecture; training itself is not concerned
            self._works = False
            self._notice(f"no samples: the model cannot generate ({type(error).__name__}: {str(error)[:300]})")
            return []
        for sample in samples:
            logger.info(f"sample at step {step}: {_short(sample.prompt)} -> {_short(sample.output)}")
        self._keep(step, samples)
        text = json.dumps([asdict(sample) for sample in samples], ensure_ascii=False, indent=1) + "\n"
        self._publish(f"samples/step-{step}.json", text)
        return samples

    def _answer(self, ids: list[int]) -> str:
        from transformers import GenerationConfig

        model, base = self._model, base_of(self._model)
        device = next(model.parameters()).device
        given = torch.tensor([ids], device=device)
        settings = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self._most if self._room is None else min(self._most, self._room - len(ids)),
            eos_token_id=list(self._tokenizer.stop_token_ids) or None,
            pad_token_id=self._tokenizer.pad_token_id,
            use_cache=not _needs_no_cache(model),
        )
        was_training, own = model.training, base.generation_config
        model.eval()
        base.generation_config = settings  # the base model's own might sample, or punish repetition
        try:
            with torch.no_grad(), autocast(device, self._precision):
                written = model.generate(
                    input_ids=given, attention_mask=torch.ones_like(given), generation_config=settings
                )
        finally:
            base.generation_config = own
            model.train(was_training)
        self._beat()
        text: str = self._tokenizer.tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True)
        return text

    # --- the file ---------------------------------------------------------------------------------------------------

    def _lines(self) -> list[str]:
        return self._file.read_text(encoding="utf-8").splitlines() if self._file.is_file() else []

    def _keep(self, step: int, samples: Sequence[Sample]) -> None:
        lines = self._lines()
        if lines and json.loads(lines[-1])["step"] >= step:  # an evaluation that is made again
            lines = [line for line in lines if json.loads(line)["step"] < step]
        self._replace([*lines, *(json.dumps(asdict(sample), ensure_ascii=False) for sample in samples)])

    def _replace(self, lines: Sequence[str]) -> None:
        if not lines:
            self._file.unlink(missing_ok=True)
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        aside = self._file.with_name(f".{self._file.name}.part")
        aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(aside, self._file)


def _needs_no_cache(model: Any) -> bool:
    """XLORA decides anew at each token which adapters speak; a cache would keep what others said."""
    return any(str(getattr(config, "peft_type", "")).endswith("XLORA") for config in _configs(model))


def _configs(model: Any) -> list[Any]:
    return list(getattr(model, "peft_config", {}).values())


def _short(text: str) -> str:
    return json.dumps(text if len(text) <= SHOWN else f"{text[:SHOWN]}…", ensure_ascii=False)
