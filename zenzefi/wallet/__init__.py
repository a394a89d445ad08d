"""Wallets: a double-entry ledger, balances and their history."""
