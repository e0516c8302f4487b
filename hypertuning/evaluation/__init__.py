"""Evaluates loss and text on held-out tasks, in several phi modes."""
