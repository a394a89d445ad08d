"""Checks of everything in deploy/, each by the real tool: `make check-deploy`, or `python -m deploy.checks NAME…`."""
