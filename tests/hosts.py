"""Hosts of our own on this machine, joined by a network of their own, for tests of real clusters.

Each has its address, its processes, its temporary folder, home and name; files elsewhere are shared. They are Linux
namespaces: nothing of them is seen outside, and all of it ends with the test's process, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parents[1]
KINDS = ("--net", "--pid", "--mount", "--uts")
"""Which namespaces a host has of its own."""

# The first process of a host: it sets the host up, says so, and then adopts and buries what loses its parent.
FIRST_PROCESS = """
set -e
for path in {kept}; do mkdir -p {folder}/tmp"$path"; mount --bind "$path" {folder}/tmp"$path"; done
mount --rbind {folder}/tmp/tmp /tmp
for name in hosts passwd shadow resolv.conf; do mount --bind {folder}/etc/$name /etc/$name; done
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/sshd
echo {name} > /proc/sys/kernel/hostname
ip link set lo up
echo ready
while true; do sleep 3600 & wait; done
"""


@dataclass
class Host:
    """One host; commands run in it as root."""

    name: str
    address: str
    folder: Path
    process: int
    """Of the process that all others of the host end with, as this machine counts."""

    @property
    def home(self) -> Path:
        """Root's home, here and in the host."""
        return self.folder / "home"

    def start(
        self, *command: str | Path, output: IO[str] | int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a command in the project's folder; its output goes to a file, or is for `communicate`."""
        return subprocess.Popen(
            ["nsenter", f"--target={self.process}", *KINDS, "env", f"--chdir={ROOT}", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                "HOME": str(self.home),
                "PATH": f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG": "C.UTF-8",
                "TERM": "dumb",
                "PYTHONUNBUFFERED": "1",
                "RAY_AUTH_MODE": "token",
                "RAY_USAGE_STATS_ENABLED": "0",
                **environment,
            },
        )

    def run(self, *command: str | Path, timeout: float = 120, **environment: str) -> str:
        """Run a command to its end and give back what it printed; fails the test, showing that, unless it ends with 0.

        A command that leaves a server behind must not leave it the output.
        """
        with self.start(*command, **environment) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                pytest.fail(f"on {self.name}, not done after {timeout} s: {command}\n{output}", pytrace=False)
        if process.returncode:
            pytest.fail(f"on {self.name}, ended with {process.returncode}: {command}\n{output}", pytrace=False)
        return output

    def programs(self) -> list[str]:
        """The command lines of the host's processes."""
        namespace, found = os.readlink(f"/proc/{self.process}/ns/pid"), []
        for folder in Path("/proc").glob("[0-9]*"):
            # Others' processes end meanwhile, or are not for us to look at.
            with contextlib.suppress(OSError):
                if os.readlink(folder / "ns" / "pid") == namespace:
                    found.append((folder / "cmdline").read_text().replace("\0", " ").strip())
        return found

    def die(self) -> None:
        """As if its power failed: all its processes get SIGKILL, and not even their connections say so."""
        self.run("ip", "link", "set", "eth0", "down")
        os.kill(self.process, 9)


@contextlib.contextmanager
def hosts(folder: Path, *names: str) -> Iterator[list[Host]]:
    """Hosts of these names, each of which can reach the others by name or address, and nothing else.

    Skips the test, saying why, where there can be none.
    """
    require("ip", "unshare", "nsenter", "setpriv")
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(_namespaces("echo ready; sleep infinity"))
        _in_network(switch, "ip", "link", "add", "switch", "type", "bridge")
        _in_network(switch, "ip", "link", "set", "switch", "up")
        addresses = {name: f"10.0.0.{number}" for number, name in enumerate(names, start=1)}
        started = []
        for name, address in addresses.items():
            place = folder / name
            _write_files(place, addresses)
            kept = {Path(path) for path in (ROOT, sys.prefix, sys.base_prefix, folder)}
            # What the host needs of the temporary folder that is hidden from it.
            in_tmp = shlex.join(str(path) for path in sorted(kept) if path.is_relative_to("/tmp"))
            script = FIRST_PROCESS.format(kept=in_tmp, folder=shlex.quote(str(place)), name=name)
            process = stack.enter_context(_namespaces(script))
            host = Host(name, address, place, process)
            port = f"port-{len(started)}"
            _in_network(
                switch, "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", f"{process}"
            )
            _in_network(switch, "ip", "link", "set", port, "master", "switch", "up")
            host.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")
            # Ray takes the address that leads outside for the host's own.
            host.run("ip", "route", "add", "default", "dev", "eth0")
            started.append(host)
        yield started


def require(*programs: str) -> None:
    """Skip the test, saying why, where these programs are missing or namespaces cannot be made."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (Debian: iproute2, util-linux, openssh-server, rsync)")
    if os.geteuid() != 0:
        pytest.skip("needs to be root, to make hosts of its own")
    tried = subprocess.run(
        ["unshare", *KINDS, "--fork", "mount", "-t", "tmpfs", "tmpfs", "/run"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"needs namespaces, which are not allowed here: {tried.stderr.strip()}")


@contextlib.contextmanager
def _namespaces(script: str) -> Iterator[int]:
    """New namespaces with a first process that runs a script; gives its process number once it prints "ready"."""
    # All of it ends with the test's process, even if that is killed.
    program = ["setpriv", "--pdeathsig", "KILL", "unshare", *KINDS, "--mount-proc", "--fork", "--kill-child"]
    with subprocess.Popen(
        [*program, "bash", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as outside:
        try:
            assert outside.stdout
            said = outside.stdout.readline()
            assert said == "ready\n", said + outside.stdout.read()
            yield int(Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text())
        finally:
            outside.kill()


def _in_network(process: int, *command: str) -> None:
    done = subprocess.run(["nsenter", f"--target={process}", "--net", *command], capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)


def _write_files(folder: Path, addresses: dict[str, str]) -> None:
    """A host's home, its temporary folder, and its files in /etc."""
    for name in ("home", "tmp/tmp", "etc"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp/tmp").chmod(0o1777)
    etc = folder / "etc"
    (etc / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{at} {name}\n" for name, at in addresses.items()))
    others = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
    (etc / "passwd").write_text("\n".join([f"root:x:0:0:root:{folder / 'home'}:/bin/bash", *others, ""]))
    (etc / "shadow").write_text("root:*:20000::::::\n")
    # Without a name server, so that looking a name up fails at once.
    (etc / "resolv.conf").write_text("")


def wait_until(what: str, condition: Callable[[], bool], timeout: float) -> None:
    """Wait for `condition()`, and fail the test if it takes longer than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.2)
