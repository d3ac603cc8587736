"""Scores of classifiers against scikit-learn's."""

import numpy as np
import pytest

from carbs_scaling.training.learning import objective_value, scores


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_those_of_scikit_learn(classes):
    metrics = pytest.importorskip("sklearn.metrics", reason="compares with scikit-learn")
    generator = np.random.default_rng(0)
    true = generator.integers(classes, size=300)
    predicted = np.where(generator.random(300) < 0.6, true, generator.integers(classes, size=300))
    found = scores(metrics.confusion_matrix(true, predicted))
    average = "binary" if classes == 2 else "macro"
    assert found == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(true, predicted),
            "f1": metrics.f1_score(true, predicted, average=average),
            "matthews": metrics.matthews_corrcoef(true, predicted),
        }
    )
    assert objective_value("accuracy", found) == 1 - found["accuracy"]


def test_one_class_alone_has_no_correlation():
    assert scores(np.array([[5, 0], [3, 0]])) == {"accuracy": 5 / 8, "f1": 0.0, "matthews": 0.0}
