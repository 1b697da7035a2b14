"""Library functions that are one operation, by package and name."""

from __future__ import annotations

DISTRIBUTIONS = ("distrax", "tensorflow_probability", "numpyro", "flowjax")
KNOWN = {
    **{(package, name): name for package in DISTRIBUTIONS for name in ("log_prob", "entropy", "kl_divergence")},
    ("jax", "softmax"): "softmax",
    ("jax", "logsumexp"): "logsumexp",
    ("jax", "standardize"): "normalize",
    ("optax", "huber_loss"): "huber_loss",
    ("optax", "l2_loss"): "mse_loss",
    ("optax", "squared_error"): "mse_loss",
    ("optax", "log_cosh"): "smooth_l1_loss",
    ("optax", "softmax_cross_entropy"): "cross_entropy",
    ("optax", "softmax_cross_entropy_with_integer_labels"): "cross_entropy",
    ("optax", "sigmoid_binary_cross_entropy"): "binary_cross_entropy",
    ("optax", "cosine_similarity"): "cosine_similarity",
    ("optax", "cosine_distance"): "cosine_similarity",
}
"""(package, function) -> operation."""


def known_call(filename: str, function: str) -> str:
    """The operation that a library function is, or ""."""
    package = filename.rpartition("site-packages/")[2].partition("/")[0]
    return KNOWN.get((package, function), "")
