"""gradaudit: a stop-gradient audit for PyTorch, JAX and TensorFlow training code."""

from __future__ import annotations

__version__ = "0.1.0"
