"""A server for one model: a JSON interface, and a page."""
