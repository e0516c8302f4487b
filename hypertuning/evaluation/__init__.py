"""Held-out loss and text, with generated phi and what it is compared with."""
