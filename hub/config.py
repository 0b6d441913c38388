# SPDX-License-Identifier: Apache-2.0
"""The configuration: every key, its type and its default.

`config.example.yaml` shows each key with its effect; `hub.yamlfile.load_model` reads the file and
reports every mistake with its place.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from hub.fields import (
    AbsolutePath,
    Count,
    Duration,
    HostName,
    Name,
    Network,
    Port,
    SecretPath,
    Size,
    StrictModel,
)
from hub.isn_sync.settings import IsnSync, check_servers
from hub.net import IPAddress, IPNetwork, covers
from hub.yamlerrors import listed, mistake, nearest
from hub.yamlfile import load_model


def _path(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


def _dry_run(value: Any) -> Any:
    if isinstance(value, bool) or value == UNTIL_ARMED:
        return value
    msg = f"{value!r} is not one of true, false and {UNTIL_ARMED}"
    raise ValueError(msg)


RulePath = Annotated[Path, BeforeValidator(_path)]
"""A path from the root, or from the folder of the configuration file."""
UNTIL_ARMED: Final = "until-armed"
DryRun = Annotated[bool | Literal["until-armed"], BeforeValidator(_dry_run)]
"""True: nothing is applied. False: armed. Until armed: as `fnm-hub arm` and `disarm` say."""


_LONGEST_SOCKET: Final = 107
MOST_PPS: Final = 10_000_000
"""Packets per second that synproxyd takes as a rate; native/src/rate.h."""
_LONGEST_GRACE: Final = 604_800
_TRAFFIC: Final = frozenset({"native", "nftables"})
_INTAKE: Final = ("intake", "unix", "path")


class TcpProfile(StrictModel):
    """What a SYN proxy announces in place of the protected server (tcp(7), RFC 7323)."""

    mss: Annotated[int, Field(ge=536, le=65495)] = 1460
    wscale: Annotated[int, Field(ge=0, le=14)] = 7
    sack: bool = True
    timestamps: bool = True


class Service(StrictModel):
    """A thing we protect."""

    name: Name
    prefixes: Annotated[tuple[Network, ...], Field(min_length=1)]
    tcp_ports: tuple[Port, ...] = ()
    interface: str | None = None
    tcp: TcpProfile = TcpProfile()


class UnixIntake(StrictModel):
    """The socket that the local fnm-notify writes to."""

    path: AbsolutePath = Path("/run/fnm-hub/intake.sock")
    group: str | None = None
    allow_users: tuple[str, ...] = ("root", "fastnetmon")
    max_body: Annotated[Size, Field(ge=4096)] = 16 * 2**20


class HmacKey(StrictModel):
    """One shared key for signed requests."""

    id: Name
    secret_file: SecretPath


class TlsFiles(StrictModel):
    """PEM files of the TLS listener; `client_ca` switches mutual TLS on."""

    certificate: AbsolutePath
    key: SecretPath
    client_ca: AbsolutePath | None = None


class TcpIntake(StrictModel):
    """The listener for detectors on other hosts, and for FastNetMon Advanced's web callback."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8793
    tls: TlsFiles | None = None
    hmac_keys: Annotated[tuple[HmacKey, ...], Field(max_length=2)] = ()
    max_clock_skew: Duration = 300.0
    max_body: Annotated[Size, Field(ge=4096)] = 2**20


class Webhook(StrictModel):
    """One FastNetMon Advanced that posts its JSON; it cannot sign, so it shows a token."""

    detector: Name
    token_file: SecretPath


class Intake(StrictModel):
    """Ways in for events."""

    unix: UnixIntake = UnixIntake()
    tcp: TcpIntake | None = None
    webhooks: tuple[Webhook, ...] = ()
    spool: AbsolutePath = Path("/var/spool/fnm-hub")
    spool_interval: Duration = 2.0
    queue: Annotated[int, Field(ge=16)] = 20_000


class PageUser(StrictModel):
    """Somebody who may see the status page; the token is the password."""

    name: Name
    token_file: SecretPath


