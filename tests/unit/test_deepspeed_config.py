"""The DeepSpeed JSON that a run builds, and every contradiction of a user's own, one sentence each."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any, get_args

import pytest

from scalebench import strategies
from scalebench.strategies import compat
from scalebench.strategies.config import OptimizerConfig, TrainConfig
from scalebench.strategies.deepspeed import DeepSpeed
from scalebench.strategies.deepspeed_keys import OBJECT, OTHER, REMOVED, REPLACED, SECTIONS, SIZE, SWITCH, TOP_LEVEL
from scalebench.strategies.deepspeed_unmatched import unmatched
from scalebench.strategies.deepspeed_user import check_user_config
from tests.processes import python

RUN = TrainConfig(
    micro_batch=4,
    accumulation=2,
    clip_norm=0.5,
    optimizer=OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.95), eps=1e-8),
)
RANKS = 3


def run(**changes: Any) -> TrainConfig:
    return dataclasses.replace(RUN, **changes)


def json_of(strategy: str, training: TrainConfig = RUN, **options: Any) -> dict[str, Any]:
    created = strategies.create(strategy, options)
    assert isinstance(created, DeepSpeed)
    return created.plan(training, RANKS).json


FITTING: dict[str, Any] = {
    "train_batch_size": 24,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 0.5,
    "zero_optimization": {"stage": 1, "reduce_bucket_size": 1000, "overlap_comm": False},
    "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}},
    "bf16": {"enabled": False},
    "gradient_allreduce_op": "mean",
}


def test_a_json_that_says_what_the_run_says_is_accepted() -> None:
    assert check_user_config(FITTING, RUN, RANKS) == []
    assert check_user_config(FITTING, RUN, RANKS, stage=1) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("train_batch_size", 25, "24"),
        ("train_micro_batch_size_per_gpu", 8, "4"),
        ("gradient_accumulation_steps", 1, "2"),
        ("gradient_clipping", 1.0, "0.5"),
        ("gradient_clipping", 0.0, "0.5"),
        ("optimizer.params.max_grad_norm", 1.0, "0.5"),
        ("optimizer.params.lr", 1e-4, "0.001"),
        ("optimizer.params.weight_decay", 0.0, "0.1"),
        ("optimizer.params.betas", [0.9, 0.999], "0.95"),
        ("optimizer.params.eps", 1e-6, "1e-08"),
        ("optimizer.params.lr", True, "0.001"),
        ("optimizer.type", "SGD", "adamw"),
        ("optimizer.type", "Lamb", "adamw"),
        ("gradient_allreduce_op", "sum", "mean"),
        ("managed_gradient_accumulation", False, "True"),
        ("bf16.enabled", True, "fp32"),
        ("fp16.enabled", True, "fp32"),
        ("torch_autocast", {"enabled": True, "dtype": "bfloat16"}, "fp32"),
        ("zero_optimization.stage", 4, "0, 1, 2 and 3"),
        ("zero_optimization.offload_optimizer", {"device": "nvme"}, "cpu"),
        ("zero_optimization.offload_param", {"device": "nvme"}, "cpu"),
        ("zero_optimization", True, "object"),
        ("scheduler", {"type": "WarmupLR"}, "learning rate"),
        ("flops_profiler", {"enabled": True}, "timed steps"),
        ("wall_clock_breakdown", True, "timed steps"),
        ("tensor_parallel", {"autotp_size": 2}, "data parallel"),
        ("sequence_parallel_size", 2, "data parallel"),
        ("compile", {"deepcompile": True}, "--compile"),
        ("amp", {"enabled": False}, "removed"),
        ("zero_optimisation", {"stage": 1}, "write 'zero_optimization'"),
        ("gradient_accumulation_step", 2, "write 'gradient_accumulation_steps'"),
        ("something_of_mine", 1, "remove it"),
        ("zero_optimization.overlap_coms", True, "write 'overlap_comm'"),
        ("zero_optimization.cpu_offload", True, "write 'offload_optimizer'"),
        ("fp16", {"init_scale_power": 8}, "write 'initial_scale_power'"),
        ("fp16", {"loss_scale": "high"}, "a number of at least 0"),
        ("zero_optimization.reduce_bucket_size", -5, "a number of at least 0"),
        ("zero_optimization.overlap_comm", "yes", "true or false"),
        ("zero_optimization.leaf_module", ["Block"], "an object"),
    ],
)
def test_each_contradiction_is_refused_in_one_sentence(path: str, value: object, told: str) -> None:
    sentences = check_user_config(changed(FITTING, path, value), RUN, RANKS)
    assert len(sentences) == 1
    assert path.partition(".")[0] in sentences[0]
    assert told in sentences[0]


def changed(json: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return json | {head: changed(json.get(head, {}), rest, value) if rest else value}


def test_unknown_keys_are_passed_on_when_that_is_asked() -> None:
    user = FITTING | {"key_of_a_newer_deepspeed": 1}
    assert any("allow_unknown_keys" in sentence for sentence in DeepSpeed(config=user).contradictions(RUN, RANKS))
    asked = DeepSpeed(config=user, allow_unknown_keys=True)
    assert asked.contradictions(RUN, RANKS) == []
    json = asked.plan(RUN, RANKS).json
    assert json["key_of_a_newer_deepspeed"] == 1
    assert "allow_unknown_keys" not in str(json)


class Watched(dict[str, Any]):
    """A dict that remembers which keys it was asked for."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def keys(self) -> Any:
        return self

    def __copy__(self) -> Watched:
        return self


