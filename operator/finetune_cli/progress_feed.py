"""Reads the trainer's /progress on this machine, as the operator does in the cluster: bounded, patient, never fatal."""

from __future__ import annotations

import http.client
import json
from typing import Any

from finetune_api import constants

TIMEOUT = 2.0


class ProgressFeed:
    """The newest report of the trainer at one address."""

    def __init__(self, address: str) -> None:
        self._address = address

    def newest(self) -> dict[str, Any] | None:
        """What /progress says now; None while nobody answers (the trainer still starts, or is done)."""
        connection = http.client.HTTPConnection(self._address, constants.PROGRESS_PORT, timeout=TIMEOUT)
        try:
            connection.request("GET", "/progress")
            response = connection.getresponse()
            if response.status != 200:
                return None
            report: dict[str, Any] = json.loads(response.read(constants.PROGRESS_MAX_BYTES))
            return report
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