class Page(StrictModel):
    """The listener of the status page, for browsers; nothing can be changed through it."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8794
    names: tuple[HostName, ...] = ()
    tls: TlsFiles | None = None
    users: tuple[PageUser, ...] = ()


class Api(StrictModel):
    """The operator's socket, and the optional listeners for Prometheus, probes and browsers."""

    path: AbsolutePath = Path("/run/fnm-hub/api.sock")
    group: str | None = None
    allow_users: tuple[str, ...] = ("root",)
    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = 9793
    page: Page | None = None


class Store(StrictModel):
    """The journal."""

    path: AbsolutePath = Path("/var/lib/fnm-hub/journal.sqlite3")
    keep_events: Duration = 30 * 86400.0
    keep_audit: Duration = 365 * 86400.0


class Hold(StrictModel):
    """How an attack ends whose countermeasures hide it from its detector: by their own rates."""

    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    floor: Annotated[Count, Field(ge=1)] = 1000
    quiet: Annotated[Duration, Field(ge=1.0, le=600.0)] = 5.0
    unmeasured: Duration = 60.0


class Attacks(StrictModel):
    """How long an attack lives and when it counts as the same one."""

    lifetime: Duration = 6 * 3600.0
    tombstone: Duration = 600.0
    flap_window: Duration = 600.0
    hold_growth: Annotated[float, Field(ge=1.0, le=10.0)] = 2.0
    max_hold: Duration = 900.0
    max_active: Annotated[int, Field(ge=1)] = 100_000
    hold: Hold = Hold()