def test_the_known_keys_are_those_that_deepspeed_reads() -> None:
    config = pytest.importorskip("deepspeed.runtime.config")
    watched = Watched({"train_batch_size": 1})
    config.DeepSpeedConfig(watched)
    in_a_process_group = {"sequence_parallel_size"}
    assert (watched.asked | in_a_process_group) - set(REMOVED) == set(TOP_LEVEL)
    assert set(config._REMOVED_TOP_LEVEL_CONFIG_KEYS) == set(REMOVED)


def test_the_known_keys_of_sections_are_those_of_deepspeeds_models() -> None:
    config = pytest.importorskip("deepspeed.runtime.config")
    models = {
        "zero_optimization": config.get_zero_config({}),
        "fp16": config.get_float16_config({}),
        "bf16": config.get_bfloat16_config({}),
    }
    for name, model in models.items():
        fields = {field.alias or key: field for key, field in type(model).model_fields.items()}
        old = {key for key, field in fields.items() if (field.json_schema_extra or {}).get("deprecated")}
        assert set(SECTIONS[name]) == set(fields) - old
        assert {f"{name}.{key}" for key in old} <= set(REPLACED)
        for key, kind in SECTIONS[name].items():
            takes_truth = bool in (fields[key].annotation, *get_args(fields[key].annotation))
            takes_numbers = fields[key].annotation in (int, float)
            assert kind == (SWITCH if takes_truth else SIZE if takes_numbers else OTHER if key == "stage" else OBJECT)


def test_contradictions_are_all_told_at_once() -> None:
    wrong = {"train_batch_size": 1, "gradient_clipping": 9, "fp16": {"enabled": True}}
    assert len(check_user_config(wrong, RUN, RANKS)) == 3


def test_the_name_of_a_strategy_binds_the_json() -> None:
    json = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}
    assert check_user_config(json, RUN, RANKS) == []
    assert check_user_config(json, RUN, RANKS, stage=2, offload=True) == []
    (sentence,) = check_user_config(json, RUN, RANKS, stage=2)
    assert "offload" in sentence
    (sentence,) = check_user_config(json, RUN, RANKS, stage=3, offload=True)
    assert "stage" in sentence


