"""What `helm test` runs in the operator's image: is the FineTuneJob API served, do operator and MLflow answer?

Standard library only, since it must not depend on what it checks. Arguments: the addresses to ask. Each check is
repeated until --seconds have passed, since `helm test` may follow `helm install` at once.
"""

import argparse
import json
import os
import ssl
import sys
import time
import urllib.request
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "/apis/finetune-operator.io/v1alpha1"


def fetch(url: str, token: str = "", authority: str | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    context = ssl.create_default_context(cafile=authority) if url.startswith("https:") else None
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5, context=context) as answer:
        return bytes(answer.read())


def api_is_served() -> str:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    token = (ACCOUNT / "token").read_text().strip()
    resources = json.loads(fetch(f"https://{host}:{port}{API}", token, str(ACCOUNT / "ca.crt")))["resources"]
    names = [resource["name"] for resource in resources]
    if "finetunejobs" not in names:
        raise LookupError(f"{API} serves {names}, not finetunejobs: is the CRD installed (crds.enabled)?")
    return f"{API} serves {', '.join(names)}"


def answers(url: str) -> str:
    fetch(url)
    return f"{url} answers"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    for name, check in [("API", api_is_served), *((url, lambda url=url: answers(url)) for url in arguments.urls)]:
        while True:
            try:
                print("ok:", check(), flush=True)
                break
            except (OSError, LookupError, ValueError) as error:  # URLError and HTTPError are OSErrors
                if time.monotonic() > deadline:
                    print(f"failed: {name}: {error}", flush=True)
                    return 1
                time.sleep(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
