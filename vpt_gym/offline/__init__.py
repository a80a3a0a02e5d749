"""Recordings: made, turned into latents, cloned, and learned from."""
