"""Images made smaller, and one root for several data sets."""

import numpy as np
import pytest
import torch
from data_files import digits, pictures, write_cifar, write_folder, write_mnist
from torchvision import datasets

from recipes.data import DATASETS, SHRUNK, DataOptions, load_data

pytestmark = pytest.mark.recipes


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    parts = pictures(100, 3, 0), pictures(100, 1, 1)
    write_cifar(monkeypatch, tmp_path, datasets.CIFAR100, *parts)
    return tmp_path


@pytest.mark.parametrize("size", [16, 8, 20, 32])
def test_a_pixel_of_a_smaller_image_is_the_mean_over_an_area(cifar, size):
    whole = load_data("cifar100", DataOptions(root=cifar))
    small = load_data("cifar100", DataOptions(root=cifar, image_size=size))
    assert small.train.images.dtype == torch.uint8
    edges = [(size_of * 32 // size, -(-(size_of + 1) * 32 // size)) for size_of in range(size)]
    for part, full in ((small.train, whole.train), (small.test, whole.test)):
        assert torch.equal(part.labels, full.labels)
        assert part.images.shape == (len(full), 3, size, size)
        pixels, means = full.images.double().numpy(), part.images.numpy()
        for row, (top, bottom) in list(enumerate(edges))[:: max(1, size // 4)]:
            for column, (left, right) in list(enumerate(edges))[:: max(1, size // 4)]:
                expected = pixels[:, :, top:bottom, left:right].mean((2, 3))
                assert np.abs(means[:, :, row, column] - expected).max() <= 0.501  # rounded
    assert (small.tasks, small.flip) == (whole.tasks, whole.flip)


@pytest.mark.parametrize(("size", "shift"), [(16, 2), (8, 1), (31, 3), (4, 0), (32, 4)])
def test_shifts_shrink_with_the_images(cifar, size, shift):
    assert load_data("cifar100", DataOptions(root=cifar)).shift == 4
    assert load_data("cifar100", DataOptions(root=cifar, image_size=size)).shift == shift


def test_images_are_not_made_larger(cifar):
    with pytest.raises(ValueError, match="image_size=33: the images have 32 x 32 pixels"):
        load_data("cifar100", DataOptions(root=cifar, image_size=33))
    with pytest.raises(ValueError, match="image_size=0: at least 1"):
        DataOptions(image_size=0)


def test_composed_images_are_made_smaller_whole(tmp_path):
    write_mnist(tmp_path, digits(3, 0), digits(2, 1))
    options = DataOptions(root=tmp_path, train_images=200, test_images=100, image_size=18)
    data = load_data("multi-mnist-10-10", options)
    assert data.train.images.shape == (200, 1, 18, 18)
    assert data.shift == 1


@pytest.mark.parametrize("name", [n for n in DATASETS if "mnist" in n or "cifar" in n])
def test_the_option_is_heeded_where_it_is_taken(name):
    assert (name in SHRUNK) == ("image_size" in DATASETS[name].options)


def test_one_root_may_hold_several_data_sets(tmp_path):
    write_mnist(tmp_path, digits(3, 0), digits(2, 1))
    names = {f"{k:02}": 2 for k in range(100)}
    write_folder(tmp_path / "cifar100", names, names, size=(32, 32))
    cifar = load_data("cifar100", DataOptions(root=tmp_path))
    assert cifar.train.images.shape == (200, 3, 32, 32)
    assert torch.equal(
        load_data("cifar100", DataOptions(root=tmp_path / "cifar100")).train.images,
        cifar.train.images,
    )
    mnist = load_data(
        "multi-mnist-10-10", DataOptions(root=tmp_path, train_images=100, test_images=100)
    )
    assert mnist.train.images.shape == (100, 1, 36, 36)


def test_files_of_the_root_itself_are_read_where_there_is_no_folder_of_that_name(cifar):
    (cifar / "cifar100").mkdir()  # but nothing in it
    assert len(load_data("cifar100", DataOptions(root=cifar)).train) == 300
