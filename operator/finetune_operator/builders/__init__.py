"""Children of a FineTuneJob as plain dicts: pure functions of the resolved spec and the operator's settings."""
