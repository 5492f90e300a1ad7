"""Why robustness transferred or did not: local linearity, agreement of input gradients, and the bounds they give."""
