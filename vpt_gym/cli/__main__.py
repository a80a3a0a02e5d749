"""`python -m vpt_gym.cli` is `vpt-gym`."""

import sys

from vpt_gym.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
