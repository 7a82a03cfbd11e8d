import math

import numpy as np
import pytest
import torch
from data_files import write_folder
from hypothesis import given
from hypothesis import strategies as st

from recipes.data import DataOptions, load_data
from recipes.data.sampling import allocate, choose

pytestmark = pytest.mark.recipes


def counts(labels, classes):
    """Images of each label pair."""
    table = np.zeros(classes, int)
    np.add.at(table, tuple(labels.T.numpy()), 1)
    return table


@given(
    weights=st.lists(st.integers(1, 50), min_size=1, max_size=12),
    available=st.lists(st.integers(1, 40), min_size=12, max_size=12),
    total=st.none() | st.integers(1, 400),
)
def test_numbers_are_proportional_whole_and_as_many_as_there_are(weights, available, total):
    tuples = torch.arange(len(weights))[:, None]
    available = available[: len(weights)]
    shares = [w / sum(weights) for w in weights]
    most = min(a * sum(weights) // w for a, w in zip(available, weights, strict=True))
    numbers = allocate(tuples, torch.tensor(weights), torch.tensor(available), total).tolist()
    expected = most if total is None else min(most, total)
    assert sum(numbers) == expected
    for number, share, there in zip(numbers, shares, available, strict=True):
        assert abs(number - share * expected) < 1
        assert 0 <= number <= there


@given(classes=st.integers(2, 7), total=st.integers(1, 200))
def test_balanced_pairs_leave_classes_balanced_within_one(classes, total):
    pairs = torch.cartesian_prod(torch.arange(classes), torch.arange(classes))
    numbers = allocate(pairs, torch.ones(len(pairs)), torch.full((len(pairs),), 500), total)
    table = numbers.reshape(classes, classes)
    for margin in (table.sum(0), table.sum(1)):
        assert margin.max() - margin.min() <= 1


def test_a_subset_keeps_the_shares_of_the_whole():
    labels = torch.tensor([[0]] * 60 + [[1]] * 30 + [[2]] * 10)
    chosen = choose(labels, {"a": 3}, DataOptions(), 50)
    assert labels[chosen, 0].bincount().tolist() == [30, 15, 5]
    assert torch.equal(chosen, chosen.unique())
    assert torch.equal(chosen, choose(labels, {"a": 3}, DataOptions(), 50))
    assert not torch.equal(chosen[:30], torch.arange(30))  # drawn, not the first ones
    assert torch.equal(choose(labels, {"a": 3}, DataOptions(), None), torch.arange(100))


def digits(**options):
    data = load_data("multi-digits", DataOptions(**options))
    return counts(data.train.labels, tuple(data.tasks.values())), data


def test_imbalance_is_exponential_in_each_task_and_leaves_the_test_images():
    table, data = digits(imbalance=10)
    expected = 10.0 ** (-np.arange(10) / 9)
    expected = 10_000 * np.outer(expected, expected) / expected.sum() ** 2
    assert np.abs(table - expected).max() < 1
    assert (counts(data.test.labels, (10, 10)) == 20).all()


def test_pair_imbalance_leaves_every_class_as_frequent():
    table, _ = digits(pair_imbalance=8, train_images=5000)
    assert table.sum(0).tolist() == table.sum(1).tolist() == [500] * 10
    for i in range(10):
        assert table[i, i] / table[i, i - 1] == pytest.approx(8, rel=0.1)
        assert table[i, (i + 3) % 10] / table[i, i] == pytest.approx(8 ** (-3 / 9), rel=0.05)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_agreement_is_the_share_of_equal_labels_at_balanced_classes(share):
    table, _ = digits(agreement=share, train_images=4000)
    assert table.trace() == 4000 * share
    assert table.sum() == 4000
    assert np.abs(table.sum(0) - 400).max() <= 1
    assert np.abs(table.sum(1) - 400).max() <= 1
    apart = table[~np.eye(10, dtype=bool)]
    assert apart.max() - apart.min() <= 1


def test_tasks_can_have_unequal_numbers_of_classes():
    table, data = digits(classes=(10, 4), train_images=800, test_images=400)
    assert data.tasks == {"left": 10, "right": 4}
    assert (table == 20).all()
    assert (counts(data.test.labels, (10, 4)) == 10).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    write_folder(root, dict.fromkeys("abcd", 40), dict.fromkeys("abcd", 3), size=(4, 4))
    (root / "own.json").write_text('{"first": ["a", "b"], "second": ["c", "d"]}')
    (root / "both.json").write_text(
        '{"x": {"a": 0, "b": 0, "c": 1, "d": 1}, "y": {"a": 0, "b": 1, "c": 0, "d": 1}}'
    )
    return root


def test_skews_of_a_folder_take_as_many_images_as_there_are(folder):
    data = load_data("image-folder", DataOptions(root=folder, imbalance=8))
    assert data.train.labels[:, 0].bincount().tolist() == [40, 20, 10, 5]
    assert data.test.labels[:, 0].bincount().tolist() == [3] * 4
    options = DataOptions(root=folder, tasks=folder / "both.json", agreement=0.8)
    both = load_data("image-folder", options)
    assert counts(both.train.labels, (2, 2)).tolist() == [[40, 10], [10, 40]]


def test_imbalance_of_tasks_with_their_own_samples_is_of_each(folder):
    options = DataOptions(root=folder, tasks=folder / "own.json", imbalance=4)
    labels = load_data("image-folder", options).train.labels
    for column in labels.unbind(1):
        assert column[column >= 0].bincount().tolist() == [40, 10]


def test_fewer_classes_of_a_folder_leave_images_out(folder):
    data = load_data("image-folder", DataOptions(root=folder, classes=(3,), train_images=30))
    assert data.tasks == {"class": 3}
    assert data.train.labels[:, 0].bincount().tolist() == [10] * 3
    assert data.test.labels[:, 0].bincount().tolist() == [3] * 3
    assert data.train.images.float().mean((1, 2, 3)).max() < 170  # the brightest class is left out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_images": 0}, "train_images=0: at least 1"),
        ({"imbalance": 0.5}, "imbalance=0.5: at least 1"),
        ({"pair_imbalance": math.nan}, "pair_imbalance=nan: at least 1"),
        ({"agreement": 1.5}, "agreement=1.5: a share lies between 0 and 1"),
        ({"classes": (1, 4)}, "a task needs at least 2, got 1"),
        ({"imbalance": 2.0, "agreement": 0.5}, "imbalance and agreement are two distributions"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataOptions(**options)


def test_options_that_do_not_fit_the_data_are_refused(folder):
    with pytest.raises(ValueError, match=r"classes=\(4,\): one number a task is needed"):
        digits(classes=(4,))
    with pytest.raises(ValueError, match=r"at most \(10, 10\) for"):
        digits(classes=(4, 11))
    with pytest.raises(ValueError, match=r"agreement=0.5 needs two tasks of equally many classes"):
        digits(agreement=0.5, classes=(10, 4))
    with pytest.raises(ValueError, match=r"pair_imbalance=2.0 needs two tasks"):
        load_data("image-folder", DataOptions(root=folder, pair_imbalance=2.0))
    agreeing = DataOptions(root=folder, tasks=folder / "own.json", agreement=0.5)
    with pytest.raises(ValueError, match="needs two tasks of equally many classes on the same im"):
        load_data("image-folder", agreeing)
    with pytest.raises(ValueError, match="no training image has label 2 of task 'class'"):
        load_data("image-folder", DataOptions(root=folder, train_images=2))
    few = DataOptions(root=folder, tasks=folder / "own.json", test_images=1)
    with pytest.raises(ValueError, match="no test image has a label of task 'first'"):
        load_data("image-folder", few)


def test_a_skew_needs_images_of_all_label_tuples(tmp_path):
    write_folder(tmp_path, dict.fromkeys("abc", 5), dict.fromkeys("abc", 1), size=(4, 4))
    (tmp_path / "tasks.json").write_text(
        '{"x": {"a": 0, "b": 0, "c": 1}, "y": {"a": 0, "b": 1, "c": 1}}'
    )
    options = DataOptions(root=tmp_path, tasks=tmp_path / "tasks.json", agreement=0.5)
    with pytest.raises(ValueError, match=r"agreement=0.5 needs images of all 4 label tuples.* 3"):
        load_data("image-folder", options)


def test_options_that_a_data_set_does_not_heed_are_refused():
    with pytest.raises(
        ValueError, match=r"attributes=.'Bald',.: multi-digits has no use for it; c"
    ):
        digits(attributes=("Bald",))
    with pytest.raises(ValueError, match=r"train_images=9: binary-digits-0.9 has no use for it"):
        load_data("binary-digits-0.9", DataOptions(train_images=9))
