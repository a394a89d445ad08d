# `make run` and `make test` are all that a fresh machine needs; both make .venv first, from the hashed lock file.
# Variables on the command line reach the programs as environment variables: make run PORT=8080 UPSTREAM=https://…

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
INSTALLED := $(VENV)/.installed
SIGTERM := 15

# Which interpreter makes .venv; by default the newest supported one that is found.
PYTHON ?=
PYTHONS := $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3)
# More options for pytest: make test ARGS="tests/wallet -x"
ARGS ?=
# Benchmarks and options: make bench BENCH="observability --quick"
BENCH ?=
# Load tests are set by variables: make loadtest LOADTEST_USERS=200 LOADTEST_SECONDS=300; loadtest/README.md has them all
# Which checks of deploy/: make check-deploy CHECK="rules dashboards"
CHECK ?=

.PHONY: help run test lint bench loadtest check-deploy check-migrations
.DEFAULT_GOAL := help

help:
	@echo 'make run    start everything on 127.0.0.1 in the foreground (PORT=8000, UPSTREAM=https://…, ZENZEFI_HOME=.zenzefi)'
	@echo 'make test   run all tests (POSTGRES_SERVER= and REDIS_HOST= use those servers; ARGS= goes to pytest)'
	@echo 'make lint   check formatting, rules, types, import directions and migrations'
	@echo 'make bench  measure, and write loadtest/results (BENCH= names benchmarks and takes --quick)'
	@echo 'make loadtest  load what make run has started, with Locust (LOADTEST_USERS=100, LOADTEST_SECONDS=60, …)'
	@echo 'make check-deploy  check deploy/ with the real tools, which it downloads into .tools (CHECK= names checks)'
	@echo 'make check-migrations  try the migrations up, down and up again (POSTGRES_SERVER= uses that server)'
	@echo 'PYTHON=     which interpreter makes .venv, 3.11 or newer (default: the newest found)'

# make hands SIGTERM on to this recipe, and the terminal Ctrl-C. For a kill -9 of make it cannot, so the launcher ties
# the stack's life to make's: it is the parent ($$PPID) because of the exec.
run: $(INSTALLED)
	@exec "$(BIN)/python" -I -S zenzefi/devstack/launch.py $$PPID $(SIGTERM) - "$(BIN)/python" -m zenzefi dev up

test: $(INSTALLED)
	@exec "$(BIN)/python" -m pytest -n logical --dist worksteal $(ARGS)

lint: $(INSTALLED)
	"$(BIN)/ruff" format --check .
	"$(BIN)/ruff" check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports"
	"$(BIN)/squawk" $(filter-out %.rollback.sql,$(wildcard migrations/*.sql))

bench: $(INSTALLED)
	@exec "$(BIN)/python" -m loadtest.bench $(BENCH)

# Up, all the way down and up again on fresh databases with the same schema, killed runs, and whether the release before
# can serve on the new schema. `make test` has the same tests.
check-migrations: $(INSTALLED)
	@"$(BIN)/squawk" $(filter-out %.rollback.sql,$(wildcard migrations/*.sql))
	@exec "$(BIN)/python" -m pytest tests/migrations tests/deploy/test_rollout_migrations.py $(ARGS)

loadtest: $(INSTALLED)
	@exec "$(BIN)/python" -m loadtest.run

check-deploy: $(INSTALLED)
	@exec "$(BIN)/python" -m deploy.checks $(CHECK)

# The project itself is not built, which would fetch build tools that no lock file names: a .pth file makes it importable.
$(INSTALLED): requirements-dev.lock
	@rm -f $@
	@if ! "$(BIN)/python" -m pip --version >/dev/null 2>&1; then \
		for python in $(PYTHONS); do \
			if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found="$$python"; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo 'error: Python 3.11 or newer is needed, and $(or $(PYTHON),none of $(PYTHONS)) is that.' >&2; \
			echo 'Install it (Debian, Ubuntu: apt install python3 python3-venv), or name one: make run PYTHON=/path/to/python3' >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$found" --version)"; \
		if ! "$$found" -m venv --clear $(VENV); then \
			echo "error: $$found cannot make a virtual environment. Debian, Ubuntu: apt install python3-venv" >&2; \
			exit 1; \
		fi; \
	fi
	@echo 'Installing requirements-dev.lock'
	@"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements-dev.lock
	@"$(BIN)/python" -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "zenzefi.pth").write_text("$(CURDIR)\n")'
	@touch $@
