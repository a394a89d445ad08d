"""The background workers: arq runs what the slices' services offer."""
