"""Where the API server is and who we are: KUBECONFIG if set, else the pod's service account, else ~/.kube/config.

The same answer serves our own client and kopf's, so that both are always the same user. Tokens in files are read again
at use, since the kubelet renews them; certificates are loaded once.
"""

import base64
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_REREAD_SECONDS = 30.0


class ConfigError(Exception):
    """No usable way to the API server; the message says which file and which field."""


@dataclass
class KubeConfig:
    """Address and credentials. PEM contents are text; `token_file` wins over `token`."""

    server: str
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    token: str | None = None
    token_file: Path | None = None
    insecure: bool = False
    namespace: str = "default"
    _read_at: float = field(default=-TOKEN_REREAD_SECONDS, repr=False)

    def bearer_token(self) -> str | None:
        """The token to send now, read again from its file when it may have been renewed."""
        if self.token_file and time.monotonic() - self._read_at >= TOKEN_REREAD_SECONDS:
            self.token = self.token_file.read_text(encoding="utf-8").strip()
            self._read_at = time.monotonic()
        return self.token

    def ssl_context(self) -> ssl.SSLContext:
        """Trust and client certificate. OpenSSL takes certificate chains from files only."""
        context = ssl.create_default_context(cadata=self.ca) if self.ca else ssl.create_default_context()
        # Cluster CAs made by tools often lack the key usage extension that OpenSSL's strict mode demands.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate and self.key:
            with tempfile.TemporaryDirectory() as folder:
                pem = Path(folder, "client.pem")
                pem.touch(mode=0o600)
                pem.write_text(self.certificate + "\n" + self.key, encoding="utf-8")
                context.load_cert_chain(pem)
        return context


def load(env: Mapping[str, str] | None = None) -> KubeConfig:
    """The configuration of this process; raises ConfigError when there is none."""
    env = os.environ if env is None else env
    if env.get("KUBECONFIG"):
        return from_file(Path(env["KUBECONFIG"].split(os.pathsep)[0]).expanduser())
    if env.get("KUBERNETES_SERVICE_HOST") and (ACCOUNT_DIR / "token").exists():
        return _in_cluster(env)
    home = Path("~/.kube/config").expanduser()
    if home.exists():
        return from_file(home)
    raise ConfigError("no cluster: set KUBECONFIG to a kubeconfig file, or run in a pod with a service account")


def _in_cluster(env: Mapping[str, str]) -> KubeConfig:
    host, port = env["KUBERNETES_SERVICE_HOST"], env.get("KUBERNETES_SERVICE_PORT", "443")
    return KubeConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ca=(ACCOUNT_DIR / "ca.crt").read_text(encoding="utf-8"),
        token_file=ACCOUNT_DIR / "token",
        namespace=(ACCOUNT_DIR / "namespace").read_text(encoding="utf-8").strip(),
    )


def from_file(path: Path) -> KubeConfig:
    """The current context of a kubeconfig file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"cannot read the kubeconfig {path}: {error.strerror}") from None
    context = _named(content, "contexts", content.get("current-context"), "context", path)
    cluster = _named(content, "clusters", context.get("cluster"), "cluster", path)
    user = _named(content, "users", context.get("user"), "user", path)
    if "exec" in user or "auth-provider" in user:
        raise ConfigError(
            f"user {context.get('user')!r} in {path} gets its credentials from a plugin, which is not run here; "
            "use a token, a tokenFile or a client certificate"
        )
    token_file = user.get("tokenFile")
    return KubeConfig(
        server=cluster["server"],
        ca=_pem(cluster, "certificate-authority", path),
        certificate=_pem(user, "client-certificate", path),
        key=_pem(user, "client-key", path),
        token=user.get("token"),
        token_file=path.parent / token_file if token_file else None,
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        namespace=context.get("namespace") or "default",
    )


def _named(content: dict[str, Any], section: str, name: str | None, key: str, path: Path) -> dict[str, Any]:
    for item in content.get(section) or []:
        if item.get("name") == name:
            return item.get(key) or {}
    raise ConfigError(f"{path} has no {key} named {name!r}")


def _pem(section: dict[str, Any], key: str, path: Path) -> str | None:
    if data := section.get(f"{key}-data"):
        return base64.b64decode(str(data)).decode()
    file = section.get(key)
    return Path(path.parent, str(file)).read_text(encoding="utf-8") if file else None
