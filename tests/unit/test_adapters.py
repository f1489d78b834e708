"""A user's own factory: found, called, checked; what is wrong with it is told in a sentence."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scalebench import adapters, workloads
from scalebench.adapters.blocks import find_blocks, given_blocks
from scalebench.adapters.dataset import DatasetSource
from scalebench.adapters.nested import flatten, unflatten
from scalebench.cli.recipes import rated
from scalebench.errors import UserError
from scalebench.training.parts import parts
from tests.processes import printed
from tests.unit.factory import make_spec

EXAMPLES = Path(__file__).parents[1] / "examples"
PLAIN = f"{EXAMPLES / 'plain.py'}:make"


def own(tmp_path: Path, source: str, name: str = "make", **options: Any) -> Any:
    """The workload that `source`, a user's file, makes."""
    path = tmp_path / f"net_{abs(hash(source))}.py"
    path.write_text(source)
    workload = adapters.create(adapters.resolve_name(f"{path}:{name}"), options)
    adapters.check(workload)
    return workload


HEAD = """
import torch
from torch import nn
data = [(torch.randn(4), i % 3) for i in range(32)]
"""


def test_a_model_is_validated_and_tested_on_what_it_brings_along(tmp_path):
    source = (
        HEAD
        + """
import scalebench
def make():
    sets = {"dataset": data[:20], "validation": data[20:25], "test": data[25:]}
    return scalebench.Model(module=nn.Linear(4, 3), loss=nn.CrossEntropyLoss(), **sets)
"""
    )
    workload = own(tmp_path, source)
    spec = make_spec(workload=workload.name, data="own", size="own")
    split = parts(workload, spec, rated(spec, {"test": True}))
    assert [len(part) for part in (split.train, split.val, split.test)] == [20, 5, 7]
    classes = split.test.__getitems__(range(7))["1"]
    assert classes.tolist() == [i % 3 for i in range(25, 32)]


def test_a_plain_module_is_built_on_meta_with_its_own_values():
    workload = workloads.create(PLAIN, "own", {"width": 16, "depth": 2})
    module = workload.build()
    assert all(parameter.is_meta for parameter in module.parameters())
    assert workload.block_names(module) == ["model.layers.0", "model.layers.1"]
    assert workload.no_decay_names(module) >= {"model.head.bias", "model.layers.0.norm.weight"}
    assert "model.head.weight" not in workload.no_decay_names(module)
    bound = 1 / math.sqrt(32)  # nn.Linear's own initialisation
    value = torch.empty(16, 32)
    workload.init_parameter_("model.embed.weight", value, torch.Generator())
    assert 0.9 * bound < value.abs().max() < bound


def test_values_follow_from_the_seed_alone():
    def value(seed: int) -> torch.Tensor:
        workload = adapters.create(PLAIN, {"width": 16}, seed)
        tensor = torch.empty(4, 16)
        workload.init_parameter_("model.head.weight", tensor, torch.Generator())
        return tensor

    before, first = torch.get_rng_state(), value(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, value(1))
    adapters._created.cache_clear()
    torch.manual_seed(5)
    assert torch.equal(first, value(1))
    assert not torch.equal(first, value(2))


def test_flops_are_those_of_the_products():
    width, depth, classes, length = 16, 2, 4, 32
    workload = workloads.create(PLAIN, "own", {"width": width, "depth": depth})
    forward = 2 * (length * width + depth * 4 * width * width + width * classes)
    # the first layer's input needs no gradient
    assert workload.flops_per_sample() == 3 * forward - 2 * length * width
    assert workload.flops_per_sample(causal=True) is None


def test_tied_parameters_stay_tied(tmp_path):
    workload = own(
        tmp_path,
        HEAD
        + """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight
    def forward(self, x):
        return self.b(self.a(x))
def make():
    return Tied(), nn.CrossEntropyLoss(), data
""",
    )
    module = workload.build()
    assert module.model.a.weight is module.model.b.weight
    assert workload.parameter_count() == 16


def test_the_option_names_and_types_are_the_signatures():
    assert adapters.resolve_options(PLAIN, {"depth": 5}) == {"width": 64, "depth": 5, "dropout": 0.1}
    with pytest.raises(UserError, match="Did you mean 'depth'"):
        adapters.resolve_options(PLAIN, {"dept": 5})
    with pytest.raises(UserError, match=r"workload.depth cannot be 'two'"):
        adapters.resolve_options(PLAIN, {"depth": "two"})


