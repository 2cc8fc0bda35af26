"""What only this server may know: the owner's name, password and key, the key that signs sessions, the database.

From HOME/secrets.json where there is one (`align server start` writes it), else from the environment (`compose.yaml`).
"""

import json
import os
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

NAMES = {
    "username": "ALIGN_OWNER",
    "password": "ALIGN_OWNER_PASSWORD",
    "api_key": "ALIGN_OWNER_API_KEY",
    "auth_secret_key": "ARGILLA_AUTH_SECRET_KEY",
    "database": "ARGILLA_DATABASE_URL",
}
OPTIONAL = {"database"}
"""Without it the database is HOME/argilla.db."""

LIBPQ = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY"}


def secrets_of(home: Path) -> dict[str, str]:
    """Whatever is known of `NAMES`; RuntimeError where one is missing that must be there."""
    path = home / "secrets.json"
    if path.exists():
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    else:
        known = {name: os.environ[variable] for name, variable in NAMES.items() if os.environ.get(variable)}
    missing = NAMES.keys() - known.keys() - OPTIONAL
    if missing:
        raise RuntimeError(f"no {path}, and not set: {', '.join(sorted(NAMES[name] for name in missing))}")
    return known


def prepare_environment(home: Path) -> None:
    """Tell Argilla's settings, which are read from the environment, what is in the secrets."""
    secrets = secrets_of(home)
    os.environ["ARGILLA_AUTH_SECRET_KEY"] = secrets["auth_secret_key"]
    if "database" in secrets:
        url, options = split_options(secrets["database"])
        os.environ["ARGILLA_DATABASE_URL"] = url
        os.environ.update(options)


def split_options(url: str) -> tuple[str, dict[str, str]]:
    """The URL without its options for TLS, and those as the variables that both of Argilla's drivers read.

    Argilla gives one URL to two drivers, which call these options by different names and refuse the other's.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    kept = {name: value for name, value in options.items() if name not in LIBPQ}
    bare = urlunsplit(("postgresql+asyncpg", parts.netloc, parts.path, urlencode(kept), ""))
    return bare, {LIBPQ[name]: value for name, value in options.items() if name in LIBPQ}