@pytest.mark.parametrize(
    ("precision", "json", "count"),
    [
        ("bf16", {"bf16": {"enabled": True}}, 0),
        ("bf16", {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}, 0),
        ("bf16", {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}}, 0),
        ("bf16", {"torch_autocast": {"enabled": True}}, 0),
        ("bf16", {"bf16": {"enabled": False}}, 1),
        ("bf16", {"fp16": {"enabled": True}}, 1),
        ("bf16", {"torch_autocast": {"enabled": True, "dtype": "float16"}}, 1),
        ("bf16", {"bf16": {"enabled": True, "bf16_master_weights_and_grads": True}}, 1),
        ("bf16", {"bf16": {"enabled": True}, "zero_optimization": {"stage": 0}}, 1),
        ("bf16-true", {"bf16": {"enabled": True}}, 0),
        ("bf16-true", {"torch_autocast": {"enabled": True, "dtype": "bf16"}}, 1),
        ("fp16", {"fp16": {"enabled": True, "loss_scale": 128}}, 0),
    ],
)
def test_precision_sections_against_the_precision(precision: Any, json: dict[str, Any], count: int) -> None:
    assert len(check_user_config(json, run(precision=precision), RANKS)) == count


def test_auto_takes_the_value_of_the_run_and_other_values_are_used() -> None:
    user = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": 7},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
        "steps_per_print": "auto",
    }
    assert check_user_config(user, run(precision="bf16"), RANKS) == []
    json = json_of("deepspeed", run(precision="bf16"), config=user)
    assert json["train_batch_size"] == 4 * 2 * RANKS
    assert json["train_micro_batch_size_per_gpu"] == 4
    assert json["gradient_accumulation_steps"] == 2
    assert json["gradient_clipping"] == 0.5
    assert json["bf16"]["enabled"] is True
    assert json["zero_optimization"]["stage"] == 3
    assert json["zero_optimization"]["reduce_bucket_size"] * 4 == 25 * 2**20
    assert json["zero_optimization"]["stage3_prefetch_bucket_size"] == 7
    assert "optimizer" not in json
    assert "auto" not in str(json)


@pytest.mark.parametrize("section", [{"enabled": True}, {"enabled": True, "dtype": "auto"}])
def test_autocast_without_a_dtype_is_in_the_precision_of_the_run(section: dict[str, Any]) -> None:
    json = json_of("deepspeed_stage_2", run(precision="bf16"), config={"torch_autocast": section})
    assert DeepSpeed(stage=2, config={"torch_autocast": section}).casting == "autocast"
    assert json["torch_autocast"] == {"enabled": True, "dtype": "bf16"}
    assert "bf16" not in json


def test_options_reach_the_zero_section_and_a_json_may_not_change_the_users_object() -> None:
    user = {"zero_optimization": {"sub_group_size": 5}}
    zero = json_of("deepspeed_stage_2", config=user, overlap_comm=False, allgather_bucket_size=64)["zero_optimization"]
    assert (zero["overlap_comm"], zero["allgather_bucket_size"], zero["sub_group_size"]) == (False, 64, 5)
    assert user == {"zero_optimization": {"sub_group_size": 5}}


def test_backend_default_leaves_everything_to_deepspeed() -> None:
    json = json_of("deepspeed_stage_3", run(profile="backend-default", precision="bf16"))
    assert json["zero_optimization"] == {"stage": 3}
    assert json["bf16"] == {"enabled": True}
    assert not {"communication_data_type", "data_types", "timers"} & set(json)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "bf16-true"])
def test_at_most_one_section_chooses_the_precision(stage: int, precision: Any) -> None:
    json = json_of(f"deepspeed_stage_{stage}", run(precision=precision))
    chosen = [name for name in ("bf16", "fp16", "torch_autocast") if name in json]
    assert len(chosen) == (precision != "fp32" and (stage, precision) != (0, "bf16-true"))


