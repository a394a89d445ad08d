"""docker-compose.yml, Dockerfile and .env.example agree with the settings and each other; what does not is found."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.checks import compose, compose_file, dockerfile, environment
from deploy.checks.build_context import is_kept_out, read_rules
from deploy.checks.debian import ROOT
from deploy.checks.failures import CheckFailed
from deploy.checks.trees import inside

Edit = Callable[[str, str], None]


@pytest.fixture
def edit_compose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Edit:
    """Replace a text of docker-compose.yml, in a copy that the checks read."""

    def edit(old: str, new: str) -> None:
        text = compose_file.COMPOSE_FILE.read_text(encoding="utf-8")
        assert old in text
        copy = tmp_path / "docker-compose.yml"
        copy.write_text(text.replace(old, new), encoding="utf-8")
        monkeypatch.setattr(compose_file, "COMPOSE_FILE", copy)
        monkeypatch.setattr(compose_file, "ROOT", tmp_path)

    return edit


@pytest.fixture
def edit_example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Edit:
    """Replace a text of .env.example, in a copy."""

    def edit(old: str, new: str) -> None:
        text = compose_file.ENV_EXAMPLE.read_text(encoding="utf-8")
        assert old in text
        copy = tmp_path / ".env.example"
        copy.write_text(text.replace(old, new), encoding="utf-8")
        monkeypatch.setattr(compose_file, "ENV_EXAMPLE", copy)

    return edit


def test_env_example_names_every_setting_with_its_default() -> None:
    environment.check_environment()


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("#SMTP_PORT=587\n", "", "SMTP_PORT is missing"),
        ("#SMTP_PORT=587", "#SMTP_PORT=25", "25 is not the default of SMTP_PORT"),
        ("#LOG_LEVEL=info", "#LOG_LEVEL=info\n#LOG_LEVLE=info", "nobody reads LOG_LEVLE"),
        ("#LOG_LEVEL=info", "LOG_LEVEL=info", "LOG_LEVEL=info is the default, and not commented out"),
        ("#WEB_REPLICAS=2", "#WEB_REPLICAS=3", "docker-compose.yml takes 2 for WEB_REPLICAS, not 3"),
        ("#HTTP_PORT=80", "#HTTP_PORT=80\n#HTTP_PORT=80", "HTTP_PORT is there twice"),
    ],
)
def test_what_is_wrong_in_env_example_is_found(edit_example: Edit, old: str, new: str, finding: str) -> None:
    edit_example(old, new)

    with pytest.raises(CheckFailed, match=finding):
        environment.check_environment()


def test_compose_keeps_its_promises() -> None:
    compose.require_promises()


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        (
            "    networks: [edge, front, metrics]",
            "    networks: [edge, front, metrics, data]",
            r"postgres: \['nginx'\] should",
        ),
        ("networks: [front, data, egress, vpn, metrics, load, s3]", "networks: [data]", "does not reach web"),
        ("  data: {internal: true}", "  data: {}", "should have no way out"),
        ("networks: [load]", "networks: [front]", "web would believe"),
        ("image: valkey/valkey:9.1.2", "image: valkey/valkey:latest", "valkey:latest is not pinned"),
        ("  read_only: true\n", "", "may write to its image"),
        ("  cap_drop: [ALL]\n", "", "keeps rights of root"),
        ('limits: {cpus: "1", memory: 1g, pids: 64}', 'limits: {cpus: "1"}', "redis has no limit of memory, pids"),
        ("./deploy/redis:/etc", "./deploy/rediss:/etc", "redis mounts ./deploy/rediss"),
        (
            "      - smtp_password\n",
            "",
            "SMTP_PASSWORD_FILE is /run/secrets/smtp_password, a secret that it does not get",
        ),
        ("${RATE_LIMIT_PROCESSES:-4}", "${RATE_LIMIT_PROCESSES:-2}", "RATE_LIMIT_PROCESSES is 2, and there are 4"),
        ("${STOP_GRACE:-45s}", "${STOP_GRACE:-30s}", "web is killed before its drain ends"),
        ("--max_connections=200", "--max_connections=100", "PostgreSQL takes 100 connections"),
        ('"127.0.0.1:${GRAFANA_PORT', '"${GRAFANA_PORT', "for everybody"),
        ("  worker-heavy:", "  worker-slow:", "on one side only"),
    ],
)
def test_what_is_wrong_in_compose_is_found(edit_compose: Edit, old: str, new: str, finding: str) -> None:
    edit_compose(old, new)

    with pytest.raises(CheckFailed, match=finding):
        compose.require_promises()


def test_compose_says_which_variable_is_missing() -> None:
    with pytest.raises(CheckFailed, match=r"SERVER_NAME is not set in \.env|BACKEND_URL is not set"):
        compose_file.read_compose({})


def test_dockerfile_is_understood_and_its_images_are_unprivileged() -> None:
    stages = dockerfile.read_stages()
    image = dockerfile.describe(stages, "worker")

    assert image.user == "10001:10001"
    assert image.environment["POSTGRES_BIN"] == "/usr/lib/postgresql/18/bin"
    assert list(image.command) == ["worker"]


def test_builder_gets_no_secret_and_no_state() -> None:
    rules = read_rules(ROOT / ".dockerignore")

    kept_out = (
        ".env",
        "secrets/secret_key",
        ".git/config",
        "tests/conftest.py",
        "zenzefi/__pycache__/app.pyc",
        "deploy/k8s/x",
    )
    assert all(is_kept_out(Path(path), rules) for path in kept_out)
    assert not any(
        is_kept_out(Path(path), rules) for path in ("zenzefi/app.py", "deploy/docker/build.lock", "README.md")
    )


def test_links_inside_of_a_tree_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "loop").symlink_to("/loop")

    assert inside(tmp_path, "/var/run/postgresql") == tmp_path / "run/postgresql"
    assert inside(tmp_path, "/../etc/passwd") == tmp_path / "etc/passwd"
    with pytest.raises(CheckFailed, match="round in circles"):
        inside(tmp_path, "/loop")
