"""``python -m glmc``."""

import sys

from glmc.command.cli import main

sys.exit(main())
