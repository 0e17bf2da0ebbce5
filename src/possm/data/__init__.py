"""Time and files; knows no model."""
