"""`python -m tests.server.small_supervisor PROCESSES`: the real supervisor over the small application."""

import sys

from zenzefi.server.supervisor import serve
from zenzefi.settings import Settings

if __name__ == "__main__":
    sys.exit(serve(Settings.from_env(), int(sys.argv[1]), service="tests.server.small_service:open_service"))
