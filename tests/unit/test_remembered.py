"""A value is computed once per object, and never outlives it or reaches a copy."""

from __future__ import annotations

import gc

from scalebench.remembered import remembered
from tests.unit.factory import make_record, make_spec


def test_a_value_is_kept_for_the_very_object() -> None:
    asked = []

    @remembered
    def seconds(record: object) -> float:
        asked.append(record)
        return record.wall_seconds  # type: ignore[attr-defined, no-any-return]

    record = make_record(wall_seconds=2.0)
    assert seconds(record) == seconds(record) == 2.0
    assert len(asked) == 1
    assert seconds(record.model_copy(update={"wall_seconds": 3.0})) == 3.0
    asked.clear()
    for wall in range(200):
        del record
        gc.collect(0)
        record = make_record(wall_seconds=float(wall))
        assert seconds(record) == wall, "not that of one that lay at the same place"


def test_a_copy_of_a_spec_is_another_cell() -> None:
    spec = make_spec(micro_batch=4)
    assert spec.cell_id == make_spec(micro_batch=4).cell_id
    changed = spec.model_copy(update={"micro_batch": 5})
    assert changed.cell_id != spec.cell_id
    assert changed.cell_id == make_spec(micro_batch=5).cell_id


def test_true_and_one_are_two_cells() -> None:
    specs = [make_spec(strategy="fsdp", strategy_options={"reshard_after_forward": value}) for value in (True, 1)]
    assert len({spec.cell_id for spec in specs}) == 2


def test_a_field_at_its_default_does_not_name_the_cell() -> None:
    """So that a field which a later version adds leaves the cells of earlier records what they were."""
    assert make_spec().cell_id == make_spec(debug=False, num_workers=0).cell_id
