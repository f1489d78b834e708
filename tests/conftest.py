"""Make `tests` importable by name, in the processes that tests start too: `from tests.distributed.ranks import …`."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
