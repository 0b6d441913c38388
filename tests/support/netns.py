# SPDX-License-Identifier: Apache-2.0
"""A lab of network namespaces: client, gateway and server joined by veth pairs."""

import asyncio
import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Final, TypeVar

from scripts.lab.built import Built

T = TypeVar("T")

CLIENT: Final = "client"
GATEWAY: Final = "gateway"
SERVER: Final = "server"
CLIENT4: Final = "198.51.100.2"
CLIENT6: Final = "2001:db8:1::2"
GATEWAY4: Final = "198.51.100.1"
GATEWAY6: Final = "2001:db8:1::1"
SERVER4: Final = "192.0.2.10"
SERVER6: Final = "2001:db8:2::10"
OUTSIDE: Final = "outside"
INSIDE: Final = "inside"

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10

_CLONE_NEWNET: Final = 0x40000000
_SO_RCVBUFFORCE: Final = 33
_ETH_P_ALL: Final = 3
_numbers = count()


def run(*argv: str, check: bool = True) -> str:
    """Run a program to its end and return what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    if check and done.returncode:
        msg = f"{' '.join(argv)}: {done.stderr.strip()}"
        raise RuntimeError(msg)
    return done.stdout


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Return what `work` returns when it is called by a thread within `namespace`."""
    libc = ctypes.CDLL(None, use_errno=True)
    result: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        try:
            if libc.setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {namespace}")  # noqa: TRY301
            result.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised by the caller's thread
            errors.append(error)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=enter, name=f"inside-{namespace}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]


