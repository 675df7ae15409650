"""purify: train on data that may be poisoned, and come out clean."""

__version__ = '0.1.0'
