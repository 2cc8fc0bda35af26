"""What the clients of our servers share."""

import ssl

import httpx
import pytest

from align.http import certificates
from annotation.argilla_api import open_client


def test_the_list_of_trusted_certificates_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts is asked ten times a second, and reading takes 35 ms."""
    certificates.cache_clear()
    read: list[object] = []
    real = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *a, **k: read.append(1) or real(*a, **k))
    for _ in range(3):
        open_client("http://127.0.0.1:1", None).close()
    assert len(read) == 1
    assert certificates(trust_env=False).verify_mode is ssl.CERT_REQUIRED


def test_a_list_of_one_s_own_counts_where_the_environment_does(monkeypatch: pytest.MonkeyPatch) -> None:
    certificates.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(FileNotFoundError):
        certificates(trust_env=True)
    assert certificates(trust_env=False).cert_store_stats()["x509_ca"] > 0
    assert httpx.create_ssl_context(trust_env=False).cert_store_stats() == certificates(False).cert_store_stats()
