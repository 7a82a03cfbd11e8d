"""Images with sets of labels, and data without a relation of images and labels."""

import pytest
import torch
from data_files import digits, write_mnist
from sklearn.datasets import load_digits

from recipes.data import DataOptions, load_data
from recipes.data.digits import digit_pictures
from recipes.data.label_sets import digit_sets

pytestmark = pytest.mark.recipes


def test_every_set_of_one_digit_or_two_has_as_many_images():
    data = digit_sets()
    assert data.label_sets
    for part, alone, pair in ((data.train, 310, 60), (data.test, 80, 20)):
        sets, counts = part.labels.unique(dim=0, return_counts=True)
        assert len(sets) == 10 + 45
        assert counts[sets.sum(1) == 1].tolist() == [alone] * 10
        assert counts[sets.sum(1) == 2].tolist() == [pair] * 45


def found_in(image, digit):
    """Whether a digit (h, w) is in the image wherever this is as bright: upper left corners."""
    windows = image.unfold(0, digit.shape[0], 1).unfold(1, digit.shape[1], 1)
    return (windows >= digit).all(-1).all(-1).nonzero().tolist()


def test_images_show_the_digits_of_their_labels():
    data, (pictures, _) = digit_sets(), digit_pictures()
    by_class = [pictures.fetch((pictures.labels == k).nonzero()[:, 0])[:, 0] for k in range(10)]
    for number in (5, 1234, 3100, 4321, 5799):
        image, labels = data.train.images[number, 0], data.train.labels[number]
        own = labels.nonzero()[:, 0].tolist()
        places = {tuple(p) for k in own for scan in by_class[k] for p in found_in(image, scan)}
        corners = {(y, x) for y, x in places if max(y, x) <= 2 or min(y, x) >= 6}
        assert corners, number
        # Nothing is in the image that is not in a digit.
        assert image.sum() <= sum(max(int(s.sum()) for s in by_class[k]) for k in own)


def test_single_digits_stand_in_either_corner():
    alone = digit_sets().train.images[:3100, 0].long()
    upper, lower = alone[:, :8, :8].sum((1, 2)), alone[:, 8:, 8:].sum((1, 2))
    assert 0.45 < float((upper > lower).double().mean()) < 0.55


def test_no_scan_is_in_training_and_test():
    train, test = digit_pictures()
    assert len(train.labels) + len(test.labels) == len(load_digits().target)
    both = {bytes(p.flatten().tolist()) for p in train.fetch(torch.arange(len(train.labels)))}
    assert not both & {
        bytes(p.flatten().tolist()) for p in test.fetch(torch.arange(len(test.labels)))
    }


def test_mnist_has_the_sizes_of_the_paper(tmp_path):
    write_mnist(tmp_path, digits(6, 0), digits(3, 1))
    data = load_data("label-sets-mnist", DataOptions(root=tmp_path))
    assert data.train.images.shape == (10 * 3100 + 45 * 200, 1, 56, 56)
    assert data.test.images.shape == (10 * 800 + 45 * 50, 1, 56, 56)


def test_label_sets_heed_no_option_that_chooses_by_labels():
    with pytest.raises(ValueError, match="train_images=5: label-sets-digits has no use for it"):
        load_data("label-sets-digits", DataOptions(train_images=5))
    held_out = load_data("label-sets-digits", DataOptions(validation=0.5))
    assert held_out.label_sets
    assert len(held_out.test) == 2900


@pytest.mark.parametrize("name", ["digits", "multi-digits", "label-sets-digits"])
def test_random_labels_are_those_of_other_images(name):
    plain, random = (load_data(name, DataOptions(random=what)) for what in (None, "labels"))
    for part, shuffled in ((plain.train, random.train), (plain.test, random.test)):
        assert torch.equal(part.images, shuffled.images)
        rows, counts = part.labels.unique(dim=0, return_counts=True)
        again, recounts = shuffled.labels.unique(dim=0, return_counts=True)
        assert torch.equal(rows, again)
        assert torch.equal(counts, recounts)
        agreement = (part.labels == shuffled.labels).all(1).double().mean()
        assert agreement < 0.3  # of chance: at most three tenths, where sets of one digit prevail


def test_random_pixels_are_uniform_and_the_same_every_time():
    plain, random = (load_data("digits", DataOptions(random=what)) for what in (None, "pixels"))
    assert torch.equal(plain.train.labels, random.train.labels)
    images = random.train.images
    assert images.shape == plain.train.images.shape
    assert images.dtype == torch.uint8
    assert abs(float(images.double().mean()) - 127.5) < 2
    assert abs(float(images.double().std()) - 73.9) < 2  # sqrt((256² - 1) / 12)
    assert not torch.equal(random.train.images[: len(random.test)], random.test.images)
    load_data("multi-digits", DataOptions())  # takes the place of the one that was kept
    assert torch.equal(load_data("digits", DataOptions(random="pixels")).train.images, images)


def test_what_is_random_is_named():
    with pytest.raises(ValueError, match="random='words': choose from labels, pixels"):
        DataOptions(random="words")
    with pytest.raises(ValueError, match=r"random=labels: binary-digits-0\.5 has no use for it"):
        load_data("binary-digits-0.5", DataOptions(random="labels"))
