"""Where the cluster is and who we are: the parts of a kubeconfig that a client needs.

The `kubernetes` package takes four seconds to import here; this reads the same files in a few milliseconds, merged as
kubectl merges them (KUBECONFIG may name several files, the first that names a thing wins), with certificates, tokens,
basic authentication, exec plugins, proxies, and the service account of a pod where there is no file.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_cli.errors import CliError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PLUGIN_TIMEOUT = 60.0
Documents = list[tuple[Path, dict[str, Any]]]  # each file and its content


@dataclass(frozen=True)
class Connection:
    """An API server and the credentials for it; certificates are PEM text."""

    server: str
    namespace: str = "default"
    ca: str | None = None
    verify: bool = True
    server_name: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    proxy: str | None = None


def kubeconfig_paths(explicit: str | None = None) -> list[Path]:
    """The files to read, in order: --kubeconfig, else KUBECONFIG's list, else ~/.kube/config."""
    if explicit:
        return [Path(explicit)]
    from_environment = os.environ.get("KUBECONFIG", "")
    if from_environment:
        return [Path(part) for part in from_environment.split(os.pathsep) if part]
    return [Path.home() / ".kube" / "config"]


def load_connection(explicit: str | None = None, context: str | None = None) -> Connection:
    """The connection that kubectl would use.

    Raises:
        CliError: no kubeconfig, or one that names no such context, cluster or user.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    paths = kubeconfig_paths(explicit)
    documents: Documents = []
    for path in paths:
        if path.is_file():
            try:
                documents.append((path, yaml.load(path.read_text(), Loader=loader) or {}))
            except (OSError, yaml.YAMLError) as cause:
                raise CliError(f"cannot read the kubeconfig {path}: {cause}") from cause
    if documents:
        return _from_documents(documents, context)
    if explicit is None and context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return _in_cluster()
    raise CliError(
        f"no kubeconfig at {', '.join(map(str, paths))}: set KUBECONFIG, give --kubeconfig, or start a local cluster"
        " with `make cluster-up` (its kubeconfig is .localcluster/kubeconfig)"
    )


def _from_documents(documents: Documents, context: str | None) -> Connection:
    name = context or next((d["current-context"] for _, d in documents if d.get("current-context")), None)
    if not name:
        raise CliError("the kubeconfig has no current-context: give --context")
    chosen, _ = _find(documents, "contexts", name, "context")
    cluster, cluster_home = _find(documents, "clusters", chosen.get("cluster", ""), "cluster")
    user, user_home = _find(documents, "users", chosen["user"], "user") if chosen.get("user") else ({}, Path())
    if not cluster.get("server"):
        raise CliError(f"cluster {chosen.get('cluster')!r} of the kubeconfig has no server")
    certificate = _pem(user, "client-certificate", user_home)
    key = _pem(user, "client-key", user_home)
    headers, plugin = _authorization(user, user_home)
    return Connection(
        server=cluster["server"].rstrip("/"),
        namespace=chosen.get("namespace") or "default",
        ca=_pem(cluster, "certificate-authority", cluster_home),
        verify=not cluster.get("insecure-skip-tls-verify", False),
        server_name=cluster.get("tls-server-name"),
        client_certificate=plugin.get("clientCertificateData") or certificate,
        client_key=plugin.get("clientKeyData") or key,
        headers=headers,
        proxy=cluster.get("proxy-url"),
    )


def _find(documents: Documents, section: str, name: str, kind: str) -> tuple[dict[str, Any], Path]:
    """The entry called `name`, and the folder its relative paths start from."""
    known = []
    for path, document in documents:
        for entry in document.get(section) or []:
            known.append(str(entry.get("name")))
            if entry.get("name") == name:
                return entry.get(kind) or {}, path.parent
    raise CliError(f"the kubeconfig has no {kind} {name!r}; it has {', '.join(known) or 'none'}")


def _pem(section: dict[str, Any], key: str, home: Path) -> str | None:
    if section.get(f"{key}-data"):
        return base64.b64decode(section[f"{key}-data"]).decode()
    if section.get(key):
        return _read(home / section[key])
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as cause:
        raise CliError(f"the kubeconfig names {path}, which cannot be read: {cause.strerror}") from cause


def _authorization(user: dict[str, Any], home: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The Authorization header, and an exec plugin's status (it may bring a certificate)."""
    token = user.get("token")
    plugin: dict[str, str] = {}
    if user.get("tokenFile"):
        token = _read(home / user["tokenFile"]).strip()
    if user.get("exec"):
        plugin = _run_plugin(user["exec"])
        token = plugin.get("token") or token
    if token:
        return {"Authorization": f"Bearer {token}"}, plugin
    if user.get("username"):
        pair = base64.b64encode(f"{user['username']}:{user.get('password', '')}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}, plugin
    return {}, plugin


def _run_plugin(plugin: dict[str, Any]) -> dict[str, str]:
    """Ask a client-go credential plugin (cloud providers' kubeconfigs have one) for a credential."""
    command = [plugin["command"], *(plugin.get("args") or [])]
    environment = {**os.environ, **{pair["name"]: pair["value"] for pair in plugin.get("env") or []}}
    request = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(request)
    try:
        result = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, timeout=PLUGIN_TIMEOUT, check=True
        )
        return dict(json.loads(result.stdout).get("status") or {})
    except FileNotFoundError as cause:
        hint = f": {plugin['installHint']}" if plugin.get("installHint") else ""
        raise CliError(f"the kubeconfig's credential plugin {command[0]} is not installed{hint}") from cause
    except (subprocess.SubprocessError, ValueError) as cause:
        raise CliError(f"the kubeconfig's credential plugin {command[0]} failed: {cause}") from cause


def _in_cluster() -> Connection:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return Connection(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=_read(SERVICE_ACCOUNT / "namespace").strip(),
        ca=_read(SERVICE_ACCOUNT / "ca.crt"),
        headers={"Authorization": f"Bearer {_read(SERVICE_ACCOUNT / 'token').strip()}"},
    )
