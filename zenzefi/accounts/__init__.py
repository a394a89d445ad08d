"""Accounts: who a person is, and which of their logins are open."""
