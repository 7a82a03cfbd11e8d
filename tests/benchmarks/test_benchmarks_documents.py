"""The numbers of the READMEs are those of the committed results."""

import pytest

from benchmarks.documents import PARTS


@pytest.mark.recipes
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.results)
def test_numbers_are_those_of_the_committed_result(part):
    # Whether the code has changed since is for those who write the documents, not for every change.
    texts = {part.expected(stale=stale) for stale in (False, True)}
    assert part.current() in texts, "run: python -m benchmarks.documents"
