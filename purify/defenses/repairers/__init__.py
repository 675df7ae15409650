"""Defences that repair a trained classifier: `Outcome.repaired`.

None is in the package yet; `tests/outside` has one.
"""
