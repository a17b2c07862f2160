"""Conversations in files to batches of token ids: what the loop and the download pod import.

Nothing here imports torch or transformers until `collate` is called: the download pod uses the rest.
"""

from finetune_trainer.data.collate import collate
from finetune_trainer.data.example import IGNORED, Example
from finetune_trainer.data.from_job_config import TrainingData, load_training_data, padded_length, prepare_tokenizer
from finetune_trainer.data.light_tokenizer import LightTokenizer
from finetune_trainer.data.preparing import PreparedTokenizer

__all__ = [
    "IGNORED",
    "Example",
    "LightTokenizer",
    "PreparedTokenizer",
    "TrainingData",
    "collate",
    "load_training_data",
    "padded_length",
    "prepare_tokenizer",
]
