"""Load test of `raygan serve` on this machine: `python benchmarks/serve.py`, some minutes on two cores.

Images of mixed sizes are sent by concurrent clients, while a replica is killed now and then. Beside them, in the same
run: the same images one after the other through `denoise_file`, without HTTP and without Ray.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import numpy as np
import pyvips

from raygan.inference.denoiser import Denoiser
from raygan.inference.image_file import denoise_file

SIZES = ((64, 64), (64, 64), (128, 128), (128, 128), (256, 256), (320, 480), (640, 960))
REPLICA = "ray::ServeReplica:raygan:Denoising"


def images() -> list[bytes]:
    """JPEG files of all sizes."""
    draw = np.random.default_rng(0)
    found = []
    for height, width in SIZES:
        smooth = draw.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
        clean = np.asarray(pyvips.Image.new_from_array(smooth).resize(16).numpy(), dtype=float)
        noisy = (clean + draw.normal(0, 20, clean.shape)).clip(0, 255).astype(np.uint8)
        found.append(pyvips.Image.new_from_array(noisy).write_to_buffer(".jpg"))
    return found


def replicas() -> list[int]:
    """Processes that compute."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(REPLICA.encode()):
                found.append(int(path.parent.name))
    return found


def memory() -> float:
    """Resident memory of all replicas, in MB."""
    total = 0
    for pid in replicas():
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            total += int(match.group(1)) if (match := re.search(r"VmRSS:\s+(\d+)", status)) else 0
    return total / 1024


async def load(url: str, files: list[bytes], requests: int, clients: int) -> tuple[list[float], list[int], list[float]]:
    """The seconds of all requests, their statuses, 0 without an answer, and the memory before and after each fifth."""
    waiting = iter(random.Random(0).choices(files, k=requests))
    seconds: list[float] = []
    statuses: list[int] = []
    megabytes = [memory()]

    async def client(session: aiohttp.ClientSession) -> None:
        for content in waiting:
            started = time.perf_counter()
            try:
                async with session.post(url, data=content) as response:
                    await response.read()
                    statuses.append(response.status)
            except aiohttp.ClientError:
                statuses.append(0)
            seconds.append(time.perf_counter() - started)
            if len(seconds) % (requests // 5) == 0:
                megabytes.append(memory())

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return seconds, statuses, megabytes


async def kill_replicas(every: float, killed: list[int]) -> None:
    """Kill a replica again and again."""
    while True:
        await asyncio.sleep(every)
        if pids := replicas():
            os.kill(random.choice(pids), signal.SIGKILL)
            killed.append(1)


async def measure(url: str, options: argparse.Namespace) -> None:
    """Print a row without and one with lost replicas."""
    files = images()
    denoiser = Denoiser.from_pretrained(options.denoiser)
    sample = random.Random(0).choices(files, k=max(20, options.requests // 20))
    started = time.perf_counter()
    for content in sample:
        denoise_file(denoiser, content, ".jpg")
    direct = len(sample) / (time.perf_counter() - started)
    columns = "| | requests | per second | of one process | p50 s | p95 s | lost | replicas killed"
    print(f"{columns} | MB before, after each fifth |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    print(f"| one process, no HTTP | {len(sample)} | {direct:.1f} | 1.00 | | | | | |", flush=True)
    await load(url, files, 100, options.clients)
    for name, requests, every in (("served", options.requests, None), ("replicas lost", options.requests // 4, 20.0)):
        killed: list[int] = []
        killer = asyncio.create_task(kill_replicas(every, killed)) if every else None
        started = time.perf_counter()
        seconds, statuses, megabytes = await load(url, files, requests, options.clients)
        rate = requests / (time.perf_counter() - started)
        if killer is not None:
            killer.cancel()
        p50, p95 = np.percentile(seconds, [50, 95])
        lost = sum(status != 200 for status in statuses)
        row = f"{requests} | {rate:.1f} | {rate / direct:.2f} | {p50:.2f} | {p95:.2f} | {lost} | {len(killed)}"
        print(f"| {name} | {row} | {', '.join(f'{each:.0f}' for each in megabytes)} |", flush=True)


def main() -> None:
    """Start the service, and measure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--denoiser", default="small")
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [str(Path(sys.executable).with_name("raygan")), "serve", "--denoisers", options.denoiser, "--port", port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("Ctrl-C" in line for line in process.stdout)
        try:
            asyncio.run(measure(f"http://127.0.0.1:{port}/denoise", options))
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
