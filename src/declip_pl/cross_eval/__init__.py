"""Every model on every test set: matrices of scores, with intervals."""
