"""`python -m promotions`."""

import sys

from promotions.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
