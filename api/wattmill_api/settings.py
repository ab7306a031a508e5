"""Settings of the service, from `WATTMILL_*`: built once by a command, frozen, passed down.

Nobody else reads the environment. A name that starts with `WATTMILL_` and means nothing is reported, never refused:
a newer chart must not stop an older service.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from wattmill_api.webhooks.address import parse_networks

PREFIX = "WATTMILL_"

# Options of other verbs (DESIGN 5.1 and 5.2): known, though not ours to read.
OTHER_OPTIONS = frozenset(
    {
        "ACCELERATORS",
        "BACKFILL",
        "CONFIG",
        "DATA",
        "DISCOVER",
        "DURATION",
        "END",
        "ENGINES",
        "FORMAT",
        "GIVE_UP",
        "HOST_ROOT",
        "INTERVAL",
        "JSON",
        "KEY",
        "KEY_FILE",
        "KIND",
        "LABELS",
        "LISTEN",
        "MIN_ENERGY_KWH",
        "MONTH",
        "NAME",
        "NODE",
        "NODES",
        "NO_JOBS",
        "NO_MIGRATE",
        "NO_RESOLVED",
        "NO_SIMULATE",
        "NVML_LIBRARY",
        "ONCE",
        "ONLY",
        "OUT",
        "OUTPUT",
        "POSTERS",
        "SCENARIO",
        "SCOPE",
        "SECRET",
        "SEED",
        "SERVER",
        "SIMULATE",
        "SITE",
        "SORT",
        "SOURCES",
        "SOURCES_HOST",
        "SOURCES_NVML",
        "SPEED",
        "SPOOL",
        "SPOOL_MAX_AGE",
        "SPOOL_MAX_BYTES",
        "SPOOL_PATH",
        "START",
        "STATE",
        "TEAM",
        "TRUTH",
        "URL",
        "VIEW",
        "WINDOW",
    }
)


class Settings(BaseSettings):
    """Everything that can be set on the service; units are in the names."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    # Before the address: that one is completed with what this file holds.
    database_password_file: str = Field(
        default="", description="File that holds the password which `database_url` then leaves out."
    )
    database_url: str = Field(
        default="", description="PostgreSQL or TimescaleDB, as postgresql://user:password@host:port/name."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(default=8080, ge=0, le=65_535, description="Port to listen on.")
    jobs: bool = Field(default=True, description="Run the jobs (roll up, detect, retain) here when this replica leads.")
    migrate: bool = Field(default=True, description="Bring the database's schema up to date at start.")
    currency: str = Field(
        default="EUR", pattern="^[A-Z]{3}$", description="Currency of a tariff that names none (ISO 4217)."
    )
    retain_samples_days: int = Field(
        default=30, ge=1, le=3650, description="How long raw samples and receipts are kept."
    )
    retain_minutes_days: int = Field(default=400, ge=1, le=36_500, description="How long minutes are kept; hours stay.")
    roll_up_every_s: float = Field(default=5.0, gt=0, le=3600, description="How often touched minutes are closed.")
    detect_every_s: float = Field(default=60.0, gt=0, le=86_400, description="How often findings are looked for.")
    read_connections: int = Field(default=4, ge=1, le=100, description="Most connections for answers.")
    write_connections: int = Field(default=2, ge=1, le=20, description="Connections that store batches.")
    statement_timeout_s: int = Field(
        default=30, ge=1, le=600, description="Longest an answer may work in the database."
    )
    ingest_queue_readings: int = Field(
        default=200_000,
        ge=10_000,
        le=10_000_000,
        description="Readings that may wait to be stored before posts are put off.",
    )
    ingest_deadline_s: float = Field(default=10.0, gt=0, le=60, description="Longest a post waits for its receipt.")
    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="Least severity that is logged."
    )
    notify_every_s: float = Field(
        default=5.0, gt=0, le=3600, description="How often it is looked whether a webhook is to be told something."
    )
    webhook_allow: str = Field(
        default="",
        description="Networks that webhooks may be posted to besides public addresses, such as 10.0.0.0/8,fd00::/8.",
    )
    given_keys: str = Field(
        default="",
        description="Folder with a file for each key that was made elsewhere and is registered at start.",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""), description="Signs posts to webhooks that name no secret of their own."
    )
    webhook_secrets: str = Field(default="", description="Folder with a file for each secret that a webhook names.")
    external_url: str = Field(
        default="",
        pattern=r"^(https?://\S+)?$",
        description="Where people reach this service; links in alerts begin so.",
    )
    runbooks_url: str = Field(default="docs/runbooks", description="Where people read the runbooks; links in alerts.")

    @field_validator("database_password_file")
    @classmethod
    def _readable(cls, file: str) -> str:
        if file:
            _password_in(file)
        return file

    @field_validator("database_url")
    @classmethod
    def _completed(cls, url: str, info: ValidationInfo) -> str:
        file = info.data.get("database_password_file", "")
        return with_password(url, _password_in(file)) if url and file else url

    @field_validator("webhook_allow")
    @classmethod
    def _networks(cls, text: str) -> str:
        parse_networks(text)
        return text

    def described(self) -> dict[str, str]:
        """Every setting as text, without the database's password; for the line printed at start."""
        shown = {name: str(value) for name, value in self.model_dump().items()}
        shown["database_url"] = without_password(self.database_url)
        return shown


def without_password(url: str) -> str:
    """A database address that may be shown."""
    parts = urlsplit(url)
    if not parts.scheme:
        return "(a connection string)" if url else ""
    host = parts.netloc.rpartition("@")[2]
    user = parts.username
    return f"{parts.scheme}://{f'{user}@{host}' if user else host}{parts.path}"


def with_password(url: str, password: str) -> str:
    """A database address with this password in it. Errors: ValueError where it has one, or names no user."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if not parts.scheme or not user or ":" in user:
        raise ValueError("must be like postgresql://user@host:port/name, without a password, beside a password file")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def _password_in(file: str) -> str:
    """The one line of a password file. Errors: ValueError, naming the file and never its content."""
    try:
        password = Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the file {file} can't be read: {error}") from None
    if not password or "\n" in password or "\x00" in password:
        raise ValueError(f"the file {file} must hold one line, the password")
    return password


def unknown_names(environment: Iterable[str]) -> list[str]:
    """The `WATTMILL_*` names that no option of any command has, sorted."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {PREFIX + name for name in OTHER_OPTIONS}
    return sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)
