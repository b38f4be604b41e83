"""From scores to probabilities."""

import numpy as np
from jaxtyping import Bool, Float64

RIDGE = 1e-3
STEPS = 50


def fit_calibration(logits: Float64[np.ndarray, " s"], hits: Bool[np.ndarray, " s"]) -> tuple[float, float]:
    """(a, b) of P(hit) = sigmoid(a logit + b), the logistic regression of Platt (1999), by Newton's method.

    As there, the targets of P hits and N misses are (P + 1) / (P + 2) and 1 / (N + 2), so that few observations do not
    give certainty. Raises ValueError without observations.
    """
    if not len(logits):
        raise ValueError("nothing to calibrate on")
    positive, negative = int(hits.sum()), int((~hits).sum())
    targets = np.where(hits, (positive + 1) / (positive + 2), 1 / (negative + 2))
    inputs = np.stack([logits, np.ones(len(logits))], axis=1)
    weights = np.zeros(2)
    for _ in range(STEPS):
        expected = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (expected - targets) + RIDGE * weights
        curvature = (inputs.T * (expected * (1 - expected))) @ inputs + RIDGE * np.eye(2)
        weights = weights - np.linalg.solve(curvature, gradient)
    return float(weights[0]), float(weights[1])
