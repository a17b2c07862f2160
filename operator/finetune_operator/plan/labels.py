"""Labels that only the operator reads."""

from finetune_api import constants

# Which training (spec_hash) a child belongs to: after a changed spec, those of the one before are told apart.
LABEL_TRAINING = f"{constants.GROUP}/training"
