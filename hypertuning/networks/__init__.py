"""Transformers, written once; hypermodels and downstream models share them."""
