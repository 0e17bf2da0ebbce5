"""The only room with gradients."""
