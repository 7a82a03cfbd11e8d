"""The numbers of the READMEs are those of the committed results."""

import pytest

from benchmarks.documents import PARTS


@pytest.mark.recipes
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.results)
def test_numbers_are_those_of_the_committed_result(part):
    assert part.current() == part.expected(), "run: python -m benchmarks.documents"
