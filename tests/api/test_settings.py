"""Settings come from WATTMILL_*; a name that means nothing is reported, a password is never shown."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wattmill_api.settings import Settings, unknown_names, without_password


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTMILL_DATABASE_URL", "postgresql://mill:hunter2@db:5432/wattmill")
    monkeypatch.setenv("WATTMILL_JOBS", "false")
    settings = Settings()
    assert (settings.port, settings.jobs) == (8080, False)
    assert settings.described()["database_url"] == "postgresql://mill@db:5432/wattmill"
    assert "hunter2" not in str(settings.described())


def test_values_out_of_range_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTMILL_PORT", "65536")
    with pytest.raises(ValidationError):
        Settings()


def test_unknown_names_are_reported() -> None:
    environment = ["PATH", "WATTMILL_PORT", "WATTMILL_KEY_FILE", "WATTMILL_PROT", "wattmill_jobs", "WATTMILL_"]
    assert unknown_names(environment) == ["WATTMILL_", "WATTMILL_PROT"]


def test_a_url_is_shown_without_its_password() -> None:
    assert without_password("postgresql://u:p@h/d?password=x") == "postgresql://u@h/d"
    assert without_password("postgresql:///d") == "postgresql:///d"
    assert without_password("host=h password=p") == "(a connection string)"
    assert without_password("") == ""