def test_an_option_that_is_no_plain_value_is_no_option(tmp_path):
    (tmp_path / "net.py").write_text("def make(widths=(8, 16), note=None): pass")
    name = f"{tmp_path / 'net.py'}:make"
    assert adapters.resolve_options(name, {"note": 3}) == {"note": 3}
    with pytest.raises(UserError, match=r"workload.widths cannot be 3: Input should be a valid tuple"):
        adapters.resolve_options(name, {"widths": 3})


def test_a_changed_file_is_another_cell(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("x = 1")
    before = adapters.source_sha256(f"{path}:make")
    path.write_text("x = 2")
    assert before != adapters.source_sha256(f"{path}:make")


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        ("def make(:\n", "make", ["is no valid Python", "line 1"]),
        ("import torchvision_that_is_not_there", "make", ["'torchvision_that_is_not_there'", "pip install"]),
        ("raise RuntimeError('no luck')", "make", ["raises RuntimeError: no luck", "line 1"]),
        ("def make(): return 1", "mak", ["has no 'mak'", "Did you mean 'make'"]),
        ("make = 3", "make", ["type int", "makes nothing"]),
        (HEAD + "make = nn.Linear(4, 3)", "make", ["type Linear", "makes nothing"]),
        ("def make(): raise ValueError('bad width')", "make", ["raises ValueError: bad width", "line 1"]),
        ("def make(): import sys; sys.exit('usage: ...')", "make", ["raises SystemExit: usage"]),
        ("def make(): return 1", "make", ["returned an int", "a tuple (module, loss, dataset)"]),
        ("def make(): return 1, 2, 3", "make", ["of type int"]),
        ("def make(width): return width", "make", ["needs width", "--set workload.width=VALUE"]),
        (HEAD + "def make(): return nn.Linear(4, 3), nn.CrossEntropyLoss(), []", "make", ["is empty"]),
        (HEAD + "def make(): return nn.Linear(4, 3), nn.CrossEntropyLoss(), iter(data)", "make", ["map-style"]),
        (HEAD + "class Endless(torch.utils.data.IterableDataset):\n __len__ = lambda self: 8\n"
         " __iter__ = lambda self: iter(data)\n"
         "def make(): return nn.Linear(4, 3), nn.CrossEntropyLoss(), Endless()", "make", ["type Endless", "map-style"]),
        (HEAD + "def make(): return nn.Linear(4, 3).double(), nn.CrossEntropyLoss(), data", "make",
         ["weight is of float64", "--precision"]),
        (HEAD + "def make():\n words = [(torch.tensor([1, 2, 3]), i % 3) for i in range(32)]\n"
         " return nn.EmbeddingBag(4, 3, sparse=True), nn.CrossEntropyLoss(), words", "make", ["sparse=False"]),
        (HEAD + "def make(): return nn.Linear(5, 3), nn.CrossEntropyLoss(), data", "make", ["shapes cannot be"]),
        (HEAD + "def make(): return nn.Linear(4, 1), nn.CrossEntropyLoss(), data", "make", ["Target 1 is out of"]),
        (HEAD + "def make():\n double = [(x.double(), y) for x, y in data]\n"
         " return nn.Linear(4, 3), nn.CrossEntropyLoss(), double", "make", ["must have the same dtype"]),
        (HEAD + "def make(): return nn.Linear(4, 3), lambda output, target: output.sum() * torch.inf, data", "make",
         ["inf, so it cannot be trained"]),
        (HEAD + "import scalebench\ndef make():\n return scalebench.Model(module=nn.Linear(4, 3), "
         "loss=nn.CrossEntropyLoss(), dataset=data, items_per_sample=0)", "make", ["items_per_sample", "from 1"]),
        (HEAD + "def make(): return nn.Linear(4, 3), 'mse', data", "make", ["str", "cannot be called"]),
        (
            HEAD + "def make(): return nn.Linear(4, 3), nn.CrossEntropyLoss(reduction='none'), data",
            "make",
            ["shape (2,)", "scalar"],
        ),
        (HEAD + "def make(): return nn.Linear(4, 3).requires_grad_(False), nn.CrossEntropyLoss(), data", "make",
         ["no trainable"]),
        (HEAD + "def make(): return nn.Linear(4, 3), (lambda output, target: None), data", "make", ["a NoneType"]),
        (HEAD + "def make(): return nn.LazyLinear(3), nn.CrossEntropyLoss(), data", "make", ["not initialised"]),
        (
            HEAD + "def make(): return nn.Linear(4, 3), nn.CrossEntropyLoss(), [{'name': 'x', 'a': 1.0}] * 9",
            "make",
            ["type str at name", "collate_fn"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_sentence(tmp_path, source, name, words):
    with pytest.raises(UserError) as caught:
        own(tmp_path, source, name)
    told = str(caught.value)
    assert [word for word in words if word not in told] == [], told
    assert "\n" not in told


@pytest.mark.parametrize("given", ["nowhere.py:make", "net.py:", ":make", "net.py:a b", "net.py:1"])
def test_names_that_are_none(given):
    with pytest.raises(UserError, match=r"package.module:factory"):
        adapters.resolve_name(given)


def test_a_module_that_is_not_installed():
    with pytest.raises(UserError, match="is not there: no module 'no_such_package_here'"):
        adapters.create("no_such_package_here.net:make", {})


def test_names_are_resolved_without_torch():
    code = f"""
import sys
from scalebench import adapters
adapters.resolve_name({PLAIN!r}); adapters.source_sha256({PLAIN!r})
assert "torch" not in sys.modules
"""
    printed("-c", code)


def test_unused_parameters_are_known_before_launch(tmp_path):
    workload = own(
        tmp_path,
        HEAD
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare, self.scale = nn.Linear(4, 3), nn.Linear(4, 3), nn.Parameter(torch.tensor(1.0))
    def forward(self, x):
        return self.scale * self.used(x)
def make():
    return Net(), nn.CrossEntropyLoss(), data
""",
    )
    from scalebench.strategies.config import TrainConfig

    def reason(strategy: str, **settings: Any) -> str | None:
        return adapters.unsupported_reason(workload, strategy, {}, TrainConfig(**settings))

    assert "spare.weight, spare.bias" in (reason("ddp") or "")
    assert reason("ddp_find_unused_parameters_true") is None
    assert "scale" in (reason("fsdp") or "")
    assert reason("deepspeed_stage_3") is None
    assert "blocks" in (reason("single", activation_checkpointing=True) or "")


def test_a_forward_that_looks_at_values_is_run_for_real(tmp_path):
    workload = own(
        tmp_path,
        HEAD
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x) if float(x.sum()) > -1e9 else x
def make():
    return Net(), nn.CrossEntropyLoss(), data
""",
    )
    assert workload.flops_per_sample() == 2 * 2 * 4 * 3  # its input needs no gradient
    assert workload.inspection.unused == ()


def test_modules_that_give_their_own_loss_and_dicts(tmp_path):
    workload = own(
        tmp_path,
        HEAD
        + """
samples = [{"x": torch.randn(4), "y": torch.tensor(i % 3), "extra": 1.0} for i in range(8)]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x, y):
        return {"loss": nn.functional.cross_entropy(self.layer(x), y)}
def make():
    return Net(), None, samples
""",
    )
    batch = workload.samples("own", 0).__getitems__([0, 3])
    assert set(batch) == {"x", "y", "extra"}
    module = workload._root
    plain = nn.functional.cross_entropy(module.model.layer(batch["x"]), batch["y"])
    assert torch.equal(module(batch), plain)
    sums = module(batch, "metrics")
    assert workload.metrics(sums) == {"loss": pytest.approx(plain.item())}


def test_a_module_may_return_its_loss_beside_its_logits(tmp_path):
    workload = own(
        tmp_path,
        HEAD
        + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x, y):
        logits = self.layer(x)
        return logits, nn.functional.cross_entropy(logits, y)
def make():
    return Net(), data
""",
    )
    batch = workload.samples("own", 0).__getitems__([0, 3])
    assert torch.equal(workload._root(batch), workload._root.model(batch["0"], batch["1"])[1])


NORMED = """
def make(norm: str = "batch"):
    layer = nn.BatchNorm1d(8) if norm == "batch" else nn.LayerNorm(8)
    return nn.Sequential(nn.Linear(4, 8), layer, nn.Linear(8, 3)), nn.CrossEntropyLoss(), data
"""


def test_what_fails_once_parameters_and_inputs_are_cast_is_known_before_launch(tmp_path):
    from scalebench.strategies.config import TrainConfig

    def reason(norm: str, strategy: str, precision: Any) -> str | None:
        workload = own(tmp_path, HEAD + NORMED, norm=norm)
        return adapters.unsupported_reason(workload, strategy, {}, TrainConfig(precision=precision))

    for strategy in ("fsdp", "fsdp1", "deepspeed_stage_1", "deepspeed_stage_3"):
        assert "a BatchNorm's statistics" in (reason("batch", strategy, "bf16") or "")
    assert reason("batch", "ddp", "bf16") is reason("batch", "fsdp", "fp32") is reason("layer", "fsdp", "bf16") is None


def test_where_parameters_are_16_bit_inputs_are_and_the_loss_is_fp32(tmp_path):
    workload = own(
        tmp_path,
        HEAD
        + """
def loss(output, target):
    assert output.dtype is torch.float32
    return nn.functional.cross_entropy(output, target)
def make():
    return nn.Linear(4, 3), loss, data
""",
    )
    batch = workload.samples("own", 0).__getitems__([0, 1, 2, 3])
    exact, short = workload._root(batch), workload._root.bfloat16()(batch)
    assert short.item() == pytest.approx(exact.item(), rel=5e-2)


def test_find_blocks():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList(nn.Sequential(Block(), Block()) for _ in range(2))
            self.small = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

    net = Net()

    assert find_blocks(net) == ["stages.0", "stages.1"]  # the outermost of those that hold the same parameters
    assert given_blocks(net, "Block") == ["stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1"]
    assert given_blocks(net, "stages") == ["stages.0", "stages.1"]
    assert given_blocks(net, "small.0") == ["small.0"]
    assert find_blocks(nn.Linear(2, 2)) == []
    with pytest.raises(UserError, match="Did you mean 'stages'"):
        given_blocks(net, "stage")
    with pytest.raises(UserError, match="Allowed: 0, 1"):
        given_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "stage")


def test_blocks_that_share_parameters_are_none():
    layers = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    layers[1].weight = layers[0].weight
    assert find_blocks(nn.ModuleDict({"layers": layers})) == ["layers.2"]


@pytest.mark.parametrize(
    "batch",
    [
        torch.ones(2),
        (torch.ones(2), torch.zeros(2)),
        {"a": torch.ones(2), "b": {"c": torch.zeros(2), "d": (torch.ones(2), torch.ones(2))}},
        ({"image": torch.ones(2)}, torch.zeros(2)),
    ],
)
def test_batches_of_any_shape_come_back(batch):
    back = unflatten(flatten(batch))
    spec, other = torch.utils._pytree.tree_structure(batch), torch.utils._pytree.tree_structure(back)
    assert spec == other


def test_draws_of_a_dataset_depend_on_nothing_else():
    sys.path.insert(0, str(EXAMPLES))
    try:
        from plain import Waves
    finally:
        sys.path.pop(0)
    source = DatasetSource("waves", Waves(), None, seed=3)
    together = source.__getitems__([5, 300, 7])
    alone = source.__getitems__(torch.tensor([300]))
    assert torch.equal(together["0"][1], alone["0"][0])
    assert int(alone["1"]) == 300 % 256 % 4
    assert not torch.equal(source.__getitems__([300 - 256])["0"], alone["0"])  # another epoch is augmented anew
    assert source.sha256 == DatasetSource("waves", Waves(), None, seed=3).sha256
    assert source.sha256 != DatasetSource("waves", Waves(length=16), None, seed=3).sha256


def test_a_transformers_model_that_is_no_language_model_needs_its_data(tmp_path):
    pytest.importorskip("transformers")
    source = """
from transformers import BertConfig, BertForSequenceClassification
small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=16)
def make():
    return BertForSequenceClassification(BertConfig(**small))
"""
    with pytest.raises(UserError, match=r"BertForSequenceClassification without data.*Return \(model, dataset\)"):
        own(tmp_path, source)


def test_flops_of_a_transformers_configuration_are_counted_on_meta():
    pytest.importorskip("transformers")
    name = "transformers:LlamaConfig"
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 260, "context_length": 16}  # fmt: skip
    workload = workloads.create(name, "own", workloads.resolve_options(name, "own", shape))
    assert len(workload.block_names(workload.build())) == 2
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 260 * 32
    expected = 3 * 16 * (2 * weights + 4 * 2 * 32 * 16)
    assert workload.flops_per_sample() == pytest.approx(expected, rel=0.02)
    batch = workload.samples("synthetic", 0).__getitems__([0])
    with FlopCounterMode(display=False) as counter:
        workload._root(batch).backward()
    assert counter.get_total_flops() > 0
