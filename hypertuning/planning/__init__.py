"""Estimates the cost of a training step on TPUs, without having any."""
