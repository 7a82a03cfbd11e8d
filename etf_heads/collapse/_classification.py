"""Measures that compare features with the classifier on them: ``compute`` and ``decisions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from etf_heads._tasks import Tasks
from etf_heads.collapse._decisions import Disagreement, NearestCentreDisagreement
from etf_heads.collapse._metric import CollapseMetric
from etf_heads.collapse._statistics import ClassStatistics
from etf_heads.collapse._vectors import Biases, Weights, class_vectors


class ClassificationCollapse(CollapseMetric):
    """Base class of the measures of one task, of several on the same samples and on their own.

    Subclasses set the attributes below and ``tasks``, and implement ``_values``, ``_centres``
    and ``_kept``.
    """

    tasks: Tasks
    disagreement: ClassVar[type[Disagreement]] = NearestCentreDisagreement
    disagreement_name: ClassVar[str]

    def compute(
        self, weight: Weights | None = None, bias: Biases | None = None
    ) -> dict[str, float]:
        """The measures by name.

        Args:
            weight: (sum K_t, d) class vectors, those of all tasks below each other; or (K_t, d)
                for each task, by name or in order; or modules that have them as ``weight``. None
                leaves out the measures that need them.
            bias: (sum K_t,), or one (K_t,) a task, on which the decisions about a ``reservoir``
                alone depend. None: modules decide by their own forward, tensors without a bias.

        Raises:
            ValueError: before there is data of two classes, or for a weight of the wrong shape,
                or for a head that normalises its features: its class vectors never meet those
                that ``update`` got. Update with ``head.prepare(features)`` and pass
                ``head.weight``.
        """
        vectors = None
        if weight is not None:
            vectors = class_vectors(weight, self.tasks, self.num_features, self.device)
        values = self._values(vectors)
        if self.reservoir and weight is not None:
            metric = self._disagreement(weight, bias, sync_on_compute=False)
            metric.update(*self._kept())
            found = metric.compute()
            name = self.disagreement_name
            values |= {key: found[key] for key in found if key.split("/")[0] == name}
        return values

    def decisions(self, weight: Weights | None = None, bias: Biases | None = None) -> Disagreement:
        """The share of samples where classifier and nearest class mean disagree, as a metric.

        It needs the final means and so a second pass: update it with the same data. The centres
        are those of now, the mean features of all samples with a label of the class. A module
        decides by its own forward in evaluation mode, normalisation included, and so takes the
        features that it takes in the network; both measures must then be updated with these.

        Args:
            weight: as in :meth:`compute`, and heads that normalise their features too; None
                counts the decisions of the centres alone.
            bias: as in :meth:`compute`.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self._disagreement(weight, bias, process_group=self.process_group)

    def _disagreement(
        self, weight: Weights | None, bias: Biases | None, **options: Any
    ) -> Disagreement:
        """A second pass over centres of the states as they are, gathered or not."""
        name, centres = self.disagreement_name, self._centres()
        return self.disagreement(name, self.tasks, centres, weight, bias, **options)

    def _values(self, vectors: Sequence[Tensor] | None) -> dict[str, float]:
        """The measures of the states as they are, with class vectors (K_t, d) of each task."""
        raise NotImplementedError

    def _centres(self) -> Sequence[ClassStatistics]:
        """Statistics of each task's classes."""
        raise NotImplementedError

    def _kept(self) -> tuple[Any, Any]:
        """Features and labels of the reservoir, as ``update`` takes them."""
        raise NotImplementedError
