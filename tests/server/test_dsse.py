"""Envelopes, against the text of the specification and an implementation that is not ours."""

import json
from dataclasses import replace

import pytest
import reference

from fedrelease.errors import DamagedRelease
from fedrelease.server.dsse import IN_TOTO, open_envelope, pre_authentication_encoding, seal
from fedrelease.server.keys import make_key

STATEMENT = b'{"_type":"https://in-toto.io/Statement/v1"}'


def test_the_encoding_is_that_of_the_specifications_example() -> None:
    # protocol.md: 29 bytes of "http://example.com/HelloWorld", 11 of "hello world"
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@pytest.mark.parametrize("payload", [b"", b"a", "größer".encode(), bytes(range(256)), b"x" * 1000])
def test_the_encoding_is_that_of_the_slow_twin(payload: bytes) -> None:
    for kind in (IN_TOTO, "größe/x", ""):
        assert pre_authentication_encoding(kind, payload) == reference.pre_authentication_encoding(kind, payload)


def test_types_and_payloads_that_run_together_have_different_encodings() -> None:
    assert pre_authentication_encoding("a 1", b"b") != pre_authentication_encoding("a", b"1 b")


def test_a_sealed_statement_opens_and_is_signed_by_its_key_only() -> None:
    key, envelope = make_key(), None
    envelope = open_envelope(seal(STATEMENT, key))
    assert (envelope.content(), envelope.payloadType) == (STATEMENT, "application/vnd.in-toto+json")
    assert envelope.signatures[0].keyid == key.public.fingerprint
    assert envelope.signed_by(key.public) and not envelope.signed_by(make_key().public)


def test_another_payload_or_type_under_the_same_signature_is_not_signed() -> None:
    key = make_key()
    envelope, other = open_envelope(seal(STATEMENT, key)), open_envelope(seal(b"{}", key))
    assert not replace(envelope, payload=other.payload).signed_by(key.public)
    assert not replace(envelope, payloadType="text/plain").signed_by(key.public)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"payload":"","payloadType":"","signatures":[{}]}'])
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedRelease):
        open_envelope(data)


@pytest.mark.parametrize("field", ["payload", "sig"])
def test_what_is_not_base64_is_damage_and_no_traceback(field: str) -> None:
    key = make_key()
    document = json.loads(seal(STATEMENT, key))
    where = document if field == "payload" else document["signatures"][0]
    where[field] = "*" + where[field][1:]
    envelope = open_envelope(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(DamagedRelease, match="base64"):
        envelope.signed_by(key.public)


def test_an_independent_implementation_verifies_our_envelopes_and_no_changed_ones() -> None:
    dsse = pytest.importorskip("securesystemslib.dsse", reason="pip install securesystemslib")
    signer = pytest.importorskip("securesystemslib.signer")
    errors = pytest.importorskip("securesystemslib.exceptions")
    key = make_key()
    public = signer.SSlibKey(key.public.fingerprint, "ecdsa", "ecdsa-sha2-nistp256", {"public": key.public.pem})
    envelope = dsse.Envelope.from_dict(json.loads(seal(STATEMENT, key)))
    assert envelope.verify([public], 1) == {key.public.fingerprint: public}
    envelope.payload += b" "
    with pytest.raises(errors.VerificationError):
        envelope.verify([public], 1)
