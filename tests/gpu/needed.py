"""The mark of tests that need a GPU: skipped without one, and run by `pytest -m gpu` alone."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
import torch

Test = TypeVar("Test", bound=Any)


def cuda(test: Test) -> Test:
    """Mark `test` as one that needs a GPU."""
    skipped = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and to be run by -m gpu")
    return pytest.mark.gpu(skipped(test))
