# SPDX-License-Identifier: Apache-2.0
"""A throw-away CA with a server and two clients, one of which it does not know."""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Pair:
    """Files of one certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Pki:
    """Everything a mutual TLS test needs."""

    ca: Path
    server: Pair
    client: Pair
    stranger: Pair

    def client_context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """Return a client's context that trusts the CA and shows `pair`."""
        context = ssl.create_default_context(cafile=str(self.ca))
        if pair is not None:
            context.load_cert_chain(pair.certificate, pair.key)
        return context


def make_pki(folder: Path) -> Pki:
    """Write a CA and what it has signed into `folder`."""
    ca_key, other_key = _key(), _key()
    ca = _certificate("test CA", ca_key.public_key(), "test CA", ca_key, is_ca=True)
    _write(folder / "ca.pem", ca)
    pairs = {
        name: _pair(folder, name, "test CA", issuer)
        for name, issuer in (("server", ca_key), ("client", ca_key), ("stranger", other_key))
    }
    return Pki(ca=folder / "ca.pem", **pairs)


def _pair(folder: Path, name: str, issuer: str, issuer_key: Key) -> Pair:
    key = _key()
    certificate = _certificate(name, key.public_key(), issuer, issuer_key)
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    _write(pair.certificate, certificate)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    pair.key.chmod(0o600)
    return pair


def _key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: str,
    issuer_key: Key,
    *,
    is_ca: bool = False,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    return builder.sign(issuer_key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
