import json
import time

import numpy as np
import pytest
import torch
from data_files import digits, pictures, write_celeba, write_cifar, write_folder, write_mnist
from PIL import Image
from torchvision import datasets

from recipes.data import DataOptions, load_data
from recipes.data.folder import read_tasks
from recipes.data.pictures import Pictures

pytestmark = pytest.mark.recipes


def same(one, other):
    """Whether two data sets have the same images and labels in the same order."""
    return all(
        torch.equal(a, b)
        for part in ("train", "test")
        for a, b in zip(
            vars(getattr(one, part)).values(), vars(getattr(other, part)).values(), strict=True
        )
    )


@pytest.fixture
def mnist(tmp_path):
    train, test = digits(6, 0), digits(3, 1)
    write_mnist(tmp_path, train, test)
    return tmp_path, train, test


def test_multi_mnist_shows_two_digits_and_the_brighter_pixel_where_they_overlap(mnist):
    root, train, test = mnist
    data = load_data("multi-mnist-10-10", DataOptions(root=root, train_images=300, test_images=100))
    assert data.tasks == {"top_left": 10, "bottom_right": 10}
    for part, (scans, labels), number in ((data.train, train, 300), (data.test, test, 100)):
        assert part.images.shape == (number, 1, 36, 36)
        assert part.images.dtype == torch.uint8
        pairs = set()
        for image, pair in zip(part.images[:, 0].numpy(), part.labels.tolist(), strict=True):
            first, second = 255 - int(image[0, 0]), 255 - int(image[-1, -1])
            assert [labels[first], labels[second]] == pair
            expected = np.zeros((36, 36), np.uint8)
            expected[:28, :28] = scans[first]
            expected[8:, 8:] = np.maximum(expected[8:, 8:], scans[second])
            assert np.array_equal(image, expected)
            pairs.add((first, second))
        assert len(pairs) == number  # no image twice


def test_multi_mnist_has_every_pair_as_often(mnist):
    data = load_data("multi-mnist-10-10", DataOptions(root=mnist[0], train_images=700))
    for part, each in ((data.train, 7), (data.test, 9)):  # 9 pairs of 3 x 3 test digits are all
        _, counts = part.labels.unique(dim=0, return_counts=True)
        assert counts.tolist() == [each] * 100


def test_multi_cifar10_shows_both_images_whole(tmp_path, monkeypatch):
    train, test = pictures(10, 5, 0), pictures(10, 2, 1)
    write_cifar(monkeypatch, tmp_path, datasets.CIFAR10, train, test)
    options = DataOptions(root=tmp_path, train_images=200, test_images=100)
    data = load_data("multi-cifar10-10-10", options)
    assert data.train.images.shape == (200, 3, 64, 64)
    originals = {image.tobytes(): label for image, label in zip(*train, strict=True)}
    for image, pair in zip(data.train.images, data.train.labels.tolist(), strict=True):
        shown = image[:, :32, :32].numpy(), image[:, 32:, 32:].numpy()
        assert [originals[half.tobytes()] for half in shown] == pair
        assert not image[:, :32, 32:].any()
        assert not image[:, 32:, :32].any()


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    train, test = pictures(100, 4, 0), pictures(100, 2, 1)
    write_cifar(monkeypatch, tmp_path, datasets.CIFAR100, train, test)
    return DataOptions(root=tmp_path)


def test_cifar100_has_its_images_with_their_classes(cifar100):
    data = load_data("cifar100", cifar100)
    assert data.tasks == {"class": 100}
    assert data.train.images.shape == (400, 3, 32, 32)
    assert (data.shift, data.flip) == (4, True)
    for part in (data.train, data.test):
        assert torch.equal(part.images[:, 0, 0, 0].long(), part.labels[:, 0])


def test_crossed_tasks_are_tens_and_ones_of_the_class(cifar100):
    data = load_data("cifar100-cross-10x10", cifar100)
    assert data.tasks == {"tens": 10, "ones": 10}
    classes = data.train.images[:, 0, 0, 0].tolist()
    assert data.train.labels.tolist() == [list(divmod(k, 10)) for k in classes]


