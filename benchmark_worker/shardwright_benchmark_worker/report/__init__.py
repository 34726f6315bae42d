"""A report of a dataset: what it covers, how noisy it is, what in it should not be trusted."""