class Caps(StrictModel):
    """How many mitigations may be live at once."""

    total: Annotated[int, Field(ge=0)] = 1000
    per_engine: dict[Name, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    per_rule: Annotated[int, Field(ge=0)] | None = None


class Guard(StrictModel):
    """What must never happen, whatever the rules say."""

    own_prefixes: tuple[Network, ...] = ()
    never_block: tuple[Network, ...] = ()
    min_prefix_v4: Annotated[int, Field(ge=8, le=32)] = 32
    min_prefix_v6: Annotated[int, Field(ge=16, le=128)] = 128
    caps: Caps = Caps()
    max_ttl: Duration = 86400.0
    hold_off: Duration = 1800.0


class NativeEngine(StrictModel):
    """synproxyd: SYN cookies, filters and per-source limits in XDP."""

    enabled: bool = False
    socket: AbsolutePath = Path("/run/synproxyd/control.sock")
    command_timeout: Annotated[Duration, Field(gt=0.0)] = 2.0
    source_pps: Annotated[Count, Field(ge=1, le=MOST_PPS)] = 100
    unknown_pps: Annotated[Count, Field(le=MOST_PPS)] = 1000
    grace: Annotated[Duration, Field(le=_LONGEST_GRACE)] = 60.0
    grace_pps: Annotated[Count, Field(le=MOST_PPS)] = 20_000
    learned_pps: Annotated[Count, Field(le=MOST_PPS)] = 50_000
    syn_ack_pps: Annotated[Count, Field(le=MOST_PPS)] = 10_000
    icmp_pps: Annotated[Count, Field(ge=1, le=MOST_PPS)] = 1000
    ceiling_pps: Annotated[Count, Field(le=MOST_PPS)] = 100_000
    learn: bool = True


class NftablesEngine(StrictModel):
    """Kernel SYNPROXY, filters and per-source limits by nftables."""

    enabled: bool = True
    nft: AbsolutePath = Path("/usr/sbin/nft")
    table: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")] = "fnm_hub"
    command_timeout: Duration = 5.0
    interface: str | None = None
    manage_sysctls: bool = True
    max_sources: Annotated[int, Field(ge=1024, le=4_194_304)] = 262_144


class WebhookEngine(StrictModel):
    """One place that is told by HTTP POST."""

    url: SecretStr
    token_file: SecretPath | None = None
    timeout: Duration = 5.0
    attempts: Annotated[int, Field(ge=1, le=10)] = 4


class CommandEngine(StrictModel):
    """One program that is run with a fixed argument vector."""

    argv: Annotated[tuple[str, ...], Field(min_length=1)]
    timeout: Duration = 10.0
    environment: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _absolute_program(self) -> Self:
        if not self.argv[0].startswith("/"):
            text = f"{self.argv[0]!r} is not an absolute path; no PATH is searched"
            raise mistake(text, at=("argv", 0))
        return self


class Engines(StrictModel):
    """What carries countermeasures out."""

    native: NativeEngine = NativeEngine()
    nftables: NftablesEngine = NftablesEngine()
    webhook: dict[Name, WebhookEngine] = Field(default_factory=dict)
    command: dict[Name, CommandEngine] = Field(default_factory=dict)


class Log(StrictModel):
    """Log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(StrictModel):
    """The whole file."""

    dry_run: DryRun = UNTIL_ARMED
    services: tuple[Service, ...] = ()
    rules: Annotated[tuple[RulePath, ...], Field(min_length=1)] = (Path("rules/default.yaml"),)
    guard: Guard = Guard()
    attacks: Attacks = Attacks()
    intake: Intake = Intake()
    api: Api = Api()
    store: Store = Store()
    engines: Engines = Engines()
    isn_sync: IsnSync = IsnSync()
    reconcile_interval: Duration = 30.0
    log: Log = Log()

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        names = [service.name for service in self.services]
        for index, name in enumerate(names):
            if name in names[:index]:
                text = f"two services are named {name!r}"
                raise mistake(text, todo="rename one", at=("services", index, "name"))
        shared = self.engines.webhook.keys() & self.engines.command.keys()
        if shared:
            text = f"{min(shared)!r} names both a webhook and a command"
            raise mistake(text, todo="rename one", at=("engines", "command", min(shared)))
        for kind, named in (("webhook", self.engines.webhook), ("command", self.engines.command)):
            for taken in sorted(_TRAFFIC & named.keys()):
                text = f"{taken!r} is the name of an engine"
                raise mistake(text, todo="choose another", at=("engines", kind, taken))
        return self

    @model_validator(mode="after")
    def _caps_of_engines(self) -> Self:
        names = sorted(_TRAFFIC | self.engines.webhook.keys() | self.engines.command.keys())
        for name in self.guard.caps.per_engine:
            if name not in names:
                text = f"{name!r} is the name of no engine"
                todo = nearest(name, names) or f"name one of {listed(names)}"
                raise mistake(text, todo=todo, at=("guard", "caps", "per_engine", name))
        return self

    @model_validator(mode="after")
    def _usable_sockets(self) -> Self:
        if self.api.path == self.intake.unix.path:
            text = "is the path of intake.unix as well"
            raise mistake(text, todo="give each socket a path of its own", at=("api", "path"))
        sockets = (
            (("api", "path"), self.api.path),
            (_INTAKE, self.intake.unix.path),
            (("engines", "native", "socket"), self.engines.native.socket),
        )
        for at, path in sockets:
            if len(bytes(path)) > _LONGEST_SOCKET:
                text = f"is longer than {_LONGEST_SOCKET} bytes, the limit of unix(7)"
                raise mistake(text, todo="choose a shorter path", at=at)
        return self

    @model_validator(mode="after")
    def _enforcing_needs_own_prefixes(self) -> Self:
        if self.dry_run is False and not self.guard.own_prefixes:
            text = "is false and guard.own_prefixes is empty"
            raise mistake(text, todo="list the prefixes that are yours", at=("dry_run",))
        return self

    def service_of(self, target: IPAddress | IPNetwork) -> Service | None:
        """Return the service whose prefix covers `target`, the longest prefix first."""
        best: tuple[int, Service] | None = None
        for service in self.services:
            for prefix in service.prefixes:
                if covers(prefix, target) and (best is None or prefix.prefixlen > best[0]):
                    best = (prefix.prefixlen, service)
        return best[1] if best else None


def traffic_engines(engines: Engines) -> tuple[str, ...]:
    """Return the enabled engines that carry out tcp, acl and sorb, in the order of preference."""
    enabled = (("native", engines.native.enabled), ("nftables", engines.nftables.enabled))
    return tuple(name for name, on in enabled if on)


def load_config(path: Path) -> Config:
    """Return the configuration in `path`; relative rule paths start at its folder.

    Raises:
        ConfigError: with every mistake and its place.
    """
    config = load_model(path, Config)
    check_servers(config.isn_sync, path)
    rules = tuple(path.parent / rule for rule in config.rules)
    return config.model_copy(update={"rules": rules})
