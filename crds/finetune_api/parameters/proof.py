"""Which tests show that a parameter works: (document, section, key) -> test ids, as pytest prints them."""

TESTS: dict[tuple[str, str, str], tuple[str, ...]] = {}
