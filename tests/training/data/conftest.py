"""Tokenizers made in memory, of the two kinds that models have: byte-level BPE (Llama 3, Qwen, GPT-2) and BPE over
words with a leading space mark (Llama 2, Mistral). Small, and saved as transformers saves them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "What is AI? Artificial intelligence is the science of machines that think.",
    "Hello! How are you doing? I am doing well, how about you?",
    "system user assistant [INST] [/INST] <<SYS>> <</SYS>>",
    'She said "hello", and (then) left: 3.14 + 2 = 5.14\n\nEnd.\n',
] * 20
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def _byte_level(special: list[str], vocabulary: int) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    return backend


def _words(special: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*special, *byte_tokens], show_progress=False)
    backend.train_from_iterator(TEXT, trainer)
    return backend


def _put_bos(backend: Tokenizer) -> Tokenizer:
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return backend


def _save(folder: Path, backend: Tokenizer, **settings: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **NAMES, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.fixture(scope="session")
def tokenizers_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tokenizer folders: bytes (no merges), merged (byte-level BPE that puts BOS), words (Llama 2's kind,
    puts BOS), padded (has a padding token, no BOS), chatty (knows chat-ml's tokens)."""
    root = tmp_path_factory.mktemp("tokenizers")
    basic = ["<s>", "</s>", "<unk>"]
    _save(root / "bytes", _byte_level(basic, 259))
    _save(root / "merged", _put_bos(_byte_level(basic, 700)))
    _save(root / "words", _put_bos(_words(basic)))
    _save(root / "padded", _byte_level([*basic, "<pad>"], 400), pad_token="<pad>", bos_token=None)
    _save(root / "chatty", _put_bos(_byte_level([*basic, "<|im_start|>", "<|im_end|>"], 700)))
    return root


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint of an S3 server with an empty bucket `data`, named by the environment."""
    from botocore.session import get_session

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "demo")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "demo-secret")
    requests.post(f"{s3_server}/moto-api/reset", timeout=10)
    client = get_session().create_client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.create_bucket(Bucket="data")
    return s3_server


@pytest.fixture
def s3_with_keys(s3: str) -> Iterator[str]:
    """The same server, but now it checks keys: those in the environment are wrong."""
    requests.post(f"{s3}/moto-api/reset-auth", data=b"0", timeout=10)
    yield s3
    requests.post(f"{s3}/moto-api/reset-auth", data=b"inf", timeout=10)
