"""Commands that need no gin file: `adapt --examples`, `infer --phi`."""
