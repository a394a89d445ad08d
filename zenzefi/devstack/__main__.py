"""python -m zenzefi.devstack is the same as zenzefi dev up, without the rest of the command line."""

import sys

from zenzefi.devstack.up import dev_up

if __name__ == "__main__":
    sys.exit(dev_up())
