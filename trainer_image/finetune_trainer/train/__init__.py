"""Training: from a configuration and examples to an exported model. `run.py` reads top to bottom."""
