"""Real measurements; the only part of the worker that needs torch and fbgemm."""
