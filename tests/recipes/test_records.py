"""Records are read as they were written; files of another form are refused by the field's name."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from recipes.comparison.summary import Comparison
from recipes.records import from_json, read_record, to_json

pytestmark = pytest.mark.recipes


@dataclass(frozen=True)
class Inner:
    value: float
    size: Literal["small", "large"] = "small"


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    ready: bool
    inner: Inner
    pairs: tuple[Inner, ...]
    rows: list[list[float]]
    by_name: dict[str, float | None]
    anything: Any = None
    total: int = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "total", len(self.rows))


RECORD = Outer(
    "a", 2, True, Inner(0.5), (Inner(1), Inner(2.0, "large")), [[1.0], []], {"x": None}, {"k": [1]}
)
VALUES = to_json(RECORD)


def test_a_record_is_what_is_read_from_its_json():
    assert VALUES["total"] == 2
    assert from_json(Outer, json.loads(json.dumps(VALUES, allow_nan=False))) == RECORD


def test_values_that_follow_from_others_are_not_believed():
    assert from_json(Outer, VALUES | {"total": 7, "of a later version": 1}).total == 2


def test_nan_is_null_in_files():
    values = to_json(Inner(math.nan))
    assert values == {"value": None, "size": "small"}
    assert math.isnan(from_json(Inner, values).value)


def test_missing_fields_have_their_defaults():
    assert from_json(Inner, {"value": 1.5}) == Inner(1.5, "small")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 2.0}, r"^count is '2.0', expected int"),
        ({"count": True}, r"^count is 'True', expected int"),
        ({"ready": 1}, r"^ready is '1', expected bool"),
        ({"name": None}, r"^name is 'None', expected str"),
        ({"inner": {}}, r"^inner.value is missing"),
        ({"inner": [1]}, r"^inner is '\[1\]', expected Inner"),
        ({"inner": {"value": 1.0, "size": "huge"}}, r"^inner.size is 'huge', expected .*'small'"),
        ({"pairs": [{"value": "x"}]}, r"^pairs\[0\].value is 'x', expected float"),
        ({"rows": [[1.0], ["x"]]}, r"^rows\[1\]\[0\] is 'x', expected float"),
        ({"rows": {}}, r"^rows is '\{\}', expected list\[list\[float\]\]"),
        ({"by_name": {"x": "y"}}, r"^by_name.x is 'y', expected float"),
    ],
)
def test_values_of_another_type_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_json(Outer, VALUES | change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"a.json is not of the form of Comparison: it is '\[1\]', expected Comparison"),
        ("{}", r"a.json is not of the form of Comparison: heads is missing"),
        ("{", r"a.json is not valid JSON"),
    ],
)
def test_files_of_another_form_are_named(text, message, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_record(Comparison, tmp_path / "a.json")
