"""Claim: at three times the load that the most accurate point sustains, the elastic service keeps
its objective and answers three times as many requests in time as the same server pinned to that
point, at nearly the same accuracy.

    OMP_NUM_THREADS=1 python benchmarks/serve/elastic.py RUN [--slo-ms 50] [--images 64]

One server process, one load process (this one). First the pinned server is loaded far beyond its
limit, and what it answers in time is the most accurate point's capacity. Then pinned and elastic
take turns at three times that rate and a little more, each in the same open-loop Poisson arrivals.
"""

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from sartor.serve.client import Client
from sartor.serve.loadtest import LoadSettings, load_test

TOKEN = "benchmark-token-of-this-run"
PORT = 8391


def parsed():
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--slo-ms", type=float, default=50.0)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--warmup", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


async def pin(point):
    client = Client(f"http://127.0.0.1:{PORT}")
    body = json.dumps({"pin": point}).encode()
    kind = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    reply = await client.send("POST", "/config", body, kind)
    assert reply.status == 200, reply.body
    client.close()


async def load(rate, seconds, given, seed):
    settings = LoadSettings(rate=rate, seconds=seconds, images=given.images, seed=seed)
    report, _ = await load_test(Client(f"http://127.0.0.1:{PORT}"), settings)
    return report


async def measure(given):
    client = Client(f"http://127.0.0.1:{PORT}")
    for _ in range(600):
        try:
            if (await client.send("GET", "/readyz")).status == 200:
                break
        except OSError:
            await asyncio.sleep(0.2)
    points = (await client.send("GET", "/frontier")).json()["points"]
    client.close()
    best = points[-1]
    ms = max(best["ms"].items(), key=lambda pair: int(pair[0]))
    guess = 1e3 * int(ms[0]) / ms[1] / given.images  # requests a second, if nothing else took time
    await pin(best["id"])
    await load(guess, given.warmup, given, 0)
    capacity = float(
        np.median(
            [(await load(1.5 * guess, given.seconds / 2, given, s)).goodput for s in range(3)]
        )
    )
    rate = given.factor * capacity
    rows = []
    for turn in range(given.rounds):
        for mode, point in (("pinned", best["id"]), ("elastic", None)):
            await pin(point)
            await load(rate, given.warmup, given, 100 + turn)  # not counted: the change itself
            report = await load(rate, given.seconds, given, turn)
            rows.append({"mode": mode, "load_1m": os.getloadavg()[0], **report.to_dict()})
            print_row(rows[-1])
    return {"best": best, "capacity": capacity, "rate": rate, "rows": rows}


def print_row(row):
    accuracy = row["accuracy"] or 0.0
    sys.stdout.write(
        f"{row['mode']:8} sent {row['sent']:6} in time {row['in_time']:6} of {row['answered']:6}, "
        f"refused {row['refused']:6} dropped {row['dropped']:4} lost {row['lost']}, "
        f"attainment {row['attainment'] or 0:.4f}, p50 {row['p50_ms'] or 0:.1f} p99 "
        f"{row['p99_ms'] or 0:.1f} ms, accuracy {accuracy:.4f}, load {row['load_1m']:.2f}\n"
    )
    sys.stdout.flush()


def main():
    given = parsed()
    gc.freeze()  # so that this process sends in time
    command = [str(Path(sys.executable).with_name("sartor")), "serve", str(given.run)]
    command += ["--slo-ms", str(given.slo_ms), "--port", str(PORT)]
    command += ["--max-batch", str(max(64, 4 * given.images))]
    environment = {**os.environ, "SARTOR_ADMIN_TOKEN": TOKEN}
    server = subprocess.Popen(command, env=environment)
    try:
        result = asyncio.run(measure(given))
    finally:
        server.terminate()
        server.wait(30)
    sums = {
        mode: sum(row["in_time"] for row in result["rows"] if row["mode"] == mode)
        for mode in ("pinned", "elastic")
    }
    elastic = [row for row in result["rows"] if row["mode"] == "elastic"]
    best = result["best"]["accuracy"]
    lost = best - float(np.mean([row["accuracy"] for row in elastic]))
    summary = {
        "best_point": result["best"]["id"],
        "capacity_requests_per_s": result["capacity"],
        "rate_requests_per_s": result["rate"],
        "in_time_ratio": sums["elastic"] / max(1, sums["pinned"]),
        "elastic_attainment": [row["attainment"] for row in elastic],
        "elastic_p99_ms": [row["p99_ms"] for row in elastic],
        "accuracy_lost": lost,
        "at": time.strftime("%Y-%m-%d"),
    }
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    if given.out:
        given.out.write_text(json.dumps({**summary, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
