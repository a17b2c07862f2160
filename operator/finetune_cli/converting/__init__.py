"""`finetune convert`, one module per source: what another system's configuration says, as keys of a FineTuneJob."""
