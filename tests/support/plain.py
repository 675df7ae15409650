"""Settings of a source that changes nothing: what tests of sources begin with."""

CHOICE = {'classes': '', 'train_size': 0, 'test_size': 0, 'reference': 'none', 'reference_size': 0}
CHOICE |= {'split_seed': 0}
PLAIN = {'size_px': 8, 'channels': 3, 'resample': 'nearest'} | CHOICE
