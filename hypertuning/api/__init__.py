"""The Python interface: a loaded model, the phi that it makes, and answers."""
