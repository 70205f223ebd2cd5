"""An S3-speaking server on loopback, for tests: ``.cache/s3/bin/python .ci/s3_server.py``.

moto's server, in this process: the S3 protocol over HTTP, with AWS Signature V4 checked against the keys that it has
given out, and `If-None-Match` obeyed. What it is not: durable, or the code that anybody keeps backups on. Requests are
answered one at a time, because moto looks whether an object is there and writes it in two steps, which S3 does in one.
It prints one JSON line with its endpoint, the keys and the bucket, and ends when its standard input does, so that it
cannot outlive its parent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

# Three requests make the user below; every one after them has to be signed.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "3"

import boto3
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

BUCKET = "snapshots"
REGION = "us-east-1"
MAY = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:CreateBucket"]


class OneAtATime:
    """Answers requests in order."""

    def __init__(self) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        """Answer one request whole."""
        with self._lock:
            return list(self._application(environ, start_response))


def main() -> None:
    """Serve until standard input ends."""
    server = make_server("127.0.0.1", 0, OneAtATime(), threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    where = {"endpoint_url": endpoint, "region_name": REGION}
    iam = boto3.client("iam", aws_access_key_id="first", aws_secret_access_key="first", **where)
    iam.create_user(UserName="frys")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": MAY, "Resource": "*"}]}
    iam.put_user_policy(UserName="frys", PolicyName="snapshots", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="frys")["AccessKey"]
    access, secret = key["AccessKeyId"], key["SecretAccessKey"]
    boto3.client("s3", aws_access_key_id=access, aws_secret_access_key=secret, **where).create_bucket(Bucket=BUCKET)
    told = {"endpoint": endpoint, "access_key": access, "secret_key": secret, "bucket": BUCKET, "region": REGION}
    print(json.dumps(told), flush=True)
    sys.stdin.read()
    server.shutdown()


if __name__ == "__main__":
    main()
