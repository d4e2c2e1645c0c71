"""Settings: what is empty, wrong or secret."""

import json
import re
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.secret_references import secret_version_name
from shared.settings import JWT_SECRET_BYTES_MIN, Settings, load_settings
from shared.stores.database import Database

SECRET = "a secret that nobody may ever read in a log, 0123456789"
SECRETS = {"MONGODB_URI": "mongodb_uri", "CHANDLER_JWT_SECRET": "jwt_secret", "CHANDLER_ALERT_WEBHOOK_URL": "alert_webhook_url"}


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        monkeypatch.delenv(alias if isinstance(alias, str) else f"CHANDLER_{name.upper()}", raising=False)


def test_nothing_set_gives_defaults_that_let_nobody_in() -> None:
    settings = load_settings()
    assert not any(getattr(settings, name).get_secret_value() for name in SECRETS.values())
    assert (settings.tick_audience, settings.worker_audience, settings.tick_callers, settings.worker_callers) == (
        "",
        "",
        (),
        (),
    )
    assert not settings.platform_verifies_tokens


def test_a_missing_database_is_named() -> None:
    with pytest.raises(ConfigurationError, match="MONGODB_URI is not set"):
        Database.connect(load_settings())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CHANDLER_TICK_BUDGET_S", "soon"),
        ("CHANDLER_TICK_BUDGET_S", "-1"),
        ("CHANDLER_TICK_BUDGET_S", "nan"),
        ("CHANDLER_LEASE_MS", "29999"),
        ("CHANDLER_LEASE_MS", ""),
        ("CHANDLER_LEASE_MS", "60000.5"),
        ("CHANDLER_WORKER_PAGES_MAX", "0"),
        ("CHANDLER_ATTEMPTS_MAX", "1e9"),
        ("CHANDLER_DATABASE", ""),
        ("CHANDLER_CANDLES_DATABASE", ""),
        ("CHANDLER_PLATFORM_VERIFIES_TOKENS", "perhaps"),
        ("CHANDLER_RUN_TTL_DAYS", "0"),
    ],
)
def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        load_settings()


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANDLER_LEASE_MS", "1")
    monkeypatch.setenv("CHANDLER_RUN_TTL_DAYS", "no")
    with pytest.raises(ConfigurationError, match=r"CHANDLER_LEASE_MS.*CHANDLER_RUN_TTL_DAYS"):
        load_settings()


@pytest.mark.parametrize("variable", sorted(SECRETS))
def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, SECRET)
    settings = load_settings()
    assert getattr(settings, SECRETS[variable]).get_secret_value() == SECRET
    for shown in (repr(settings), str(settings), f"{settings}", str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in shown
    assert SECRET not in json.dumps(settings.model_dump(), default=str)


def test_a_short_key_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    short = SECRET[: JWT_SECRET_BYTES_MIN - 1]
    monkeypatch.setenv("CHANDLER_JWT_SECRET", short)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "CHANDLER_JWT_SECRET" in caught.value.message
    assert short not in caught.value.message
    assert short not in str(caught.value.__cause__)
    monkeypatch.setenv("CHANDLER_JWT_SECRET", SECRET[:JWT_SECRET_BYTES_MIN])
    assert load_settings().jwt_secret.get_secret_value() == SECRET[:JWT_SECRET_BYTES_MIN]


@pytest.mark.parametrize("reference", ["sm://", "sm://project", "sm:///secret", "sm://p/s/1/2", "sm://p//1", "sm://p/s/"])
def test_a_malformed_secret_reference_is_an_error_and_not_a_secret(monkeypatch: pytest.MonkeyPatch, reference: str) -> None:
    monkeypatch.setenv("CHANDLER_JWT_SECRET", reference)
    with pytest.raises(ConfigurationError, match=r"sm://project/secret/version"):
        load_settings()


def test_a_reference_names_a_version_or_means_the_latest() -> None:
    assert secret_version_name("sm://p/s/7") == "projects/p/secrets/s/versions/7"
    assert secret_version_name("sm://p/s") == "projects/p/secrets/s/versions/latest"


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHANDLER_TICK_CALLERS", " a@x.test, b@x.test ,,")
    monkeypatch.setenv("CHANDLER_HOSTS_ALLOWED", "")
    settings = load_settings()
    assert settings.tick_callers == ("a@x.test", "b@x.test")
    assert settings.hosts_allowed == ()


def test_each_exchange_can_have_a_database_of_its_own() -> None:
    assert load_settings(candles_database="candles_{exchange}").candles_database_of("kraken") == "candles_kraken"
    assert load_settings(candles_database="one").candles_database_of("kraken") == "one"


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().lease_ms = 1  # type: ignore[misc]


def test_readme_names_the_default_of_each_setting() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    told: dict[str, str] = dict(re.findall(r"^\| `CHANDLER_([A-Z0-9_]+)` \| `([^`]*)` \|", readme, re.MULTILINE))
    assert len(told) > 8
    for name, default in told.items():
        assert json.dumps(Settings.model_fields[name.lower()].default).strip('"').removesuffix(".0") == default, name
