"""Following one object over HTTP: watch events, a forgotten resourceVersion, a lost connection, refusals."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from finetune_cli import kube_client
from finetune_cli.kube_client import ApiError, KubeClient, Unreachable, follow
from finetune_cli.kubeconfig import Connection


def listing(version, *items):
    return {"metadata": {"resourceVersion": version}, "items": list(items)}


def event(kind, version, **content):
    return {"type": kind, "object": {"metadata": {"resourceVersion": version}, **content}}


@pytest.fixture
def server():
    """An API server that gives the next scripted answer to each request and remembers the queries."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.queries.append({k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()})
            answer = self.server.script.pop(0)
            status, lines = answer if isinstance(answer, tuple) else (200, answer)
            body = "\n".join(json.dumps(line) for line in lines)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.script, httpd.queries = [], []
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def client(server):
    return KubeClient(Connection(f"http://127.0.0.1:{server.server_address[1]}"))


def test_follows_changes_from_the_listed_version(server, client):
    server.script += [
        [listing("5", {"phase": "a"})],
        [event("BOOKMARK", "7"), event("MODIFIED", "9", phase="b")],
        [event("DELETED", "11")],
    ]
    objects = follow(client, "/jobs", "x", pytest.fail)
    assert next(objects)["phase"] == "a"
    assert next(objects)["phase"] == "b"
    assert next(objects) is None
    assert [q.get("resourceVersion") for q in server.queries] == [None, "5", "9"]
    assert {q["fieldSelector"] for q in server.queries} == {"metadata.name=x"}


def test_a_forgotten_version_is_read_anew(server, client):
    server.script += [
        [listing("5", {"phase": "a"})],
        [{"type": "ERROR", "object": {"code": 410}}],
        [listing("50", {"phase": "b"})],
    ]
    objects = follow(client, "/jobs", "x", pytest.fail)
    assert [next(objects)["phase"], next(objects)["phase"]] == ["a", "b"]


def test_a_broken_watch_is_told_and_taken_up_again(server, client, monkeypatch):
    monkeypatch.setattr(kube_client, "FIRST_RETRY", 0.01)
    server.script += [
        [listing("5", {"phase": "a"})],
        [{"type": "ERROR", "object": {"code": 500, "message": "etcd is gone"}}],
        [listing("6", {"phase": "b"})],
    ]
    told = []
    objects = follow(client, "/jobs", "x", told.append)
    assert [next(objects)["phase"], next(objects)["phase"]] == ["a", "b"]
    assert len(told) == 1
    assert "etcd is gone" in told[0]


def test_a_refusal_carries_the_servers_words(server, client):
    server.script += [(403, [{"kind": "Status", "reason": "Forbidden", "message": "you may not"}])]
    with pytest.raises(ApiError, match="you may not") as refusal:
        next(follow(client, "/jobs", "x", pytest.fail))
    assert (refusal.value.status, refusal.value.reason) == (403, "Forbidden")


def test_no_server_is_said_at_once():
    with pytest.raises(Unreachable, match="does not answer"):
        next(follow(KubeClient(Connection("http://127.0.0.1:1")), "/jobs", "x", pytest.fail))
