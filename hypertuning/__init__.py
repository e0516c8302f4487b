"""HyperTuning: adapt a frozen language model without back-propagation."""

__version__ = '0.1.0'
