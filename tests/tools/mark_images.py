r"""Writes seen.json of an embedded prior: by which 64 of its training images a report knows them.

    python tests/tools/mark_images.py DIR/train.npz 30000 \
        > purify/models/pretrained/photos32_ddpm/seen.json

The prior was trained on the first 30,000 images of the file, in the order of their source.
"""

import json
import sys

import numpy as np

from purify.stages.provenance import mark_of

MARKS = 64


def main(file: str, count: str) -> None:
    """Prints how many images there are, and the marks of some, evenly chosen."""
    with np.load(file) as arrays:
        images = arrays['images'][: int(count)]
    places = np.linspace(0, len(images) - 1, MARKS).astype(int)
    told = {'images': len(images), 'marks': [mark_of(images[place]) for place in places]}
    print(json.dumps(told, indent=1))


if __name__ == '__main__':
    main(*sys.argv[1:])
