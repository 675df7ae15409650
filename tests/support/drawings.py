"""What is drawn in a report, read back: words, dots and pixels."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image

DOTS = r'<path d="([^"]*)"[^>]*style="[^"]*stroke: var\(--([\w-]+)\)[^"]*stroke-linecap: round'


def parse(drawing):
    """The SVG of a drawing as XML."""
    space = '<svg xmlns="http://www.w3.org/2000/svg" '
    return ET.fromstring(str(drawing.svg).replace('<svg ', space, 1))


def words_of(drawing):
    """Every text in a drawing."""
    nodes = parse(drawing).iter('{http://www.w3.org/2000/svg}text')
    return [''.join(node.itertext()) for node in nodes]


def dots_of(drawing):
    """Colour -> places f[n 2] of dots, in pixels from the upper left corner."""
    return {
        colour: np.array(re.findall(r'M ([\d.]+) ([\d.]+)', path), float)
        for path, colour in re.findall(DOTS, str(drawing.svg))
    }


def pixels_of(thumb):
    """The picture in a thumbnail, u8."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(thumb.uri.partition(',')[2]))))
