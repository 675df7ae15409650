"""Runs the command line as `python -m purify`."""

import sys

from purify.cli import main

if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
