"""Real time; no gradients."""
