import pytest
import torch
from recipe_checks import scans_of
from sklearn.datasets import load_digits

from recipes.data.digits import multi_digits
from recipes.data.pairs import side_by_side, split_by_class
from recipes.training.augmentation import Augmentation, Standardise, shifted

pytestmark = pytest.mark.recipes


def test_no_scan_is_in_both_train_and_test():
    data = multi_digits()
    train, test = scans_of(data.train.images), scans_of(data.test.images)
    assert not train & test
    assert len(train) > 1400
    assert len(test) > 350
    assert len(train | test) <= len(load_digits().images)


def test_every_label_pair_has_as_many_images():
    data = multi_digits()
    for part, each in ((data.train, 100), (data.test, 20)):
        pairs, numbers = part.labels.unique(dim=0, return_counts=True)
        assert len(pairs) == 100
        assert numbers.unique().tolist() == [each]


def test_images_are_two_scans_of_the_labelled_digits():
    data, digits = multi_digits(), load_digits()
    label_of = {
        bytes((scan * 255 / 16).round().astype("uint8").flatten().tolist()): int(label)
        for scan, label in zip(digits.images, digits.target, strict=True)
    }
    images, labels = data.test.images, data.test.labels
    assert images.dtype == torch.uint8
    assert images.shape == (2000, 1, 8, 16)
    for image, (left, right) in zip(images[::37], labels[::37].tolist(), strict=True):
        assert label_of[bytes(image[0, :, :8].flatten().tolist())] == left
        assert label_of[bytes(image[0, :, 8:].flatten().tolist())] == right


def test_no_image_occurs_twice():
    images = multi_digits().train.images.flatten(1)
    assert len(images.unique(dim=0)) == len(images)


def test_composition_is_the_same_every_time():
    once, again = multi_digits.__wrapped__(), multi_digits.__wrapped__()
    assert torch.equal(once.train.images, again.train.images)
    assert torch.equal(once.test.labels, again.test.labels)


def test_split_takes_the_same_share_of_each_class():
    labels = torch.arange(50) % 5
    train, test = split_by_class(labels, test_share=0.2)
    assert [len(t) for t in test] == [2] * 5
    assert torch.cat(train + test).sort().values.tolist() == list(range(50))


def test_pairs_of_unequal_images_are_put_left_and_right():
    scans = torch.arange(3, dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    data = side_by_side(scans, [torch.tensor([0]), torch.tensor([1, 2])], images_per_pair=1)
    assert data.labels.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert data.images[0, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0]]
    assert data.images[2, 0, 0, :2].tolist() in ([1, 1], [2, 2])


def test_a_batch_is_fetched_in_one_piece():
    data = multi_digits().test
    images, labels, chosen = data.__getitems__([5, 3])
    assert chosen.tolist() == [5, 3]
    assert torch.equal(images, data.images[[5, 3]])
    assert torch.equal(labels, data.labels[[5, 3]])


def augmented(images, epoch, chosen, seed=0):
    augment = Augmentation(len(images), 1, flip=True, seed=seed, device=torch.device("cpu"))
    augment.start_epoch(epoch)
    return augment(images[chosen], chosen)


def test_augmentation_depends_on_seed_epoch_and_image_only():
    images, every = multi_digits().test.images[:64], torch.arange(64)
    whole = augmented(images, 1, every)
    assert torch.equal(augmented(images, 1, every[[9, 3, 40]]), whole[[9, 3, 40]])
    for other in (augmented(images, 2, every), augmented(images, 1, every, seed=1)):
        assert not torch.equal(whole, other)


def test_a_shift_moves_whole_images_and_brings_in_black():
    images = torch.full((200, 2, 4, 6), 7, dtype=torch.uint8)
    images[:, :, 1:3, 2:4] = 9
    moved = shifted(images, torch.randint(3, (2, 200)), 1)
    assert moved.dtype == torch.uint8
    assert moved.shape == images.shape
    corners = set()
    for image in moved:
        assert (image == 9).sum() == 2 * 4
        assert torch.equal(image[0], image[1])
        corners.add(tuple((image[0] == 9).nonzero()[0].tolist()))
    assert corners == {(y, x) for y in (0, 1, 2) for x in (1, 2, 3)}
    assert (moved == 0).any()


def test_standardised_images_have_mean_0_and_deviation_1():
    images = torch.randint(256, (50, 3, 4, 5), dtype=torch.uint8)
    standardise = Standardise(images)
    floats = standardise(images)
    assert floats.mean((0, 2, 3)).abs().max() < 1e-5
    assert (floats.std((0, 2, 3)) - 1).abs().max() < 1e-5
    assert not standardise.state_dict()