class NamespaceFiles:
    """/proc as a namespace's own processes see it (`hub.engines.nftables.sysctl.KernelFiles`)."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    async def read(self, path: str) -> str:
        """Return the text of a file below /proc."""
        return await asyncio.to_thread(self.read_now, path)

    async def write(self, path: str, text: str) -> None:
        """Write a file below /proc."""
        await asyncio.to_thread(self.write_now, path, text)

    def read_now(self, path: str) -> str:
        """Return the text of a file below /proc."""
        return inside(self._namespace, _proc(path).read_text)

    def write_now(self, path: str, text: str) -> None:
        """Write a file below /proc."""
        inside(self._namespace, lambda: _proc(path).write_text(text))


def _proc(path: str) -> Path:
    # /proc/net belongs to the process; /proc/sys/net to the thread that asks.
    own = "thread-self/" if path.startswith("net/") else ""
    return Path("/proc") / f"{own}{path}"


class Lab(Built):
    """Three namespaces in a row; both families, forwarding on, no rules."""

    def __init__(self) -> None:
        tag = f"fnm{os.getpid()}x{next(_numbers)}"
        self.names = {role: f"{tag}{role}" for role in (CLIENT, GATEWAY, SERVER)}

    def close(self) -> None:
        """Remove every namespace, and so the links and rules in them."""
        for name in self.names.values():
            run("ip", "netns", "delete", name, check=False)

    def ip(self, role: str, *arguments: str) -> str:
        """Run the program ip on a namespace."""
        return run("ip", "-n", self.names[role], *arguments)

    def prefix(self, role: str) -> tuple[str, ...]:
        """Return the argument vector that runs a program in a namespace."""
        return ("ip", "netns", "exec", self.names[role])

    async def run(self, role: str, *argv: str, check: bool = True) -> str:
        """Run a program in a namespace."""
        return await asyncio.to_thread(run, *self.prefix(role), *argv, check=check)

    async def nft(self, *arguments: str) -> str:
        """Run the program nft on the gateway."""
        return await self.run(GATEWAY, "nft", *arguments)

    def files(self, role: str) -> NamespaceFiles:
        """Return /proc of a namespace."""
        return NamespaceFiles(self.names[role])

    async def open_socket(
        self, role: str, family: int, kind: int, protocol: int = 0
    ) -> socket.socket:
        """Return a new socket that lives in a namespace; not blocking."""

        def make() -> socket.socket:
            made = socket.socket(family, kind, protocol)
            made.settimeout(0)
            return made

        return await asyncio.to_thread(inside, self.names[role], make)

    async def listen(self, role: str, address: str, port: int) -> socket.socket:
        """Return a listening TCP socket."""
        made = await self.open_socket(role, _family(address), socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(256)
        return made

    async def connect(
        self, address: str, port: int, role: str = CLIENT, source: tuple[str, int] | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection from a namespace; raises OSError or TimeoutError after 5 s."""
        made = await self.open_socket(role, _family(address), socket.SOCK_STREAM)
        try:
            if source is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(source)
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_connect(made, (address, port))
            return await asyncio.open_connection(sock=made)
        except BaseException:
            made.close()
            raise

    @asynccontextmanager
    async def capture(self, role: str, interface: str) -> AsyncIterator["Capture"]:
        """Record what goes over an interface, in and out, while the context lasts."""
        every = socket.htons(_ETH_P_ALL)
        made = await self.open_socket(role, socket.AF_PACKET, socket.SOCK_DGRAM, every)
        with made:
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 * 2**20)
            made.bind((interface, _ETH_P_ALL))
            captured = Capture(made)
            yield captured
            await captured.quiet()

    async def send(self, packets: Iterable[bytes], target: str, role: str = CLIENT) -> int:
        """Send ready IP packets as fast as the machine does; return how many."""
        raw = await self.open_socket(role, _family(target), socket.SOCK_RAW, socket.IPPROTO_RAW)

        def work() -> int:
            raw.settimeout(None)
            return sum(1 for packet in packets if raw.sendto(packet, (target, 0)))

        with raw:
            return await asyncio.to_thread(work)

    @asynccontextmanager
    async def flood(
        self, packets: Iterator[bytes], target: str, least: int = 1000
    ) -> AsyncIterator[None]:
        """Send `packets` from the client meanwhile, some thousands a second, `least` in all."""
        raw = await self.open_socket(CLIENT, _family(target), socket.SOCK_RAW, socket.IPPROTO_RAW)
        over = asyncio.Event()

        async def work() -> None:
            sent = 0
            while sent < least or not over.is_set():
                for packet in islice(packets, 50):
                    raw.sendto(packet, (target, 0))
                    sent += 1
                await asyncio.sleep(0.005)  # noqa: TID251 - a pause of the flood, not of a test

        with raw:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(work(), name="flood")
                try:
                    yield
                finally:
                    over.set()

    def _build(self) -> None:
        for name in self.names.values():
            run("ip", "netns", "add", name)
        for role in self.names:
            self.ip(role, "link", "set", "lo", "up")
            self._no_duplicate_detection(role)
        self._join(CLIENT, "eth0", GATEWAY, OUTSIDE)
        self._join(GATEWAY, INSIDE, SERVER, "eth0")
        self._address(CLIENT, "eth0", f"{CLIENT4}/24", f"{CLIENT6}/64")
        self._address(GATEWAY, OUTSIDE, f"{GATEWAY4}/24", f"{GATEWAY6}/64")
        self._address(GATEWAY, INSIDE, "192.0.2.1/24", "2001:db8:2::1/64")
        self._address(SERVER, "eth0", f"{SERVER4}/24", f"{SERVER6}/64")
        for role, via4, via6 in (
            (CLIENT, GATEWAY4, GATEWAY6),
            (SERVER, "192.0.2.1", "2001:db8:2::1"),
        ):
            self.ip(role, "route", "add", "default", "via", via4)
            self.ip(role, "-6", "route", "add", "default", "via", via6)
        gateway = self.files(GATEWAY)
        gateway.write_now("sys/net/ipv4/ip_forward", "1")
        gateway.write_now("sys/net/ipv6/conf/all/forwarding", "1")

    def _no_duplicate_detection(self, role: str) -> None:
        files = self.files(role)
        files.write_now("sys/net/ipv6/conf/default/accept_dad", "0")
        for key in ("all", "default"):
            files.write_now(f"sys/net/ipv4/conf/{key}/rp_filter", "0")

    def _join(self, left: str, left_name: str, right: str, right_name: str) -> None:
        argv = ("link", "add", left_name, "type", "veth", "peer", "name", right_name)
        self.ip(left, *argv, "netns", self.names[right])
        self.ip(left, "link", "set", left_name, "up")
        self.ip(right, "link", "set", right_name, "up")

    def _address(self, role: str, interface: str, *addresses: str) -> None:
        for address in addresses:
            self.ip(role, "address", "add", address, "dev", interface)


