"""Reading a kubeconfig: the same cluster and credentials that kubectl would take."""

import base64
import json
import sys

import pytest
import yaml

from finetune_cli.errors import CliError
from finetune_cli.kubeconfig import load_connection


def config(**parts):
    document = {
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443/"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
    }
    return {**document, **parts}


@pytest.fixture
def write(tmp_path):
    def write(document, name="config"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(document))
        return str(path)

    return write


def user(**keys):
    return [{"name": "u", "user": keys}]


def test_server_namespace_and_token(write):
    connection = load_connection(write(config()))
    assert (connection.server, connection.namespace) == ("https://10.0.0.1:6443", "team")
    assert connection.headers == {"Authorization": "Bearer secret"}


def test_files_named_relative_to_the_kubeconfig_and_inline_data_are_read(write, tmp_path):
    (tmp_path / "client.crt").write_text("CERT")
    key = base64.b64encode(b"KEY").decode()
    path = write(config(users=user(**{"client-certificate": "client.crt", "client-key-data": key})))
    connection = load_connection(path)
    assert (connection.client_certificate, connection.client_key) == ("CERT", "KEY")


def test_several_files_merge_and_the_first_wins(write, monkeypatch):
    first = write({"current-context": "two", "contexts": [{"name": "two", "context": {"cluster": "c"}}]}, "first")
    second = write(config(), "second")
    monkeypatch.setenv("KUBECONFIG", f"{first}:{second}:/nowhere")
    connection = load_connection()
    assert (connection.server, connection.namespace, connection.headers) == ("https://10.0.0.1:6443", "default", {})


def test_credential_plugin(write):
    answer = json.dumps({"status": {"token": "fresh", "clientCertificateData": "C", "clientKeyData": "K"}})
    plugin = {"command": sys.executable, "args": ["-c", f"print({answer!r})"], "apiVersion": "v1"}
    connection = load_connection(write(config(users=user(exec=plugin))))
    assert connection.headers == {"Authorization": "Bearer fresh"}
    assert (connection.client_certificate, connection.client_key) == ("C", "K")


@pytest.mark.parametrize(
    ("document", "context", "words"),
    [
        (config(), "other", "no context 'other'; it has one"),
        (config(clusters=[]), None, "no cluster 'c'"),
        (config(**{"current-context": None}), None, "give --context"),
        (config(users=user(tokenFile="/nowhere/token")), None, "/nowhere/token"),
        (config(users=user(exec={"command": "no-such-plugin", "installHint": "get it"})), None, "get it"),
    ],
)
def test_says_what_is_missing(write, document, context, words):
    with pytest.raises(CliError, match=words):
        load_connection(write(document), context)


def test_no_kubeconfig_names_the_way_out(tmp_path):
    with pytest.raises(CliError, match="make cluster-up"):
        load_connection(str(tmp_path / "none"))
