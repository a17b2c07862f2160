"""Puts the examples' base model and data into the buckets that their manifests name, and makes the buckets.

    python examples/fill_bucket.py --endpoint http://127.0.0.1:9000 \\
        --model .cache/demo/base-model --data .cache/demo/data

s3://models/tiny-llama, s3://datasets/<file> for each file of the data folder, and the empty bucket s3://checkpoints.
What lies there already with the same content stays. Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; without
them those of examples/bucket.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BUCKETS = ("models", "datasets", "checkpoints")
MODEL_PREFIX = "tiny-llama"


def connect(endpoint: str) -> Any:
    """An S3 client for the endpoint that fails within seconds if nothing answers there."""
    from botocore.config import Config
    from botocore.session import get_session

    return get_session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID", "demo"),
        aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY", "demo-secret"),
        config=Config(
            s3={"addressing_style": "path"}, connect_timeout=5, retries={"max_attempts": 5, "mode": "standard"}
        ),
    )


def make_buckets(client: Any) -> None:
    """Makes the buckets that are not there yet."""
    present = {bucket["Name"] for bucket in client.list_buckets().get("Buckets", [])}
    for name in BUCKETS:
        if name not in present:
            client.create_bucket(Bucket=name)


def uploads(model: Path, data: Path) -> Iterator[tuple[Path, str, str]]:
    """(file, bucket, key) of everything that belongs there."""
    for path in sorted(model.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            yield path, "models", f"{MODEL_PREFIX}/{path.name}"
    for path in sorted(data.rglob("*")):
        if path.is_file():
            yield path, "datasets", path.relative_to(data).as_posix()


def upload(client: Any, path: Path, bucket: str, key: str) -> bool:
    """Sends one file unless the bucket has the same content; returns whether it was sent."""
    content = path.read_bytes()
    found = client.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
    if any(entry["Key"] == key and entry["ETag"].strip('"') == hashlib.md5(content).hexdigest() for entry in found):
        return False
    client.put_object(Bucket=bucket, Key=key, Body=content)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Fill the examples' buckets.")
    parser.add_argument("--endpoint", required=True, help="URL of the S3 server")
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path, required=True, help="folder of the dialogues")
    args = parser.parse_args()
    from botocore.exceptions import BotoCoreError, ClientError

    if not (args.model / "config.json").is_file() or not any(args.data.glob("*.jsonl")):
        print(
            f"{args.model} or {args.data} is empty: run make_base_model.py and make_dialogues.py first", file=sys.stderr
        )
        return 1
    client = connect(args.endpoint)
    try:
        make_buckets(client)
        for path, bucket, key in uploads(args.model, args.data):
            sent = upload(client, path, bucket, key)
            print(f"s3://{bucket}/{key}: {'sent' if sent else 'there already'}", flush=True)
    except (BotoCoreError, ClientError) as error:
        print(f"{args.endpoint}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