def test_split_tasks_label_each_image_once(cifar100):
    data = load_data("cifar100-split-5x20", cifar100)
    assert list(data.tasks.values()) == [20] * 5
    for k, labels in zip(
        data.train.images[:, 0, 0, 0].tolist(), data.train.labels.tolist(), strict=True
    ):
        expected = [-100] * 5
        expected[k // 20] = k % 20
        assert labels == expected


@pytest.mark.usefixtures("cifar100")
def test_cifar_from_a_folder_is_cifar_from_pickles(tmp_path):
    train, test = pictures(100, 4, 0), pictures(100, 2, 1)
    folder = tmp_path / "folder"
    for part, (images, labels) in (("train", train), ("test", test)):
        for i, (image, k) in enumerate(zip(images, labels, strict=True)):
            own = folder / part / f"class{k:02}"
            own.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(own / f"{i:05}.png")
    pickled, unpacked = (load_data("cifar100", DataOptions(root=r)) for r in (tmp_path, folder))
    for one, other in ((pickled.train, unpacked.train), (pickled.test, unpacked.test)):
        order = one.labels[:, 0].argsort(stable=True)
        assert torch.equal(one.images[order], other.images)
        assert torch.equal(one.labels[order], other.labels)


def test_celeba_reads_named_attributes_and_the_middle_of_the_images(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    attributes = {name: rng.integers(0, 2, 40).tolist() for name in ("Bald", "Smiling", "Young")}
    splits = rng.permutation([0] * 20 + [1] * 5 + [2] * 15).tolist()
    write_celeba(monkeypatch, tmp_path, attributes, splits)
    options = DataOptions(root=tmp_path, attributes=("Young", "Bald"), image_size=16)
    data = load_data("celeba", options)
    assert data.tasks == {"Young": 2, "Bald": 2}
    for part, split in ((data.train, 0), (data.test, 2)):
        members = [i for i in range(40) if splits[i] == split]
        assert part.images.shape == (len(members), 3, 16, 16)
        assert (part.images[:, 0, 0, 0] - torch.tensor(members)).abs().max() <= 1  # JPEG
        expected = [[attributes["Young"][i], attributes["Bald"][i]] for i in members]
        assert part.labels.tolist() == expected
    with pytest.raises(ValueError, match=r"attributes=\('Bold',\).*choose from Bald, Smiling, Yo"):
        load_data("celeba", DataOptions(root=tmp_path, attributes=("Bold",)))
    with pytest.raises(ValueError, match="name one or more with --attributes"):
        load_data("celeba", DataOptions(root=tmp_path))


FOLDERS = {"ant": 6, "bee": 6, "elm": 4, "fir": 4}


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path, FOLDERS, {"ant": 2, "bee": 2, "elm": 2, "fir": 2})
    return tmp_path


def tasks_file(root, tasks):
    path = root / "tasks.json"
    path.write_text(tasks if isinstance(tasks, str) else json.dumps(tasks))
    return path


def test_a_folder_is_one_task_unless_a_file_says_otherwise(folder):
    data = load_data("image-folder", DataOptions(root=folder))
    assert data.tasks == {"class": 4}
    assert data.train.labels[:, 0].bincount().tolist() == list(FOLDERS.values())
    assert data.train.images.shape == (20, 3, 8, 8)
    first = np.array(Image.open(folder / "train" / "ant" / "00000.png"))
    assert np.array_equal(data.train.images[0].permute(1, 2, 0).numpy(), first)


def test_lists_of_classes_make_tasks_with_samples_of_their_own(folder):
    tasks = tasks_file(folder, {"animals": ["bee", "ant"], "plants": ["elm", "fir"]})
    data = load_data("image-folder", DataOptions(root=folder, tasks=tasks))
    assert data.tasks == {"animals": 2, "plants": 2}
    rows, counts = data.train.labels.unique(dim=0, return_counts=True)
    found = {tuple(row): n for row, n in zip(rows.tolist(), counts.tolist(), strict=True)}
    assert found == {(1, -100): 6, (0, -100): 6, (-100, 0): 4, (-100, 1): 4}


def test_labels_of_classes_make_tasks_on_the_same_images(folder):
    kinds = {
        "kind": {"ant": "animal", "bee": "animal", "elm": "plant", "fir": "plant"},
        "stings": {"ant": 0, "bee": 1, "elm": 0, "fir": 0},
    }
    data = load_data("image-folder", DataOptions(root=folder, tasks=tasks_file(folder, kinds)))
    rows, counts = data.train.labels.unique(dim=0, return_counts=True)
    assert rows.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert counts.tolist() == [6, 6, 8]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("{", "is not valid JSON"),
        ([1], "must map every task name to a list"),
        ({"a": ["ant", "bee"], "b": {"elm": 0}}, "must map every task name to a list"),
        ({"a": ["ant", "bee"], "b": ["elm", "oak"]}, "names 'oak' but is no folder"),
        ({"a": ["ant", "bee"], "b": ["elm", "fir", "ant"]}, "names 'ant' twice"),
        ({"a": ["ant", "bee", "elm"]}, "does not name the class 'fir'"),
        ({"a": ["ant", "bee", "elm"], "b": ["fir"]}, "task 'b' has 1 labels, 2 are needed"),
        ({"a": {"ant": 0, "bee": 1, "elm": 0}}, "does not name the class 'fir'"),
        ({"a": {"ant": 0, "bee": "1", "elm": 0, "fir": 1}}, "all integers or all strings"),
        ({"a": {"ant": 1, "bee": 1, "elm": 1, "fir": 1}}, "task 'a' has 1 labels"),
        ({"a": {"ant": 1, "bee": 0, "elm": -1, "fir": 1}}, "label -1, .* null or -100"),
        ({"a": {"ant": 1, "bee": None, "elm": -100, "fir": 1}}, "task 'a' has 1 labels"),
    ],
)
def test_a_wrong_tasks_file_is_named_with_its_fault(tmp_path, tasks, message):
    path = tasks_file(tmp_path, tasks)
    with pytest.raises(ValueError, match=message) as error:
        read_tasks(path, list(FOLDERS))
    assert str(path) in str(error.value)
    with pytest.raises(ValueError, match="there is no such file"):
        read_tasks(tmp_path / "none.json", list(FOLDERS))


