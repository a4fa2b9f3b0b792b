"""What gives noisy gradients."""
