# SPDX-License-Identifier: Apache-2.0
"""A real hub process in a network namespace of its own, driven as operators and FastNetMon do."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from hub.intake.envelope import Envelope, encode

T = TypeVar("T")

REPOSITORY: Final = Path(__file__).parents[2]
RULES: Final = """
rules:
  - name: tcp
    when: {direction: [incoming, unknown], protocol: tcp}
    then: [tcp]
    ttl: TTL
    linger: 1s
  - name: rest
    when: {direction: [incoming, unknown]}
    then: [{sorb: {pps: 100, block: 10m}}]
    ttl: TTL
    linger: 1s
"""
CONFIG: Final = """
dry_run: DRY
guard:
  own_prefixes: [OWN, 2001:db8::/32]
  never_block: [NEVER]
  caps: {total: CAP}
rules: [rules.yaml]
reconcile_interval: RECONCILE
intake:
  unix: {path: FOLDER/intake.sock, allow_users: [root]}
  spool: FOLDER/spool
  spool_interval: 200ms
api: {path: FOLDER/api.sock, metrics_port: 0}
store: {path: STORE}
engines:
  native: {enabled: NATIVE, socket: SYNPROXYD}
  nftables: {nft: NFT}
"""
_HEAD: Final = """IP: {target}
Attack type: syn_flood
Initial attack power: {pps} packets per second
Peak attack power: {pps} packets per second
Attack direction: incoming
Attack protocol: tcp
Total incoming pps: {pps} packets per second
Total outgoing pps: 0 packets per second
Incoming tcp pps: {pps} packets per second
Outgoing tcp pps: 0 packets per second
Incoming syn tcp pps: {pps} packets per second
Outgoing syn tcp pps: 0 packets per second
Incoming udp pps: 0 packets per second
Outgoing udp pps: 0 packets per second
Incoming icmp pps: 0 packets per second
Outgoing icmp pps: 0 packets per second
"""

_UDP: Final = """Total incoming pps: {pps} packets per second
Incoming udp pps: {pps} packets per second
"""


def pause(seconds: float) -> None:
    """Wait; these tests watch other processes, which tell nobody when they are done."""
    time.sleep(seconds)


def until(what: str, look: Callable[[], T], seconds: float = 60.0) -> T:
    """Return the first true answer of `look`, asked for at most `seconds`."""
    end = time.monotonic() + seconds  # noqa: TID251 - bounds a test, decides nothing
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:  # noqa: TID251
            msg = f"not within {seconds:.0f} s: {what}"
            raise AssertionError(msg)
        pause(0.02)


class HubProcess:
    """One hub, its folder, and the namespace that its engine works in.

    Args:
        folder: for everything that the hub writes.
        ttl: of both rules.
        never: one prefix of the never-block list.

    Attributes:
        environment: what it is started with besides this process's own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ttl: str = "10m",
        never: str = "192.0.2.66/32",
        cap: int = 1000,
        dry: bool = False,
        nft: str = "/usr/sbin/nft",
        store: Path | None = None,
        own: str = "192.0.2.0/24",
        reconcile: str = "1s",
        native: Path | None = None,
    ) -> None:
        self.folder = folder
        self.namespace = f"fh{os.getpid()}x{uuid.uuid4().hex[:4]}"
        self.store = store or folder / "journal.sqlite3"
        self._values = {
            "FOLDER": str(folder),
            "STORE": str(self.store),
            "NEVER": never,
            "OWN": own,
            "RECONCILE": reconcile,
            "CAP": str(cap),
            "DRY": "true" if dry else "false",
            "NFT": nft,
            "NATIVE": "false" if native is None else "true",
            "SYNPROXYD": str(native or folder / "nobody.sock"),
        }
        self._ttl = ttl
        self.config_text = CONFIG
        self.prefix: tuple[str, ...] = ()
        """Argument vector that the hub is run by."""
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Make the namespace and start the hub."""
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        subprocess.run(["ip", "-n", self.namespace, "link", "set", "lo", "up"], check=True)
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        """End the hub and take the namespace away, with all that is in it."""
        self.kill()
        subprocess.run(["ip", "netns", "del", self.namespace], check=False)

    def begin(self) -> None:
        """Write its files and start it."""
        (self.folder / "spool").mkdir(exist_ok=True)
        self.write_rules(RULES)
        self.write_config()
        self.start()

    def write_config(self, **values: str) -> None:
        """Write the configuration, with some values changed."""
        text = self.config_text
        self._values |= values
        for key, value in self._values.items():
            text = text.replace(key, value)
        (self.folder / "config.yaml").write_text(text)

    def write_rules(self, text: str) -> None:
        """Write the rule file."""
        (self.folder / "rules.yaml").write_text(text.replace("TTL", self._ttl))

    def spawn(self) -> None:
        """Start the hub and wait for nothing."""
        log = (self.folder / "log").open("ab")
        argv = ["ip", "netns", "exec", self.namespace, *self.prefix, sys.executable, "-m", "hub"]
        argv += ["--config", str(self.folder / "config.yaml"), "run"]
        with log:
            self._process = subprocess.Popen(
                argv,
                cwd=REPOSITORY,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start(self) -> None:
        """Start the hub and wait until it is ready."""
        self.spawn()
        try:
            until("the hub is ready", self.ready, seconds=60)
        except AssertionError as error:
            raise AssertionError(self.log()[-3000:]) from error

    def ready(self) -> bool:
        """Tell whether the hub answers, and says that it is ready; fail when it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise AssertionError("the hub has ended: " + self.log()[-3000:])
        try:
            return self.request("GET", "/readyz")[0] == http.client.OK
        except OSError:
            return False

    def kill(self, number: int = signal.SIGKILL) -> int | None:
        """End the hub by a signal and return its exit status."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.send_signal(number)
        status = self._process.wait(20)
        self._process = None
        return status

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Hold the hub still for a while, as a hung process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def hang_up(self) -> None:
        """Ask for a reload as systemd does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def heeds_no_hang_up(self) -> bool:
        """Tell whether the process ignores SIGHUP or has a handler for it; see proc(5)."""
        assert self._process is not None
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        masks = [
            int(line.split()[1], 16) for line in lines if line.startswith(("SigIgn", "SigCgt"))
        ]
        return any(mask & 1 for mask in masks)

    def resident_mib(self) -> float:
        """Return the hub's resident memory."""
        assert self._process is not None
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    # ---- as operators and FastNetMon do ---------------------------------------------------

    def request(
        self, method: str, path: str, body: bytes | None = None, *, sock: str = "api.sock"
    ) -> tuple[int, Any]:
        """Send one request and return the status with what came back."""
        connection = http.client.HTTPConnection("hub", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        try:
            connection.sock.connect(str(self.folder / sock))
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.decode()

    def get(self, path: str) -> Any:
        """Return what the operator API shows."""
        status, fields = self.request("GET", path)
        assert status == http.client.OK, fields
        return fields

    def post(self, path: str, **fields: str) -> tuple[int, Any]:
        """Give an operator's order."""
        return self.request("POST", path, json.dumps(fields).encode())

    def send(
        self,
        action: str,
        target: str = "192.0.2.10",
        *,
        stamp: float | None = None,
        detector: str = "fnm1",
        pps: int = 1000,
        delivery: str | None = None,
        udp: bool = False,
    ) -> tuple[int, Any]:
        """Hand over one Community call; return the status and the answer."""
        head = _UDP if udp else _HEAD
        text = head.format(target=target, pps=pps).encode() if action == "ban" else b""
        envelope = Envelope(
            id=delivery or uuid.uuid4().hex,
            detector=detector,
            stamp=stamp if stamp is not None else time.time(),  # noqa: TID251 - as fnm-notify
            args=(target, "incoming", str(pps), action),
            stdin=text,
        )
        body = encode(envelope)
        return self.request("POST", "/v1/events/fastnetmon", body, sock="intake.sock")

    def attacks(self) -> list[dict[str, Any]]:
        """Return the open attacks."""
        found: list[dict[str, Any]] = self.get("/v1/attacks")["items"]
        return found

    def mitigations(self, *, ended: bool = False) -> list[dict[str, Any]]:
        """Return the mitigations."""
        path = f"/v1/mitigations?all={int(ended)}&limit=1000"
        found: list[dict[str, Any]] = self.get(path)["items"]
        return found

    def active(self) -> list[dict[str, Any]]:
        """Return what is in force, as the hub says."""
        return [row for row in self.mitigations() if row["state"] == "active"]

    def log(self) -> str:
        """Return everything logged so far."""
        return (self.folder / "log").read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event name."""
        lines = (json.loads(line) for line in self.log().splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("event") == event]

    # ---- the kernel's own word ------------------------------------------------------------

    def kernel(self) -> list[str]:
        """Return the live elements of our table that name a target, as nft prints them."""
        ruleset = self.nft("-j", "list", "ruleset")
        found: list[str] = []
        for item in json.loads(ruleset or '{"nftables": []}')["nftables"]:
            for kind in ("set", "map"):
                found += [json.dumps(one) for one in item.get(kind, {}).get("elem", [])]
        return [one for one in found if "192.0.2." in one or "2001:db8" in one]

    def ip(self, *arguments: str) -> None:
        """Change addresses and links of the namespace."""
        subprocess.run(["ip", "-n", self.namespace, *arguments], check=True)

    def nft(self, *arguments: str) -> str:
        """Run nft in the hub's namespace."""
        argv = ["ip", "netns", "exec", self.namespace, "/usr/sbin/nft", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.stdout
