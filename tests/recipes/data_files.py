"""Small data sets on disk, in the formats in which the real ones come."""

import pickle
import struct

import numpy as np
from PIL import Image
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5


def write_mnist(root, train, test):
    """The four idx files; train and test are (images (N, 28, 28), labels) in uint8."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, (images, labels) in (("train", train), ("t10k", test)):
        (raw / f"{name}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, *images.shape) + images.tobytes()
        )
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            struct.pack(">2i", 0x801, len(labels)) + labels.tobytes()
        )


def digits(each, seed):
    """So many pictures of each digit; the corner pixel says which picture, 255 less its number."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), each))
    images = rng.integers(0, 100, (10 * each, 28, 28), dtype=np.uint8)
    images[:, 0, 0] = images[:, -1, -1] = 255 - np.arange(10 * each)
    return images, labels


def write_cifar(monkeypatch, root, source, train, test):
    """The pickles of CIFAR-10 or CIFAR-100, and their checksums in place of the real ones.

    Train and test are (images (N, 3, 32, 32) uint8, labels).
    """
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    key = "fine_labels" if source is datasets.CIFAR100 else "labels"

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, calculate_md5(folder / name)]

    def batches(names, part):
        images, labels = part
        parts = np.array_split(np.arange(len(labels)), len(names))
        return [
            write(
                name,
                {"data": images[own].reshape(len(own), -1), key: [int(labels[i]) for i in own]},
            )
            for name, own in zip(names, parts, strict=True)
        ]

    monkeypatch.setattr(source, "train_list", batches([n for n, _ in source.train_list], train))
    monkeypatch.setattr(source, "test_list", batches([n for n, _ in source.test_list], test))
    names = [f"class {k}" for k in range(int(max(train[1])) + 1)]
    filename, md5 = write(source.meta["filename"], {source.meta["key"]: names})
    monkeypatch.setattr(source, "meta", source.meta | {"filename": filename, "md5": md5})


def pictures(classes, each, seed):
    """Colour pictures (N, 3, 32, 32) of shuffled classes; the first pixel says which class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    images = rng.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    images[:, 0, 0, 0] = labels
    return images, labels


def write_celeba(monkeypatch, root, attributes, splits):
    """The text files, and images of 178 x 218 pixels that are as bright as their number.

    Attributes maps names to a value (0 or 1) for each image; splits has 0, 1 or 2 for each.
    """
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    number = len(splits)
    names = [f"{i + 1:06}.jpg" for i in range(number)]
    for i, name in enumerate(names):
        Image.new("RGB", (178, 218), (i, i, i)).save(folder / "img_align_celeba" / name)

    def write(name, rows, header=()):
        lines = [*header, *(" ".join([n, *map(str, r)]) for n, r in zip(names, rows, strict=True))]
        (folder / name).write_text("\n".join(lines) + "\n")

    signs = [[2 * v[i] - 1 for v in attributes.values()] for i in range(number)]
    count = str(number)
    write("list_attr_celeba.txt", signs, [count, " ".join(attributes) + " "])
    write("list_eval_partition.txt", [[s] for s in splits])
    write("identity_CelebA.txt", [[1]] * number)
    write("list_bbox_celeba.txt", [[0, 0, 9, 9]] * number, [count, "image_id x_1 y_1 width height"])
    points = "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y"
    write("list_landmarks_align_celeba.txt", [[1] * 6] * number, [count, points])
    monkeypatch.setattr(
        datasets.CelebA,
        "file_list",
        [
            (key, calculate_md5(folder / name) if (folder / name).exists() else md5, name)
            for key, md5, name in datasets.CelebA.file_list
        ],
    )


def write_folder(root, train, test, size=(8, 8), mode="RGB"):
    """PNG files root/{train,test}/CLASS/NUMBER.png; train and test map classes to numbers.

    Class k of n is brighter than the one before it; what is random about an image is its own.
    """
    rng = np.random.default_rng(0)
    for part, numbers in (("train", train), ("test", test)):
        for k, (name, number) in enumerate(numbers.items()):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(number):
                shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
                noise = rng.integers(0, 60, shape, dtype=np.uint8)
                level = 190 * k // max(1, len(numbers) - 1)
                Image.fromarray(noise + np.uint8(level)).save(folder / f"{i:05}.png")
