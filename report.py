"""Write the report of what was measured: `python report.py --help`. The same command as `scalebench report`."""

import sys

from scalebench.cli.main import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
