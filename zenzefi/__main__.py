"""`python -m zenzefi` is the command line."""

from zenzefi.cli import main

main()
