"""`python -m possm`, which is what torchrun starts."""

import sys

from possm.cli import main

sys.exit(main())
