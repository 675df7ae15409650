"""Defences at test time, a rule on input images: `Outcome.guard`.

None is in the package yet; `tests/outside` has one.
"""
