"""The service as a process: its end, its limits, its page in a browser, its replicas."""

import asyncio
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sartor.core import DataError
from sartor.serve.client import Client
from sartor.serve.guard import guarded
from sartor.serve.loadtest import LoadSettings, Outcome, draw_load, load_test, summarise
from sartor.serve.server import ServerSettings, is_loopback

TOKEN = "0123456789abcdef-token"
ADMIN = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x.org", False)],
)
def test_loopback_is_the_default_and_the_limit(host, loopback):
    assert is_loopback(host) == loopback
    assert is_loopback(ServerSettings().host)
    if not loopback:
        with pytest.raises(DataError, match="another machine"):
            Client(f"http://{host}:80")
    with pytest.raises(DataError, match="not http"):
        Client(f"https://{host}")
    with pytest.raises(DataError, match="port"):
        ServerSettings(host=host, port=0)


def test_reports_count_every_outcome(tmp_path):
    rows = [
        Outcome(at_s=0, ms=10, status=200, accuracy=0.9, point="a"),
        Outcome(at_s=1, ms=90, status=200, accuracy=0.7, point="b"),
        Outcome(at_s=2, ms=1, status=503, reason="full"),
        Outcome(at_s=3, ms=1, status=503, reason="late"),
        Outcome(at_s=4, ms=0, status=0, reason="timeout"),
        Outcome(at_s=4, ms=0, status=-1),
        Outcome(at_s=5, ms=1, status=422),
    ]
    report = summarise(rows, 50.0, LoadSettings(seconds=10, images=4))
    counts = (report.sent, report.answered, report.in_time, report.refused, report.dropped)
    assert counts == (7, 2, 1, 1, 1) and (report.lost, report.errors) == (2, 1)
    assert report.attainment == 1 / 5 and report.goodput == 0.1 and report.images_per_s == 0.4
    assert report.accuracy == pytest.approx(0.8) and report.max_ms == 90
    assert summarise([], 50.0, LoadSettings()).attainment is None
    draw_load(rows, 50.0, tmp_path / "load.svg")
    assert (tmp_path / "load.svg").read_text().count("<svg") == 1


def test_connections_over_the_limit_and_silent_ones_are_closed():
    class Protocol:
        def __init__(self, connections):
            self.connections, self.cycle, self.transport = connections, None, None

        def connection_made(self, transport):
            self.connections.add(self)
            self.transport = transport

        def connection_lost(self, error):
            self.connections.discard(self)

    class Transport:
        def __init__(self):
            self.written, self.closed = b"", False

        def write(self, data):
            self.written += data

        def close(self):
            self.closed = True

        abort = close

    async def main():
        kind, connections = guarded(Protocol, max_connections=2, header_s=0.01), set()
        made = [(kind(connections), Transport()) for _ in range(3)]
        for protocol, transport in made:
            protocol.connection_made(transport)
        assert len(connections) == 2 and made[2][1].written.startswith(b"HTTP/1.1 503")
        head, body = made[2][1].written.split(b"\r\n\r\n")
        assert int(re.search(rb"content-length: (\d+)", head)[1]) == len(body)
        made[0][0].cycle = object()  # its request came
        await asyncio.sleep(0.05)
        assert [transport.closed for _, transport in made] == [False, True, True]

    asyncio.run(main())


