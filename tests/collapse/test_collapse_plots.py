import sys

import numpy as np
import pytest
import torch

from etf_heads.collapse import (
    MultiTaskCollapse,
    SingleTaskCollapse,
    plot_class_plane,
    plot_cosines,
    plot_gram,
    plot_layers,
    plot_values,
)
from etf_heads.geometry import compound_etf

pytestmark = pytest.mark.recipes


@pytest.fixture(autouse=True)
def _no_window():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    yield
    matplotlib.pyplot.close("all")


def measure():
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(10)
    features = 3 * torch.randn(4, 5)[labels] + torch.randn(40, 5)
    single = SingleTaskCollapse(5, 4)
    single.update(features, labels)
    return single, features, labels


def test_a_metric_draws_bars_of_its_values():
    single, *_ = measure()
    figure, ax = single.plot()
    values = single.compute()
    assert [bar.get_height() for bar in ax.patches] == list(values.values())
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(values)
    figure.canvas.draw()


def test_curves_over_epochs():
    single, *_ = measure()
    epochs = [{"nc1": 2.0, "nc3": 1.0}, {"nc1": 0.5}, {"nc1": 0.0, "nc3": 0.1}]
    figure, ax = single.plot(epochs)
    assert ax.get_yscale() == "log"
    nc1, nc3 = ax.lines
    assert (nc1.get_label(), nc1.get_ydata().tolist()) == ("nc1", [2.0, 0.5, 0.0])
    np.testing.assert_array_equal(nc3.get_ydata(), [1.0, np.nan, 0.1])
    figure.canvas.draw()
    assert single.plot(epochs, ax=ax)[1] is ax
    with pytest.raises(ValueError, match="values is empty"):
        plot_values([])


def test_layers_with_the_law_that_is_fitted():
    values = [8.0, 4.0, 2.2]
    figure, ax = plot_layers(values)
    assert ax.get_yscale() == "log"
    points, line = ax.lines
    assert list(points.get_ydata()) == values
    fit = np.polyfit(range(3), np.log(values), 1)
    np.testing.assert_allclose(np.log(line.get_ydata()), np.polyval(fit, range(3)))
    assert plot_layers(values, ax=ax)[1] is ax
    figure.canvas.draw()
    with pytest.raises(ValueError, match="two or more positive finite numbers"):
        plot_layers([1.0, 0.0])


def test_gram_of_a_compound_etf():
    tasks = {"left": 4, "right": 3}
    figure, ax = plot_gram(3 * compound_etf(tasks) + 1, tasks)
    picture = np.asarray(ax.images[0].get_array())
    expected = np.zeros((7, 7))
    expected[:4, :4], expected[4:, 4:] = -1 / 3, -1 / 2
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(picture, expected, atol=1e-12)
    figure.canvas.draw()


def test_cosines_that_are_known_share_a_colour_bar():
    square, wide = torch.eye(5), torch.full((2, 5), torch.nan)
    figure, axes = matplotlib_axes()
    for ax, cosines in zip(axes, (square, wide), strict=True):
        assert plot_cosines(cosines, [3, 2], ax=ax, colorbar=False) == (figure, ax)
        np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), cosines)
    assert len(figure.axes) == 2
    assert [len(ax.lines) for ax in axes] == [2, 1]  # rows that are no classes have no tasks
    figure.colorbar(axes[0].images[0], ax=axes)
    figure.canvas.draw()
    assert len(plot_cosines(square, [3, 2])[0].axes) == 2  # the map and its colour bar
    with pytest.raises(ValueError, match="a column is needed for each of the 5 classes"):
        plot_cosines(square[:, :4], [3, 2])


def matplotlib_axes():
    figure, axes = pytest.importorskip("matplotlib.pyplot").subplots(1, 2)
    return figure, list(axes)


def test_features_in_the_class_mean_plane():
    single, features, labels = measure()
    statistics = single.class_statistics()
    figure, ax = plot_class_plane(statistics, features, labels, (0, 2, 3))
    clouds = [c.get_offsets() for c in ax.collections]
    assert [len(c) for c in clouds] == [10, 1, 10, 1, 10, 1]
    means = statistics.means[[0, 2, 3]].numpy()
    corners = np.concatenate(clouds[1::2])
    for i in range(3):  # distances between the means are true to scale in their own plane
        drawn = np.linalg.norm(corners[i] - corners[i - 1])
        assert drawn == pytest.approx(np.linalg.norm(means[i] - means[i - 1]))
        np.testing.assert_allclose(clouds[2 * i].mean(0), corners[i], atol=1e-6)
    figure.canvas.draw()
    with pytest.raises(ValueError, match="must be three of those that have a mean"):
        plot_class_plane(statistics, features, labels, (0, 1, 7))
    line = SingleTaskCollapse(5, 3)
    line.update(torch.arange(3.0)[:, None].expand(3, 5), torch.arange(3))
    with pytest.raises(ValueError, match="lie on one line"):
        plot_class_plane(line.class_statistics(), features, labels, (0, 1, 2))


def test_decisions_draw_too():
    multi = MultiTaskCollapse(5, [2, 2])
    _, features, labels = measure()
    pairs = torch.stack([labels % 2, labels // 2], dim=1)
    multi.update(features, pairs)
    decisions = multi.decisions(torch.randn(4, 5))
    decisions.update(features, pairs)
    assert len(decisions.plot()[1].patches) == len(decisions.compute())


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "etf_heads\[recipes\]"'):
        plot_values({"nc1": 1.0})
