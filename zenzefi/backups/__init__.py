"""Backups: dumped, encrypted, stored, and proven by restoring them."""
