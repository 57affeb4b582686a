"""X.509 certificates: a server's own authority, its certificate, and one for each site from the key that stays there.

Example::

    authority = new_authority("notes", now=now)
    server = authority.server_certificate(key.public_key(), names=("fed.example.org", "10.0.0.4"), now=now)
    site = authority.site_certificate(signing_request("amazon", site_key), "amazon", now=now)

All keys are ECDSA on P-256: Flower's node authentication takes NIST curves only.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedrelease.errors import IdentityError

__all__ = [
    "Authority",
    "certificate_of",
    "days_left",
    "names_of",
    "new_authority",
    "new_key",
    "private_openssh",
    "private_pem",
    "public_line",
    "request_key",
    "signing_request",
]

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 730
SKEW = timedelta(hours=1)
"""A certificate is valid from an hour before it is made: clocks differ."""
_RULE = "keys are ECDSA on P-256, in PEM"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new private key, from the system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The secret itself, PKCS8 in PEM, for the file that keeps it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def private_openssh(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The secret itself, in the form that Flower's SuperNode reads."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def public_line(key: ec.EllipticCurvePublicKey) -> bytes:
    """The public key in the one-line form of OpenSSH, which Flower's command line reads."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def certificate_of(pem: bytes) -> x509.Certificate:
    """The certificate in ``pem``.

    Raises:
        IdentityError: there is none, or its key is of another kind.
    """
    try:
        found = x509.load_pem_x509_certificate(pem)
        _checked(found.public_key())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IdentityError("a certificate cannot be read", rule=_RULE) from error
    return found


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The host names that a certificate is for; a site's has its name in that place, and no other."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return ()
    return tuple(found.get_values_for_type(x509.DNSName))


def days_left(certificate: x509.Certificate, now: datetime) -> float:
    """Until a certificate ends, to a tenth of a day; below 0 when it has ended."""
    return round((certificate.not_valid_after_utc - now).total_seconds() / 86400, 1)


def signing_request(site: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request in PEM that proves who has the key; the key itself stays where it is."""
    return (
        x509.CertificateSigningRequestBuilder().subject_name(_name(site)).sign(key, SHA256()).public_bytes(Encoding.PEM)
    )


@final
@dataclass(frozen=True, kw_only=True)
class Authority:
    """Who says which key is whose: a certificate that signs itself, and its key, which only the server has."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def read(cls, certificate: bytes, key: bytes) -> "Authority":
        """The authority in two PEM texts.

        Raises:
            IdentityError: one of them is something else, or they do not belong together.
        """
        try:
            own = load_pem_private_key(key, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # no part of the file may be shown
            raise IdentityError("the authority's key cannot be read", rule=_RULE) from error
        found = certificate_of(certificate)
        if not isinstance(own, ec.EllipticCurvePrivateKey) or own.public_key() != found.public_key():
            raise IdentityError(
                "the authority's certificate and key do not belong together",
                rule="both were made by one `fedrelease server init`",
            )
        return cls(key=own, certificate=found)

    def server_certificate(
        self, key: ec.EllipticCurvePublicKey, *, names: Sequence[str], now: datetime
    ) -> x509.Certificate:
        """A certificate for a server that is reached by any of ``names``: host names and addresses."""
        return self._sign(key, _name(names[0]), ExtendedKeyUsageOID.SERVER_AUTH, [_alternative(n) for n in names], now)

    def site_certificate(self, request: bytes, site: str, *, now: datetime) -> x509.Certificate:
        """A certificate for the key in a signing request, in the name that the server knows the site by.

        Raises:
            IdentityError: the request cannot be read, or whoever made it does not have the key.
        """
        return self.site_certificate_again(request_key(request), site, now=now)

    def site_certificate_again(self, key: ec.EllipticCurvePublicKey, site: str, *, now: datetime) -> x509.Certificate:
        """A certificate for a key whose owner has proved before that it has the private half."""
        return self._sign(key, _name(site), ExtendedKeyUsageOID.CLIENT_AUTH, [x509.DNSName(site)], now)

    def _sign(
        self,
        key: ec.EllipticCurvePublicKey,
        subject: x509.Name,
        use: x509.ObjectIdentifier,
        alternatives: Sequence[x509.GeneralName],
        now: datetime,
    ) -> x509.Certificate:
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            _begun(subject, self.certificate.subject, key, now, CERTIFICATE_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
            .sign(self.key, SHA256())
        )


def new_authority(name: str, *, now: datetime) -> Authority:
    """A new authority; it signs for ten years, and what it signs is valid for two."""
    key = new_key()
    subject = _name(f"{name} authority")
    certificate = (
        _begun(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    return Authority(key=key, certificate=certificate)


def request_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The public key in a signing request.

    Raises:
        IdentityError: it is no request of ours, or its signature is not made with that key.
    """
    try:
        found = x509.load_pem_x509_csr(request)
        key = _checked(found.public_key())
        if not found.is_signature_valid:
            raise IdentityError("a signing request is not signed by its own key", rule=_RULE)
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise IdentityError("a signing request cannot be read", rule=_RULE) from error
    return key


def _checked(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("a key is of another kind", value=type(key).__name__, rule=_RULE)
    return key


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
