"""Compression steps, one file a technique: model and config in, model out."""
