# SPDX-License-Identifier: Apache-2.0
"""Runs fnm-notify as FastNetMon does, and plays the hub that it talks to."""

import asyncio
import importlib.machinery
import importlib.util
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hub.intake.envelope import Envelope, encode

SCRIPT = Path(__file__).parents[2] / "scripts" / "fnm-notify"
LIMIT = 60.0
"""Seconds after which a call counts as hanging; far above what any call may take."""
COMMUNITY_BAN = ("192.0.2.10", "incoming", "300", "ban")
COMMUNITY_UNBAN = ("192.0.2.10", "incoming", "300", "unban")
TEXT = b"IP: 192.0.2.10\nAttack type: syn_flood\n"


@dataclass(frozen=True, slots=True)
class Call:
    """How one call of the script ended."""

    status: int
    stdout: bytes
    stderr: str


@dataclass
class Place:
    """Where one test's script finds its configuration, hub and spool."""

    root: Path
    config: Path = field(init=False)
    socket: Path = field(init=False)
    spool: Path = field(init=False)

    def __post_init__(self) -> None:
        """Make the spool and an empty configuration."""
        self.config = self.root / "notify.conf"
        self.socket = self.root / "hub.sock"
        self.spool = self.root / "spool"
        self.spool.mkdir()
        self.configure()

    def configure(self, **settings: object) -> None:
        """Write the configuration: this place, and `settings` over it."""
        known: dict[str, object] = {
            "socket": self.socket,
            "spool": self.spool,
            "syslog": self.root / "no-syslog",
            "detector": "fnm1",
        }
        lines = [f"{key} = {value}\n" for key, value in (known | settings).items()]
        self.config.write_text("".join(lines))

    def spooled(self) -> list[bytes]:
        """Return what lies in the spool, by name."""
        return [path.read_bytes() for path in sorted(self.spool.glob("*.json"))]

    def argv(self, *args: str | bytes) -> list[str | bytes]:
        """Return the command line of a call."""
        return [os.fspath(SCRIPT), f"--config={self.config}", *args]

    def call(self, *args: str | bytes, stdin: bytes | int = b"") -> Call:
        """Call the script with `stdin` as bytes on a pipe, or as a descriptor."""
        return run(self.argv(*args), stdin)


def run(argv: Sequence[str | bytes], stdin: bytes | int = b"", *, umask: int = -1) -> Call:
    """Run one command to its end."""
    if isinstance(stdin, int):
        done = subprocess.run(
            argv, stdin=stdin, capture_output=True, timeout=LIMIT, check=False, umask=umask
        )
    else:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, timeout=LIMIT, check=False, umask=umask
        )
    return Call(done.returncode, done.stdout, done.stderr.decode())


def load_script() -> ModuleType:
    """Return the script as a module, for its pure functions."""
    loader = importlib.machinery.SourceFileLoader("fnm_notify", os.fspath(SCRIPT))
    spec = importlib.util.spec_from_loader("fnm_notify", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the hub saw."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class PlayedHub:
    """An HTTP server in a thread of its own that answers as told and remembers all requests."""

    statuses: list[int]
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer the next of `statuses`; the last one for ever."""
        body = await request.read()
        seen = Request(request.method, request.raw_path, dict(request.headers), body)
        self.requests.append(seen)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return web.json_response({"event": len(self.requests)}, status=status)

    @property
    def bodies(self) -> list[bytes]:
        """What was posted."""
        return [request.body for request in self.requests]


@contextmanager
def hub(
    *statuses: int, path: Path | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[PlayedHub]:
    """Listen at the Unix socket `path`, or with TLS on a port of 127.0.0.1."""
    played = PlayedHub(list(statuses) or [202])
    loop = asyncio.new_event_loop()
    listening = threading.Event()
    end = asyncio.Event()

    async def serve() -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{tail:.*}", played.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site: web.BaseSite
        if path is not None:
            site = web.UnixSite(runner, path)
        else:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        if path is None:
            played.port = runner.addresses[0][1]
        listening.set()
        await end.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert listening.wait(LIMIT)
        yield played
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(LIMIT)
        loop.close()


@contextmanager
def raw_hub(path: Path, answer: bytes, seen: Callable[[int], None] | None = None) -> Iterator[None]:
    """Read one request at `path`, call `seen` with the sender's pid, answer, close."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()
    listener.settimeout(LIMIT)

    def serve() -> None:
        link, _ = listener.accept()
        with link:
            link.settimeout(LIMIT)
            got = b""
            while not got.endswith(b'"}'):
                got += link.recv(65536)
            if seen is not None:
                credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                seen(struct.unpack("3i", credentials)[0])
            link.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join(LIMIT)
        listener.close()


@dataclass(frozen=True, slots=True)
class Pki:
    """A certificate authority with one server (127.0.0.1) and one client, as PEM files."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    def server_context(self, *, mutual: bool = False) -> ssl.SSLContext:
        """Return the hub's side."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server, self.server_key)
        if mutual:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


def make_pki(root: Path, host: str = "127.0.0.1") -> Pki:
    """Make a certificate authority under `root` whose server is named `host`."""
    root.mkdir()
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("ca", ca_key, ca_key, "ca", [], is_ca=True)
    _write(root / "ca.pem", ca)
    for name, alt in (("server", [x509.IPAddress(ip_address(host))]), ("client", [])):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(root / f"{name}.pem", _certificate(name, key, ca_key, "ca", alt, is_ca=False))
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (root / f"{name}.key").write_bytes(pem)
    return Pki(
        root / "ca.pem",
        root / "server.pem",
        root / "server.key",
        root / "client.pem",
        root / "client.key",
    )


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    issuer: str,
    alt: Sequence[x509.GeneralName],
    *,
    is_ca: bool,
) -> x509.Certificate:
    day = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(day - timedelta(days=1))
        .not_valid_after(day + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        # Python 3.13 and later demand what RFC 5280 demands: both key identifiers, and the usage.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if is_ca:
        builder = builder.add_extension(_CA_USAGE, critical=True)
    if alt:
        builder = builder.add_extension(x509.SubjectAlternativeName(alt), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def field_of(body: bytes, key: str) -> object:
    """Return one field of an envelope's JSON."""
    fields: dict[str, object] = json.loads(body)
    return fields[key]


def silent(call: Call) -> tuple[int, bytes, str]:
    """Return what is `(0, b"", "")` after a call that went well."""
    return call.status, call.stdout, call.stderr


def https(place: Place, pki: Pki, port: int, **settings: object) -> None:
    """Configure the hub at `port` of this machine, over HTTPS."""
    place.configure(url=f"https://127.0.0.1:{port}", **({"ca_file": pki.ca} | settings))


def fill(place: Place, count: int) -> None:
    """Put `count` envelopes into the spool, the oldest first."""
    for number in range(count):
        envelope = Envelope(f"spooled-{number:08d}", "fnm1", float(number), (str(number),), b"")
        (place.spool / f"{number:020d}-{envelope.id}.json").write_bytes(encode(envelope))
