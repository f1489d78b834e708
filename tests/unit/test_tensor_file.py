"""Tensors written one at a time are read back by safetensors itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scalebench.training.tensor_file import DTYPES, write_tensors


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = [(3, 5), (), (0, 2), (7,)]
    made = [(f"a.{index}.{dtype}", dtype, shape) for dtype in DTYPES for index, shape in enumerate(shapes)]
    values = {name: (100 * torch.rand(shape)).to(dtype) for name, dtype, shape in made}
    like = {name: value.to("meta") for name, value in values.items()}
    write_tensors(tmp_path / "f", like, reversed(values.items()))
    found = load_file(tmp_path / "f")
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_values_become_what_is_stored(tmp_path: Path) -> None:
    strided = torch.arange(6.0, dtype=torch.bfloat16).reshape(2, 3).T
    write_tensors(tmp_path / "f", {"x": torch.empty(3, 2, device="meta")}, [("x", strided)])
    assert torch.equal(load_file(tmp_path / "f")["x"], strided.float())


@pytest.mark.parametrize(
    "values", [{}, {"x": torch.zeros(3)}, {"x": torch.zeros(2), "y": torch.zeros(2)}, {"y": torch.zeros(2)}]
)
def test_what_was_not_to_be_written_is_told(values: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="to be written"):
        write_tensors(tmp_path / "f", {"x": torch.empty(2, device="meta")}, values.items())
