"""Talking to the API server with plain dicts over aiohttp: a third of the CPU of typed models (ADR, measured)."""
