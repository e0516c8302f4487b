"""A sweep: its cells, and the processes that run them."""