class Capture:
    """Packets as an interface saw them, from their IP header on."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self._packets: list[tuple[bytes, bool]] = []

    def packets(self, *, incoming: bool = False) -> list[bytes]:
        """Return all packets so far, or those that came in."""
        self._read()
        return [packet for packet, outgoing in self._packets if not (incoming and outgoing)]

    def tcp(self, *, flags: int, mask: int = FIN | SYN | RST | ACK) -> int:
        """Return how many TCP packets had exactly `flags` set among `mask`."""
        return sum((_tcp_flags(packet) or 0) & mask == flags for packet in self.packets())

    async def quiet(self) -> None:
        """Return once nothing more comes: packets on their way are only a softirq behind."""
        while True:
            await asyncio.sleep(0.03)  # noqa: TID251 - the kernel's time, which no clock of ours is
            if not self._read():
                return

    def _read(self) -> int:
        count = 0
        while self._source.fileno() >= 0:
            try:
                packet, address = self._source.recvfrom(65535)
            except BlockingIOError:
                break
            self._packets.append((packet, address[2] == socket.PACKET_OUTGOING))
            count += 1
        return count


def _tcp_flags(packet: bytes) -> int | None:
    if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_TCP:
        return packet[(packet[0] & 15) * 4 + 13]
    if packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_TCP:
        return packet[53]
    return None


def tcp_packet(  # noqa: PLR0917 - the fields of a header
    source: str, target: str, sport: int, dport: int, flags: int, payload: bytes = b""
) -> bytes:
    """Return an IP packet with a TCP segment; sequence numbers are made up from the ports."""
    header = struct.pack("!HHIIBBHHH", sport, dport, sport, dport, 5 << 4, flags, 64240, 0, 0)
    return ip_packet(source, target, socket.IPPROTO_TCP, header + payload, checksum_at=16)


def udp_packet(source: str, target: str, sport: int, dport: int, payload: bytes = b"") -> bytes:
    """Return an IP packet with a UDP datagram."""
    header = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0)
    return ip_packet(source, target, socket.IPPROTO_UDP, header + payload, checksum_at=6)


def ip_packet(source: str, target: str, protocol: int, segment: bytes, checksum_at: int) -> bytes:
    """Return an IP packet whose segment has its checksum filled in."""
    one, other = ip_address(source), ip_address(target)
    pseudo = one.packed + other.packed + struct.pack("!II", len(segment), protocol)
    total = _checksum(segment if protocol == socket.IPPROTO_ICMP else pseudo + segment)
    segment = segment[:checksum_at] + struct.pack("!H", total) + segment[checksum_at + 2 :]
    if isinstance(one, IPv4Address):
        return _header4(one, other.packed, protocol, len(segment)) + segment
    head = struct.pack("!IHBB", 6 << 28, len(segment), protocol, 64)
    return head + one.packed + other.packed + segment


def _header4(source: IPv4Address, target: bytes, protocol: int, length: int) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, protocol, 0)
    head += source.packed + target
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:]


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def spoofed(target: str, seed: int) -> Iterator[str]:
    """Yield made-up sources of the target's family, all different from the lab's own."""
    random = Random(seed)
    while True:
        if ip_address(target).version == 4:
            yield str(IPv4Address(random.randrange(0x0B000000, 0x0BFFFFFF)))
        else:
            yield str(IPv6Address((0x20010DB8FFFF << 80) | random.getrandbits(64)))


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
