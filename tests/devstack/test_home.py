"""The state folder: made once, found again, held by one stack, and plain about what is wrong with it."""

import dataclasses
import json
import stat
from pathlib import Path

import pytest

from zenzefi.devstack.errors import StateBroken
from zenzefi.devstack.home import Home
from zenzefi.devstack.plan import make_plan
from zenzefi.settings import SettingsError


def test_what_was_made_at_random_is_found_again(tmp_path: Path) -> None:
    first = Home(tmp_path / "home").open()
    first.save(dataclasses.replace(first.state, demo_token="znz_kept"))
    first.close()
    second = Home(tmp_path / "home").open()
    second.close()
    assert second.state == first.state
    assert len(second.state.secret_key) >= 32


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").open()
    make_plan(home, {})
    home.close()
    for path in (home.directory, *home.directory.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_its_secrets_stay_out_of_a_representation(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").open()
    home.close()
    assert home.state.secret_key not in repr(home.state)
    assert home.state.admin_password not in repr(home.state)


def test_a_second_stack_on_the_same_folder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").open()
    with pytest.raises(StateBroken, match=r"Another stack runs in .* \(process \d+\).*ZENZEFI_HOME"):
        Home(tmp_path / "home").open()
    home.close()
    Home(tmp_path / "home").open().close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"secret_key": 1}', "\x00"])
def test_a_damaged_state_names_the_fix(tmp_path: Path, content: str) -> None:
    Home(tmp_path / "home").open().close()
    (tmp_path / "home" / "state.json").write_text(content)
    with pytest.raises(StateBroken, match=r"remove the folder .* to begin anew"):
        Home(tmp_path / "home").open()
    # The lock must not stay taken by the one that failed.
    (tmp_path / "home" / "state.json").unlink()
    Home(tmp_path / "home").open().close()


def test_a_state_of_an_older_version_is_completed(tmp_path: Path) -> None:
    Home(tmp_path / "home").open().close()
    state_file = tmp_path / "home" / "state.json"
    kept = json.loads(state_file.read_text())["admin_password"]
    state_file.write_text(json.dumps({"admin_password": kept, "of_another_version": "x"}))
    home = Home(tmp_path / "home").open()
    home.close()
    assert home.state.admin_password == kept
    assert len(home.state.secret_key) >= 32


def test_a_folder_that_cannot_be_made_names_the_fix(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file is in the way")
    with pytest.raises(StateBroken, match="Choose another with ZENZEFI_HOME"):
        Home(tmp_path / "home").open()


def test_the_callers_variables_come_first(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").open()
    (tmp_path / "key").write_text("k" * 20 + "0123456789abcdefghij\n")
    plan = make_plan(
        home,
        {
            "SECRET_KEY_FILE": str(tmp_path / "key"),
            "POSTGRES_SERVER": "db.example",
            "POSTGRES_PASSWORD": "of the caller",
            "REDIS_HOST": "cache.example",
            "S3_ENDPOINT_URL": "http://s3.example",
            "UPSTREAM": "https://up.example/base",
            "RATE_LIMIT_API": "1/60",
        },
    )
    home.close()
    settings = plan.settings
    assert (plan.postgres, plan.valkey, plan.s3, plan.upstream_port) == (None, None, None, None)
    assert (settings.postgres_server, settings.postgres_password) == ("db.example", "of the caller")
    assert (settings.redis_host, settings.s3.endpoint_url) == ("cache.example", "http://s3.example")
    assert settings.upstream_url == "https://up.example/base"
    assert settings.secret_key == "k" * 20 + "0123456789abcdefghij"
    assert plan.environment["RATE_LIMIT_API"] == "1/60"


def test_a_bad_setting_is_told_before_anything_starts(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").open()
    with pytest.raises(SettingsError, match="PORT"):
        make_plan(home, {"PORT": "eighty"})
    home.close()
