"""The HTTP client of data from the web: it follows a redirect to no place that a manifest may not name.

Without this a page of the enemy's could send the download pod to the metadata service of its node, whose answer would
then lie among the data. A name that resolves there is not seen here: the network has to stop that (docs/security.md).
"""

from typing import Any
from urllib.parse import urljoin

from finetune_api.rules_security import METADATA_MESSAGE, metadata_host
from finetune_trainer.errors import BadConfiguration


async def get_client(**arguments: Any) -> Any:
    """What fsspec makes its sessions with."""
    import aiohttp

    async def check(session: Any, context: Any, redirect: Any) -> None:
        target = urljoin(str(redirect.url), redirect.response.headers.get("Location", ""))
        if metadata_host(target):
            raise BadConfiguration(f"{redirect.url} leads elsewhere: {METADATA_MESSAGE.format(url=target)}")

    watch = aiohttp.TraceConfig()
    watch.on_request_redirect.append(check)
    return aiohttp.ClientSession(trace_configs=[watch], **arguments)
