"""Settings: a bad value names its variable and what is allowed, and no secret is repeated."""

from decimal import Decimal
from pathlib import Path

import pytest

from zenzefi.settings import Settings, SettingsError

GOOD_KEY = "k3y-of-the-tests-0123456789-abcdefghij"
BASE = {"SECRET_KEY": GOOD_KEY}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "eighty", "whole number from 0 to 65535"),
        ("PORT", "70000", "whole number from 0 to 65535"),
        ("PROCESSES", "0", "whole number from 1 to 256"),
        ("ENVIRONMENT", "staging", "development or production"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,nonsense", "CIDR"),
        ("ZENZEFI_TARGET_URL", "ftp://example.com", "http://"),
        ("ZENZEFI_TARGET_URL", "http://host:99999", "http://"),
        ("TOKEN_PRICE_1H", "1.005", "two decimals"),
        ("TOKEN_PRICE_1H", "NaN", "two decimals"),
        ("TOKEN_PRICE_1H", "-1", "above 0"),
        ("DOCS_ENABLED", "maybe", "true or false"),
        ("UPSTREAM_CONNECT_TIMEOUT", "0", "more than 0"),
        ("UPSTREAM_CONNECT_TIMEOUT", "nan", "more than 0"),
        ("LOG_LEVEL", "chatty", "debug, info, warning, error"),
        ("UPSTREAM_CA_FILE", "/nowhere/ca.pem", "a file that exists"),
        ("PAYMENT_PROVIDER", "paypal", "none, mock, yookassa or stripe"),
        ("PAYMENT_RETURN_HOSTS", "https://app.example/", "host[:port]"),
        ("YOOKASSA_NETWORKS", "185.71.76.0/27;77.75.153.0/25", "CIDR"),
        ("PAYMENT_WEBHOOK_SECRET_PREVIOUS", "short", "at least 16 characters"),
    ],
)
def test_bad_value_names_its_variable_and_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        Settings.from_env(BASE | {name: value})
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    "key",
    ["", "short", "a" * 64, "your-super-secret-key-change-this-in-production", "YOUR-SECRET-KEY-CHANGE-IN-PRODUCTION"],
)
def test_weak_secret_key_refuses_to_start_in_production(key: str) -> None:
    with pytest.raises(SettingsError, match="SECRET_KEY") as caught:
        Settings.from_env({"SECRET_KEY": key, "ENVIRONMENT": "production"})
    assert "openssl rand" in str(caught.value)
    assert not key or key not in str(caught.value)


def test_value_comes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(GOOD_KEY + "\n")
    assert Settings.from_env({"SECRET_KEY_FILE": str(secret)}).secret_key == GOOD_KEY


def test_value_and_file_at_once_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(GOOD_KEY)
    with pytest.raises(SettingsError, match="SECRET_KEY and SECRET_KEY_FILE"):
        Settings.from_env({"SECRET_KEY": GOOD_KEY, "SECRET_KEY_FILE": str(secret)})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SECRET_KEY_FILE"):
        Settings.from_env({"SECRET_KEY_FILE": str(tmp_path / "absent")})


def test_secrets_stay_out_of_the_representation() -> None:
    settings = Settings.from_env(BASE | {"POSTGRES_PASSWORD": "pg-pass-1", "REDIS_PASSWORD": "redis-pass-1"})
    for secret in (GOOD_KEY, "pg-pass-1", "redis-pass-1"):
        assert secret not in repr(settings)


def test_production_is_the_default_and_the_conveniences_are_off() -> None:
    settings = Settings.from_env(BASE)
    assert not settings.is_development
    assert not settings.docs_enabled
    assert settings.token_prices[720] == Decimal("300.00")


@pytest.mark.parametrize(
    ("provider", "keys"),
    [
        ("yookassa", {"YOOKASSA_SHOP_ID": "506751", "YOOKASSA_SECRET_KEY": "live_0123456789abcdef"}),
        ("stripe", {"STRIPE_SECRET_KEY": "sk_live_0123456789", "PAYMENT_WEBHOOK_SECRET": "whsec_0123456789abcdef"}),
    ],
)
def test_payment_provider_needs_its_keys_and_keeps_them_to_itself(
    provider: str, keys: dict[str, str], tmp_path: Path
) -> None:
    chosen = BASE | {"PAYMENT_PROVIDER": provider}
    for missing in keys:
        with pytest.raises(SettingsError, match=missing):
            Settings.from_env(chosen | {name: value for name, value in keys.items() if name != missing})
    (name, secret) = list(keys.items())[-1]
    (tmp_path / "secret").write_text(secret)
    files = {other: value for other, value in keys.items() if other != name} | {f"{name}_FILE": f"{tmp_path}/secret"}
    settings = Settings.from_env(chosen | files)
    assert settings == Settings.from_env(chosen | keys)
    assert not [value for name, value in keys.items() if name.endswith(("KEY", "SECRET")) and value in repr(settings)]
