"""Access tokens: bought, activated by their first use, rotated, refunded and ended."""
