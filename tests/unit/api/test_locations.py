"""Every form of path that a manifest may name."""

from typing import Any

import pytest

from finetune_api.locations import Location, LocationError, data_path, model_key, parse_location
from finetune_api.spec import FineTuneJobSpec


@pytest.mark.parametrize(
    ("text", "location", "uri"),
    [
        ("/data/a.jsonl", Location("local", "", "/data/a.jsonl"), "/data/a.jsonl"),
        ("file:///data/a.jsonl", Location("local", "", "/data/a.jsonl"), "/data/a.jsonl"),
        ("s3://bucket/dir/a.jsonl", Location("s3", "bucket", "dir/a.jsonl"), "s3://bucket/dir/a.jsonl"),
        ("bucket/dir/a.jsonl", Location("s3", "bucket", "dir/a.jsonl"), "s3://bucket/dir/a.jsonl"),
        ("bucket/dir/", Location("s3", "bucket", "dir"), "s3://bucket/dir"),
        ("gs://b/x", Location("gs", "b", "x"), "gs://b/x"),
        ("az://c/x", Location("az", "c", "x"), "az://c/x"),
        ("hf://org/name", Location("hf", "org/name", ""), "hf://org/name"),
        ("hf://gpt2", Location("hf", "gpt2", ""), "hf://gpt2"),
        ("hf://org/name/sub", Location("hf", "org/name", "sub"), "hf://org/name/sub"),
        ("hf://datasets/org/n/a.jsonl", Location("hf", "datasets/org/n", "a.jsonl"), "hf://datasets/org/n/a.jsonl"),
        ("https://host/a.jsonl?x=1", Location("https", "host", "a.jsonl?x=1"), "https://host/a.jsonl?x=1"),
        ("pvc://claim/dir", Location("pvc", "claim", "dir"), "pvc://claim/dir"),
        ("pvc://claim", Location("pvc", "claim", ""), "pvc://claim"),
        ("configmap://name/key", Location("configmap", "name", "key"), "configmap://name/key"),
        ("hf://datasets/org/n", Location("hf", "datasets/org/n", ""), "hf://datasets/org/n"),
        ("dataset://dialogues.v2", Location("dataset", "dialogues.v2", ""), "dataset://dialogues.v2"),
    ],
)
def test_forms(text: str, location: Location, uri: str) -> None:
    assert parse_location(text) == location
    assert location.uri == uri
    assert parse_location(uri) == location


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://host/a", "unknown scheme"),
        ("s3://", "write s3://bucket/path"),
        ("configmap://name", "write configmap://name/key"),
        ("configmap://name/a/b", "names no key"),
        ("hf://datasets/org", "write hf://org/name"),
        ("https://user:pw@host/a", "credentials do not belong"),
        ("s3://bucket/../other", "name the place itself"),
        ("dataset://name/train", "a dataset's name is all; write dataset://name"),
        ("dataset://", "write dataset://name"),
        ("dataset://Team_1", "cannot be the name of an object in the cluster"),
        ("pvc://-x/a", "cannot be the name of an object in the cluster"),
    ],
)
def test_what_names_nothing_says_what_to_write(text: str, said: str) -> None:
    with pytest.raises(LocationError, match=said):
        parse_location(text)


def test_data_paths_do_not_collide() -> None:
    """a/b_c and a_b/c became one file in the engine's chart."""
    paths = {data_path(uri, "/workdir") for uri in ("s3://a/b_c.jsonl", "s3://a_b/c.jsonl", "s3://a/x/c.jsonl")}
    assert len(paths) == 3
    assert all(path.startswith("/workdir/data/") for path in paths)


def test_data_paths_are_stable() -> None:
    assert data_path("bucket/a.jsonl", "/workdir") == data_path("s3://bucket/a.jsonl", "/workdir")
    assert data_path("/mine/a.jsonl", "/workdir") == "/mine/a.jsonl"
    assert data_path("https://host/d/a.jsonl?token=1", "/workdir").endswith("-a.jsonl")


def test_model_key_depends_on_what_decides_the_files(spec: dict[str, Any]) -> None:
    def key(**changes: Any) -> str:
        return model_key(FineTuneJobSpec.model_validate({**spec, **changes}))

    base = key()
    assert len(base) == 16
    assert key(finetuningGpus=4) == base
    others = {
        key(basemodel="hf://org/other"),
        key(run_conf={"model_args": {"revision": "v2"}}),
        key(hfDownloadExcludeGlob="*.bin"),
    }
    assert len(others | {base}) == 4


def test_nobody_puts_another_model_under_the_key_of_the_same_uri(spec: dict[str, Any]) -> None:
    """The cache is shared by a namespace: what leads the download elsewhere is part of the key."""

    def key(**changes: Any) -> str:
        return model_key(FineTuneJobSpec.model_validate({**spec, "basemodel": "s3://models/llama", **changes}))

    keys = {
        key(),
        key(bucketStorageHost="https://evil.example.com"),
        key(httpsProxy="http://evil.example.com"),
        key(caBundleConfigMap={"name": "evil"}),
        key(env=[{"name": "AWS_ENDPOINT_URL", "value": "https://evil.example.com"}]),
        key(env=[{"name": "https_proxy", "value": "https://evil.example.com"}]),
        key(env=[{"name": "AWS_ENDPOINT_URL_S3", "valueFrom": {"configMapKeyRef": {"name": "evil", "key": "x"}}}]),
    }
    assert len(keys) == 7
    assert key(env=[{"name": "EXTRA", "value": "1"}]) == key()
