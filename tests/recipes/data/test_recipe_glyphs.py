"""Characters rendered from fonts: those that come with matplotlib, and one made here."""

from dataclasses import replace
from pathlib import Path
from shutil import copy

import matplotlib as mpl
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from recipes.data import DataOptions, fonts, glyphs, load_data
from recipes.data.fonts import Font, Pen, designs, font_files
from recipes.training.engine import train
from recipes.training.presets import parse_config
from recipes.training.settings import CompareConfig

pytestmark = pytest.mark.recipes

FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"
NAMES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold")
FILES = [FONTS / f"{name}.ttf" for name in (*NAMES, "STIXGeneral", "cmr10", "cmtt10")]
SIDE = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A directory with the fonts of matplotlib, and no others on the machine."""
    root = tmp_path_factory.mktemp("data")
    (root / "fonts").mkdir()
    for file in FILES:
        copy(file, root / "fonts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fonts, "system_folders", list)
        yield root


@pytest.fixture(scope="module")
def options(root):
    return DataOptions(root=root, classes=(60,), image_size=SIDE)


@pytest.fixture(scope="module")
def data(options):
    return load_data("glyphs", options)


def square(size):
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, size), (size, size), (size, 0)):
        pen.lineTo(corner)
    pen.closePath()
    return pen.glyph()


@pytest.fixture
def built(tmp_path):
    """A font of the letters A and F alone; B is blank, C not there, D looks as what is not."""
    shapes = {".notdef": square(700), "A": square(400), "B": TTGlyphPen(None).glyph()}
    shapes |= {"D": square(700), "F": square(200)}
    font = FontBuilder(1000)
    font.setupGlyphOrder(list(shapes))
    font.setupCharacterMap({ord(c): c for c in "ABDF"} | {ord("C"): ".notdef", ord("7"): "A"})
    font.setupGlyf(shapes)
    font.setupHorizontalMetrics(dict.fromkeys(shapes, (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "squares.ttf")
    return tmp_path / "squares.ttf"


def test_every_class_is_in_training_fonts_and_in_a_test_font(data):
    assert data.tasks == {"character": 60}
    for part, least in ((data.train, 3), (data.test, 1)):
        assert part.images.dtype == torch.uint8
        assert part.images.shape[1:] == (1, SIDE, SIDE)
        assert part.labels.shape == (len(part), 1)
        assert part.labels.flatten().bincount(minlength=60).min() >= least
        assert part.images.flatten(1).amax(1).min() > 64  # ink in every image
    assert (data.shift, data.flip) == (SIDE // 8, False)


def test_fonts_of_the_tests_are_never_trained_on():
    read = [font for font in map(Font.read, FILES) if font]
    sample = glyphs.by_frequency(read)[:48]
    tests = glyphs.held_out(read, sample, SIDE)
    families = [{read[n].family for n in chosen} for chosen in (tests, {*range(len(read))} - tests)]
    assert all(families)
    assert not families[0] & families[1]


def test_fonts_that_draw_the_same_shapes_are_one_design(built):
    # Another family by name, the same outlines.
    one = Font.read(FONTS / "DejaVuSans.ttf")
    other = Font(one.path, "Another name", one.characters)
    serif = Font.read(FONTS / "DejaVuSerif-Bold.ttf")
    sample = sorted(one.characters & serif.characters)[:48]
    assert sorted(map(sorted, designs([one, serif, other], sample, SIDE))) == [[0, 2], [1]]
    assert len(designs([one, serif, Font.read(built)], sample, SIDE)) == 3


def test_a_font_has_the_letters_that_it_draws(built):
    font = Font.read(built)
    assert font.family == "Squares"
    assert font.characters == set("ABDF")  # C is mapped to no glyph, 7 is no letter
    pen = Pen(font, SIDE)
    assert {c for c in "ABDF" if pen.plain(c)} == set("AF")


def test_what_is_no_font_is_passed_over(built, tmp_path):
    (tmp_path / "damaged.ttf").write_bytes(built.read_bytes()[:300])
    (tmp_path / "text.otf").write_text("no font")
    (tmp_path / "empty.ttc").touch()
    assert [Font.read(tmp_path / n) for n in ("damaged.ttf", "text.otf", "empty.ttc")] == [None] * 3
    last = Font.read(FONTS / "LastResortHE-Regular.ttf")
    assert not Pen(last, SIDE).is_legible(sorted(last.characters)[:48])
    assert Pen(Font.read(FONTS / "cmr10.ttf"), SIDE).is_legible("ABCDEFGH")


def test_no_two_classes_have_the_same_picture_in_a_font(data):
    # Latin A, Greek Alpha and Cyrillic A are one glyph of these fonts.
    for part in (data.train, data.test):
        assert len(part.images.flatten(1).unique(dim=0)) > 0.97 * len(part)


def test_sizes_and_places_vary_and_are_always_the_same(data, options):
    images = data.train.images[:, 0].float()
    ink = images > 100
    tops = ink.any(2).float().argmax(1)
    assert len(tops.unique()) > 3
    again = glyphs.render(font_files(options.root), 60, SIDE)
    order = data.train.labels[:, 0].argsort(stable=True)
    stable = again["train_labels"].argsort(stable=True)
    assert torch.equal(data.train.images[order], again["train_images"][stable])


def test_images_are_read_from_the_cache_while_the_fonts_are_the_same(data, options, monkeypatch):
    (cached,) = (options.root / "glyphs").iterdir()  # nothing half written beside it
    files = font_files(options.root)
    with monkeypatch.context() as patch:
        patch.setattr(glyphs, "render", None)
        train, _ = glyphs.rendered(files, 60, SIDE, cached.parent)
        assert len(train.labels) == len(data.train)
    rendered = []
    monkeypatch.setattr(glyphs, "render", lambda *args: rendered.append(args) or made)
    made = {
        f"{part}_{what}": torch.zeros(shape, dtype=torch.uint8)
        for part in ("train", "test")
        for what, shape in (("images", (1, 1, SIDE, SIDE)), ("labels", (1,)))
    }
    glyphs.rendered(files[1:], 60, SIDE, cached.parent)
    glyphs.rendered(files, 60, 8, cached.parent)
    assert len(rendered) == 2
    whole = cached.read_bytes()
    cached.write_bytes(whole[:100])  # damaged: made again
    glyphs.rendered(files, 60, SIDE, cached.parent)
    assert len(rendered) == 3
    cached.write_bytes(whole)


def test_too_few_fonts_name_the_packages_to_install(root):
    with pytest.raises(ValueError, match=r"classes=100000: \d+ characters .* apt install fonts-no"):
        load_data("glyphs", DataOptions(root=root, classes=(100_000,), image_size=SIDE))
    with pytest.raises(ValueError, match="0 fonts were found"):
        load_data("glyphs", DataOptions(root=root / "nowhere"))
    with pytest.raises(ValueError, match="glyphs is one task"):
        load_data("glyphs", DataOptions(root=root, classes=(10, 10)))


def test_options_choose_among_the_images(root):
    fewer = DataOptions(root=root, classes=(60,), image_size=SIDE, train_images=240, validation=0.2)
    found = load_data("glyphs", fewer)
    assert (len(found.train), len(found.test)) == (192, 48)


def test_the_preset_compares_heads_of_many_classes(root, tmp_path):
    options = {"root": root, "classes": 60, "image-size": SIDE, "features": 16, "epochs": 1}
    words = [f"--{name}={value}" for name, value in options.items()]
    config = parse_config(CompareConfig, ["glyphs", *words, "--seeds=0", f"--output={tmp_path}"])
    assert "spherical" in config.heads
    found = {run.head: train(replace(run, batch_size=50)) for run in config.runs()}
    for head, result in found.items():
        before, after = result.history
        assert result.tasks == {"character": 60}
        if head == "prototypes":  # without means all classes are alike, which is no great loss
            assert after.train.accuracy["character"] > 2 / 60
        else:
            assert after.train.loss < before.train.loss, head
    assert found["spherical"].counts.head_parameters == 0