@contextmanager
def served(run, *words, stop=True):
    """Start ``sartor serve`` and give (process, port) once it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from sartor.cli.main import main; main()", "serve", str(run)]
    environment = {**os.environ, "SARTOR_ADMIN_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--port", str(port), *words], env=environment)
    try:
        for _ in range(600):
            assert process.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield process, port
    finally:
        process.kill()
        process.wait()


def url(port):
    return f"http://127.0.0.1:{port}"


async def send(port, verb, path, *more):
    client = Client(url(port))
    try:
        return await client.send(verb, path, *more)
    finally:
        client.close()


@pytest.mark.slow
def test_a_signal_under_load_loses_no_request(tiny_run):
    async def main(process, port):
        settings = LoadSettings(rate=100, seconds=4, images=4, slo_ms=2000)
        running = asyncio.create_task(load_test(Client(url(port)), settings))
        await asyncio.sleep(2)
        sent, began = time.perf_counter(), time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(process.wait, 12)
        return await running, code, time.monotonic() - began, sent

    with served(tiny_run, "--slo-ms", "2000", "--drain-s", "5") as (process, port):
        (report, outcomes), code, seconds, _ = asyncio.run(main(process, port))
    assert code in (0, -signal.SIGTERM) and seconds < 7
    assert report.errors == 0 and report.answered > 100
    # once the door is closed, connections are refused, or reset if they waited to be accepted;
    # nothing that was taken is lost
    lost = {o.reason for o in outcomes if o.status == 0}
    assert lost <= {"ConnectionRefusedError", "ConnectionResetError"}
    assert report.dropped == sum(o.status == 503 and o.reason == "closing" for o in outcomes)


@pytest.mark.slow
def test_a_reload_under_load_drops_no_request(tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "copy")

    async def main(port):
        settings = LoadSettings(rate=60, seconds=6, images=2, slo_ms=5000)
        running = asyncio.create_task(load_test(Client(url(port)), settings))
        await asyncio.sleep(1)
        body = json.dumps({"run": str(copy)}).encode()
        reply = await send(port, "POST", "/reload", body, ADMIN)
        return (await running)[0], reply

    with served(tiny_run, "--slo-ms", "5000") as (_, port):
        report, reply = asyncio.run(main(port))
    assert reply.status == 200 and reply.json()["run"] == str(copy)
    assert report.answered == report.sent


@pytest.mark.slow
def test_ten_thousand_slow_clients_cost_bounded_memory(tiny_run):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 400), hard))

    async def slow(port):
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /predict HTTP/1.1\r\nhost: x\r\n")
            await asyncio.sleep(3)
            first = await asyncio.wait_for(reader.read(12), 1)
        except (OSError, asyncio.TimeoutError):
            return b""
        finally:
            if writer is not None:
                writer.close()
        return first

    async def main(process, port):
        statm = Path(f"/proc/{process.pid}/statm")
        before = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        clients = [asyncio.create_task(slow(port)) for _ in range(count)]
        await asyncio.sleep(2)
        during = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        replies = await asyncio.gather(*clients)
        await asyncio.sleep(1)
        health = await send(port, "GET", "/healthz")
        return during - before, replies, health.status

    try:
        with served(tiny_run, "--slo-ms", "1000") as (process, port):
            grown, replies, health = asyncio.run(main(process, port))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert health == 200 and grown < 200e6
    assert sum(reply.startswith(b"HTTP/1.1 503") for reply in replies) > count / 2


@pytest.mark.slow
def test_the_page_draws_updates_and_shows_a_pin(tiny_run, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no headless browser on this machine")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'b'}"]

    def page(port, *more):
        done = subprocess.run(
            [browser, *flags, "--virtual-time-budget=6000", *more, url(port)],
            capture_output=True,
            timeout=90,
        )
        return re.sub("<script>.*</script>", "", done.stdout.decode(), flags=re.DOTALL)

    async def pin(port, point):
        body = json.dumps({"pin": point}).encode()
        assert (await send(port, "POST", "/config", body, ADMIN)).status == 200

    with served(tiny_run, "--slo-ms", "500") as (_, port):
        free = page(port, "--dump-dom")
        asyncio.run(pin(port, "p0"))
        pinned = page(port, "--dump-dom")
        shot = Path(os.environ.get("SARTOR_SCREENSHOT", tmp_path / "page.png"))
        page(port, f"--screenshot={shot}", "--window-size=1000,900")
    assert shot.stat().st_size > 10_000
    assert "pinned to p0" in pinned and "pinned to" not in free
    for dom in (free, pinned):
        drawn = [m.split() for m in re.findall(r'<polyline points="([^"]*)"', dom)]
        assert max(map(len, drawn)) >= 3  # it updated
        assert "POST /predict" in dom and "no answer" not in dom
        assert dom.count("<td>p") >= 2


@pytest.mark.slow
def test_two_replicas_on_ray(tiny_run, tmp_path):
    pytest.importorskip("ray")
    script = tmp_path / "on_ray.py"
    script.write_text(
        f"""
import asyncio, ray
from pathlib import Path
from ray import serve
from sartor.serve import EngineSettings, PolicySettings
from sartor.serve.client import Client
from sartor.serve.loadtest import LoadSettings, load_test
from sartor.serve.ray_app import RaySettings, serve_on_ray

ray.init(include_dashboard=False, num_cpus=2, object_store_memory=100_000_000)
settings = EngineSettings(policy=PolicySettings(slo_ms=5000), measure_seconds=0.0)
scale = RaySettings(port=8377, min_replicas=2, max_replicas=2, cpus=0.5)
serve_on_ray(Path({str(tiny_run)!r}), settings, scale)
load = LoadSettings(rate=20, seconds=4, images=2, slo_ms=5000)
report, _ = asyncio.run(load_test(Client("http://127.0.0.1:8377"), load))
replicas = serve.status().applications["sartor"].deployments["sartor"].replica_states
print("RESULT", report.sent, report.answered, sum(replicas.values()))
serve.shutdown()
ray.shutdown()
"""
    )
    home = {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, **home},
        capture_output=True,
        text=True,
        timeout=240,
    )
    found = re.search(r"RESULT (\d+) (\d+) (\d+)", done.stdout)
    assert found, done.stderr[-2000:]
    sent, answered, replicas = map(int, found.groups())
    assert sent == answered > 40 and replicas == 2


@pytest.mark.slow
def test_the_service_adds_little_at_batch_one(tiny_run):
    async def main(port):
        client, times = Client(url(port)), []
        buffer = io.BytesIO()
        np.save(buffer, np.zeros((1, 1, 8, 8), np.float32))
        kind = {"content-type": "application/x-npy"}
        for _ in range(500):
            began = time.perf_counter()
            reply = await client.send("POST", "/predict", buffer.getvalue(), kind)
            times.append((time.perf_counter() - began) * 1e3 - reply.json()["run_ms"])
        client.close()
        return float(np.median(times))

    with served(tiny_run, "--slo-ms", "500") as (_, port):
        overhead = asyncio.run(main(port))
    sys.stdout.write(f"median overhead at batch 1: {overhead:.2f} ms\n")
    assert overhead < 5  # 1.5 ms on a quiet machine; see docs/serving.md
