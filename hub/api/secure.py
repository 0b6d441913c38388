# SPDX-License-Identifier: Apache-2.0
"""What the TCP listeners need before they may open: loopback, or TLS, and somebody known."""

import ssl
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from hub.config import Config, Intake, Page, TcpIntake, TlsFiles
from hub.credentials import CredentialError, forbidden_bits, how_to_make, located
from hub.errors import ConfigError, Problem

_MIN_TOKEN: Final = 16


def is_loopback(host: str) -> bool:
    """Tell whether `host` is reached from this machine alone; of names, localhost only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_listeners(config: Config, file: str) -> list[Problem]:
    """Return why a TCP listener must not open as configured; empty when all may.

    Args:
        config: the whole.
        file: the configuration file, for the report.
    """
    return check_intake(config.intake, file) + check_page(config.api.page, file)


def check_page(page: Page | None, file: str) -> list[Problem]:
    """Return why the listener of the status page must not open as configured."""
    if page is None:
        return []
    problems = []
    if not is_loopback(page.host) and page.tls is None:
        problems.append(
            Problem(
                f"api.page listens on {page.host}, which is not loopback, without TLS",
                file,
                todo="set api.page.tls.certificate and .key, or host: 127.0.0.1",
            )
        )
    if not page.users and (page.tls is None or page.tls.client_ca is None):
        problems.append(
            Problem(
                "api.page knows nobody who may see it",
                file,
                todo="set api.page.users or api.page.tls.client_ca",
            )
        )
    return problems


def check_intake(intake: Intake, file: str) -> list[Problem]:
    """Return why the TCP listener must not open as configured; empty when it may.

    Args:
        intake: the section.
        file: the configuration file, for the report.
    """
    tcp = intake.tcp
    if tcp is None:
        if not intake.webhooks:
            return []
        return [
            Problem(
                "intake.webhooks needs a listener and intake.tcp is not set",
                file,
                todo="add intake.tcp with host and port, and tls unless it is loopback",
            )
        ]
    if is_loopback(tcp.host):
        return []
    problems = []
    if tcp.tls is None:
        problems.append(
            Problem(
                f"intake.tcp listens on {tcp.host}, which is not loopback, without TLS",
                file,
                todo="set intake.tcp.tls.certificate and .key, or host: 127.0.0.1",
            )
        )
    if not tcp.hmac_keys and not has_client_ca(tcp):
        problems.append(
            Problem(
                f"intake.tcp listens on {tcp.host}, which is not loopback, and knows no sender",
                file,
                todo="set intake.tcp.hmac_keys or intake.tcp.tls.client_ca, or host: 127.0.0.1",
            )
        )
    return problems


def has_client_ca(tcp: TcpIntake) -> bool:
    """Tell whether senders prove themselves by certificate."""
    return tcp.tls is not None and tcp.tls.client_ca is not None


def server_context(tls: TlsFiles, *, webhooks: bool) -> ssl.SSLContext:
    """Return the TLS context of the listener: TLS 1.2 or newer, certificates of `client_ca`.

    Args:
        tls: the files.
        webhooks: web callbacks come over the same listener; they show a token and have no
            certificate, so that one is then asked for and not demanded by the handshake.

    Raises:
        ConfigError: a file is missing, unreadable or not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Debian keeps TLS keys readable for the group ssl-cert.
    key = _refuse_open(tls.key, stat.S_IRWXO | stat.S_IWGRP)
    try:
        context.load_cert_chain(tls.certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise _bad_file(
            f"no usable certificate and key: {_words(error)}",
            tls.certificate,
            f"check that it is PEM, readable, and fits the key {tls.key}",
        ) from error
    if tls.client_ca is not None:
        context.verify_mode = ssl.CERT_OPTIONAL if webhooks else ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=tls.client_ca)
        except (OSError, ValueError) as error:
            raise _bad_file(
                f"no usable CA: {_words(error)}", tls.client_ca, "check that it is PEM and readable"
            ) from error
    return context


def load_token(path: Path) -> bytes:
    """Return the token in `path`, without white space around it.

    Raises:
        ConfigError: missing, unreadable, too short, or open to group or others.
    """
    place = _refuse_open(path, stat.S_IRWXO | stat.S_IRWXG)
    try:
        token = place.read_bytes().strip()
    except OSError as error:
        raise _bad_file(f"cannot read the token: {error.strerror}", path, "") from error
    if len(token) < _MIN_TOKEN:
        raise _bad_file(
            f"the token is shorter than {_MIN_TOKEN} characters",
            path,
            how_to_make(path),
        )
    return token


def _refuse_open(path: Path, bits: int) -> Path:
    """Return where the secret is, unless it is open to others."""
    try:
        place = located(path)
        mode = place.stat().st_mode
    except CredentialError as error:
        raise _bad_file(error.what, path, error.todo) from error
    except OSError as error:
        raise _bad_file(f"cannot read: {error.strerror}", path, "create it") from error
    if stat.S_IMODE(mode) & forbidden_bits(place, bits):
        raise _bad_file(
            f"a secret with mode {stat.S_IMODE(mode):04o} is open to others",
            path,
            f"chmod 0600 {path}",
        )
    return place


def _no_password() -> str:
    # Without it OpenSSL would stop and ask on the terminal.
    return ""


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__


def _bad_file(what: str, path: Path, todo: str) -> ConfigError:
    return ConfigError([Problem(what, str(path), todo=todo)])
