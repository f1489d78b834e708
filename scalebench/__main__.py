"""`python -m scalebench`: the same as the command `scalebench`."""

from __future__ import annotations

from scalebench.cli.main import main

if __name__ == "__main__":
    main()
