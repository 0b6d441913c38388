# SPDX-License-Identifier: Apache-2.0
"""Runs inside the guest: does what the host asks over a virtio port, one JSON line each way.

It uses no network, so that it works whatever is done to that. Only the standard library is needed.
"""

import base64
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PORT_NAME = "fnm"
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
LOGS = Path("/run/log")
POLL_S = 0.02
SETTINGS = "/proc/sys/net/ipv4/tcp_*"
# What a program under test may leave behind; /run/log and what stands there since boot stays.
LITTER = ("/etc/fnm*", "/var/lib/fnm*", "/run/fnm*", "/tmp/*", "/root/*")  # noqa: S108 - the guest's


class Programs:
    """What was started and has not been waited for."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a program to its end."""
        process = subprocess.Popen(
            request["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT | request.get("env", {}),
            start_new_session=True,
        )
        try:
            given = base64.b64decode(request.get("stdin", ""))
            out, err = process.communicate(given, timeout=request["timeout"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return {"status": process.returncode, "stdout": _text(out), "stderr": _text(err)}

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start a program that goes on; its output goes to a file."""
        LOGS.mkdir(exist_ok=True)
        log = LOGS / request["name"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                request["argv"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT | request.get("env", {}),
                cwd="/root",
                start_new_session=True,
            )
        self._running[process.pid] = process
        return {"pid": process.pid, "log": str(log)}

    def kill(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a signal; wait for the end of a program that was started here, if asked to."""
        pid = request["pid"]
        process = self._running.get(pid)
        if process is None:
            os.kill(pid, request["signal"])
            return {}
        process.send_signal(request["signal"])
        if request["wait"]:
            process.wait(10)
            del self._running[pid]
        return {"status": process.returncode}

    def expect(self, request: dict[str, Any]) -> dict[str, Any]:
        """Wait until a program has printed something, or has ended."""
        process = self._running[request["pid"]]
        log = Path(request["log"])
        for _ in range(int(request["timeout"] / POLL_S)):
            if process.poll() is not None or request["text"] in log.read_text(errors="replace"):
                break
            time.sleep(POLL_S)
        return {"found": request["text"] in log.read_text(errors="replace")}

    def poll(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the exit status of a program that was started, None while it runs."""
        return {"status": self._running[request["pid"]].poll()}

    def end_all(self, keep: set[int]) -> None:
        """Kill every process but init, this one, and `keep`."""
        spared = {1, os.getpid(), *keep}
        while victims := set(_processes()) - spared:
            for pid in victims:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            for pid in [pid for pid, one in self._running.items() if one.poll() is not None]:
                del self._running[pid]
            time.sleep(0.01)


class Control:
    """The requests and what is done for each."""

    def __init__(self) -> None:
        self._programs = Programs()
        self._settings = _read_settings()
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "run": self._programs.run,
            "start": self._programs.start,
            "kill": self._programs.kill,
            "poll": self._programs.poll,
            "expect": self._programs.expect,
            "put": self._put,
            "clock": self._clock,
            "clean": self._clean,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; an error is an answer, too."""
        try:
            return self._operations[request["op"]](request)
        except subprocess.TimeoutExpired as error:
            # Its text has the command in full.
            return {"error": f"it did not end within {error.timeout} s"}
        except Exception as error:  # noqa: BLE001 - the host raises it
            return {"error": f"{type(error).__name__}: {error}"}

    def _put(self, request: dict[str, Any]) -> dict[str, Any]:
        path = Path(request["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(request["mode"])
        path.write_bytes(base64.b64decode(request["content"]))
        return {}

    def _clock(self, request: dict[str, Any]) -> dict[str, Any]:
        time.clock_settime(time.CLOCK_REALTIME, request["time"])
        return {}

    def _clean(self, request: dict[str, Any]) -> dict[str, Any]:
        """Put processes, kernel settings, files and clock back to what they were."""
        self._programs.end_all(set(request["keep"]))
        for path, value in self._settings.items():
            if Path(path).read_text() != value:
                Path(path).write_text(value)
        rubbish = " ".join(LITTER)
        subprocess.run(["/bin/sh", "-c", f"rm -rf {rubbish}"], check=True)
        return self._clock(request)


def _processes() -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The kernel's own threads, and what has ended, have no command line.
            if (folder / "cmdline").read_bytes():
                yield int(folder.name)
        except OSError:
            continue


def _read_settings() -> dict[str, str]:
    kept = {}
    for path in Path("/").glob(SETTINGS.lstrip("/")):
        if path.stat().st_mode & 0o200 and "key" not in path.name:
            kept[str(path)] = path.read_text()
    return kept


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _port() -> str:
    while True:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == PORT_NAME:
                return f"/dev/{name.parent.name}"
        time.sleep(0.01)


def _lines(port: int) -> Iterator[bytes]:
    rest = b""
    while True:
        data = os.read(port, 1 << 16)
        if not data:  # nobody is connected on the host
            time.sleep(0.02)
            continue
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _write(port: int, data: bytes) -> None:
    while data:
        data = data[os.write(port, data) :]


def main() -> None:
    """Say that the guest is up, then serve."""
    port = os.open(_port(), os.O_RDWR)
    control = Control()
    writing = threading.Lock()

    def say(document: dict[str, Any]) -> None:
        with writing:
            _write(port, json.dumps(document).encode() + b"\n")

    def serve(request: dict[str, Any]) -> None:
        say({"id": request["id"], **control.answer(request)})

    say({"up": Path("/proc/uptime").read_text().split()[0]})
    for line in _lines(port):
        threading.Thread(target=serve, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