def reason(strategy: str, device: str = "cpu", training: TrainConfig = RUN, **options: Any) -> str | None:
    sync = strategies.default_grad_sync(strategy)
    return strategies.create(strategy, options).unsupported_reason(
        dataclasses.replace(training, grad_sync=sync), device, RANKS
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "bf16-true", "fp16-true"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_runs_on_a_gpu(stage: int, precision: Any) -> None:
    told = reason(f"deepspeed_stage_{stage}", "cuda", run(precision=precision))
    assert (told is None) == ((stage, precision) not in {(1, "fp16-true"), (2, "fp16-true"), (3, "fp16-true")})


def test_fp16_on_a_cpu_is_what_onednn_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "cpu_computes_fp16", lambda: False)
    told = reason("deepspeed_stage_2", training=run(precision="fp16"))
    assert told is not None
    assert "bf16" in told
    monkeypatch.setattr(compat, "cpu_computes_fp16", lambda: True)
    assert reason("deepspeed_stage_2", training=run(precision="fp16")) is None


def test_what_cannot_be_is_told_with_what_to_do() -> None:
    early = dataclasses.replace(RUN, grad_sync="every_micro_batch")
    assert "grad_sync=last" in str(strategies.create("deepspeed_stage_1").unsupported_reason(early, "cpu", RANKS))
    assert (
        strategies.create("deepspeed_stage_1").unsupported_reason(
            dataclasses.replace(early, accumulation=1), "cpu", RANKS
        )
        is None
    )
    assert "stage 1, 2 or 3" in str(reason("deepspeed_stage_0", offload=True))
    assert "0, 1, 2 and 3" in str(reason("deepspeed", stage=7))
    assert "fp32" in str(reason("deepspeed", config={"fp16": {"enabled": True}}))
    late = dataclasses.replace(RUN, grad_sync="last")
    assert strategies.create("deepspeed_stage_3").unsupported_reason(late, "cpu", RANKS) is None
    assert reason("deepspeed_stage_2_offload", training=run(precision="bf16-true")) is not None


@pytest.mark.parametrize(("version", "supported"), [("0.19.8", True), ("0.20.0+abc", True), ("0.19.7", False)])
def test_versions_older_than_the_tested_are_told_so(
    version: str, supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    told = reason("deepspeed_stage_1")
    assert told is None if supported else "deepspeed>=0.19.8" in str(told)


WITHOUT_DEEPSPEED = """
import sys
sys.modules["deepspeed"] = None
from scalebench import strategies
from scalebench.strategies.config import TrainConfig
print(strategies.create("deepspeed_stage_2").unsupported_reason(TrainConfig(), "cpu", 2))
"""


def test_a_missing_deepspeed_makes_its_cells_unsupported() -> None:
    done = python("-c", WITHOUT_DEEPSPEED)
    assert (done.stdout, done.stderr) == ("deepspeed is not installed: pip install deepspeed\n", "")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_defaults_follow_the_stage_that_the_json_chose(stage: int) -> None:
    chosen = DeepSpeed(config={"zero_optimization": {"stage": stage}})
    assert chosen.default_grad_sync == strategies.default_grad_sync(f"deepspeed_stage_{stage}")
    assert chosen.casting == ("engine-cast" if stage else "autocast")


def test_what_offloads_is_known_before_anything_runs() -> None:
    json = {"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}}
    assert [name for name in strategies.entries() if "deepspeed" in name and strategies.create(name).offloads] == [
        "deepspeed_stage_2_offload",
        "deepspeed_stage_3_offload",
    ]
    assert DeepSpeed(config=json).offloads
    assert not DeepSpeed(config={}).offloads


def test_unmatched_is_told_of_the_matched_profile_only() -> None:
    told = {stage: strategies.create(f"deepspeed_stage_{stage}").unmatched(RUN, "cpu", RANKS) for stage in range(4)}
    assert all(told.values())
    assert [any("without overlap" in sentence for sentence in told[stage]) for stage in range(4)] == [True] + 3 * [
        False
    ]
    free = dataclasses.replace(RUN, profile="backend-default")
    assert strategies.create("deepspeed_stage_2").unmatched(free, "cpu", RANKS) == ()
    assert unmatched(DeepSpeed(stage=1).plan(run(precision="bf16"), RANKS)) != told[1]
