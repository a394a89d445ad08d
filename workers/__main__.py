"""`python -m workers` runs one worker until SIGTERM."""

import sys

from workers.main import main

sys.exit(main())