def test_null_and_minus_100_are_no_label(tmp_path):
    first = {"ant": 0, "bee": None, "elm": 1, "fir": -100}
    tasks = {
        "first": first,
        "second": dict.fromkeys(("bee", "elm"), "x") | {"ant": "y", "fir": None},
    }
    sizes, labels = read_tasks(tasks_file(tmp_path, tasks), ["ant", "bee", "elm", "fir"])
    assert sizes == {"first": 2, "second": 2}
    assert labels.tolist() == [[0, 1], [-100, 0], [1, 0], [-100, -100]]


@pytest.mark.parametrize("name", ["multi-mnist-10-10", "multi-cifar10-10-10", "cifar100", "celeba"])
def test_missing_files_say_how_to_get_them(name, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read from .*--root.*--download") as error:
        load_data(name, DataOptions(root=tmp_path / "nowhere"))
    assert "nowhere" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_changed_pickle_is_refused_before_it_is_unpickled(cifar100):
    path = cifar100.root / datasets.CIFAR100.base_folder / "train"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="corrupted"):
        load_data("cifar100-cross-10x10", cifar100)


def test_truncated_idx_files_are_named(mnist):
    path = mnist[0] / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"MNIST cannot be read from .*--download"):
        load_data("multi-mnist-10-10", DataOptions(root=mnist[0]))


def test_folders_that_do_not_fit_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere/train is no folder of images"):
        load_data("image-folder", DataOptions(root=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="has 4 folders, CIFAR100 has 100 classes"):
        load_data("cifar100", DataOptions(root=folder))
    write_folder(folder / "more", {"ant": 1}, {"ant": 1, "wasp": 1})
    with pytest.raises(ValueError, match=r"test/wasp is of a class that .*train does not have"):
        load_data("image-folder", DataOptions(root=folder / "more"))
    (folder / "empty" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"empty/train is no folder of images.*find any class"):
        load_data("image-folder", DataOptions(root=folder / "empty"))
    (folder / "train" / "gnu").mkdir()
    with pytest.raises(ValueError, match=r"no valid file for the classes gnu"):
        load_data("image-folder", DataOptions(root=folder))


def test_an_unreadable_image_is_named(folder):
    path = folder / "train" / "bee" / "00003.png"
    content = path.read_bytes()
    for broken in (b"not an image", content[: len(content) // 2], b""):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"train/bee/00003.png cannot be read as an image"):
            load_data("image-folder", DataOptions(root=folder))


def test_images_of_other_sizes_are_named_or_resized(folder):
    Image.new("L", (12, 9), 50).save(folder / "train" / "elm" / "00001.png")
    with pytest.raises(ValueError, match=r"elm/00001.png has 12 x 9 pixels.*--image-size"):
        load_data("image-folder", DataOptions(root=folder))
    data = load_data("image-folder", DataOptions(root=folder, image_size=6))
    assert data.train.images.shape == (20, 3, 6, 6)
    assert (data.train.images == 50).all((1, 2, 3)).sum() == 1


def test_a_data_set_is_the_same_every_time(mnist):
    options = DataOptions(root=mnist[0], train_images=150, test_images=100, pair_imbalance=3)
    once = load_data("multi-mnist-10-10", options)
    assert load_data("multi-mnist-10-10", options) is once
    load_data("multi-digits", DataOptions())  # takes its place
    again = load_data("multi-mnist-10-10", options)
    assert again is not once
    assert same(once, again)


@pytest.mark.parametrize("fault", ["unreadable", "another size", "no memory"])
def test_a_fault_in_one_of_many_images_stops_the_reading_at_once(fault, tmp_path, monkeypatch):
    paths = [tmp_path / f"{number:03}.png" for number in range(500)]
    for path in paths:
        Image.new("L", (4, 4)).save(path)
    if fault == "another size":
        Image.new("L", (5, 4)).save(paths[7])
    if fault == "unreadable":
        paths[7].write_bytes(b"")
    opened, open_image = [], Image.open

    def slow_open(path):
        opened.append(path)
        time.sleep(0.002)
        if fault == "no memory" and path == paths[7]:
            raise MemoryError("too many pixels")
        return open_image(path)

    monkeypatch.setattr(Image, "open", slow_open)
    pictures = Pictures.in_files(paths, torch.zeros(500, dtype=torch.int64), "L")
    expected = MemoryError if fault == "no memory" else ValueError
    with pytest.raises(expected, match=r"too many pixels|007\.png"):
        pictures.fetch(torch.arange(500))
    assert len(opened) < 100
