"""MineStudio's policies as encoders."""
