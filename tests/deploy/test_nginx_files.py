"""nginx's and certbot's scripts say in deploy/nginx/README.md which variables they read."""

import re

from deploy.checks.files import DEPLOY

_READ = re.compile(r"\$\{([A-Z][A-Z_]+):[-?]")
_ROW = re.compile(r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \|", re.MULTILINE)
_OF_CERTBOT = {"RENEWED_LINEAGE"}


def test_every_variable_of_the_scripts_is_in_the_table_and_no_other() -> None:
    scripts = [*(DEPLOY / "nginx").glob("*.sh"), *(DEPLOY / "certbot").glob("*.sh")]
    read = {name for script in scripts for name in _READ.findall(script.read_text(encoding="utf-8"))}
    rows = _ROW.findall((DEPLOY / "nginx/README.md").read_text(encoding="utf-8"))
    documented = {name for row in rows for name in re.findall(r"[A-Z_]+", row)}
    assert read - _OF_CERTBOT == documented


def test_every_variable_of_the_templates_is_filled_in() -> None:
    render = (DEPLOY / "nginx/render.sh").read_text(encoding="utf-8")
    filled_in = set(re.findall(r"\$([A-Z_0-9]+)", render.partition("variables='")[2].partition("'")[0]))
    templates = [file.read_text(encoding="utf-8") for file in (DEPLOY / "nginx/templates").glob("*.template")]
    used = {name for template in templates for name in re.findall(r"\$\{([A-Z_0-9]+)\}", template)}
    assert used == filled_in
