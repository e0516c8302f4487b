"""Where phi comes from: networks that read examples and emit adapters."""
