"""The demonstration's workflow: load digits in batches, each batch a durable step.

Given to the nodes as a user would give theirs: ``--workflows FILE.py``.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from typing import Any

from frys_node import step, workflow
from frys_node.demo.digits import load


@step(timeout=30)
def upsert_batch(job: dict[str, Any]) -> dict[str, int]:
    """Write one batch of digits to the collection and note that the body ran; a plain def runs in a thread."""
    digits = load()[job["first"] : job["last"]]
    points = [
        {"id": digit.id, "vector": list(digit.pixels), "payload": {"label": digit.label}}
        for digit in digits
        if digit.id % job["held_out_every"]
    ]
    connection = http.client.HTTPConnection("127.0.0.1", job["http_port"], timeout=25)
    try:
        path = f"/collections/{job['collection']}/points?wait=true"
        connection.request("PUT", path, json.dumps({"points": points}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"upsert answered {response.status}: {body[:200]!r}")
    time.sleep(job["pace_s"])
    # One line per body that ran to its end, so that the demonstration can show that no committed one ran twice.
    with open(job["ran_log"], "a") as log:
        log.write(f"{job['run']} {job['first']}\n")
        log.flush()
        os.fsync(log.fileno())
    return {"points": len(points)}


@workflow(name="ingest", version="1")
async def ingest(ctx: Any, job: dict[str, Any]) -> dict[str, int]:
    """Load every digit that is not held out; batches run one after the other."""
    total = 0
    for first in range(0, job["count"], job["batch"]):
        done = await upsert_batch({**job, "first": first, "last": min(first + job["batch"], job["count"])})
        total += done["points"]
    return {"points": total}
