"""Training: data, the loop, what one sees of it, and evaluation."""
