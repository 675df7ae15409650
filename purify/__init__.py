"""purify: train on data that may be poisoned, and come out clean."""

__version__ = '0.2.0'
