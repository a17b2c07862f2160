"""Everything that writes generated files; kept apart so that validating a manifest never pays for it."""
