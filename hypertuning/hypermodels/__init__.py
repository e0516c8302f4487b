"""Sources of phi: networks that read examples and emit adapters."""
