"""Bytes of picture files."""

import io
import struct
import zlib


def encoded(picture, kind='PNG', **options):
    """A file as Pillow writes it."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, bits, colour_type, rows, *chunks):
    """A PNG from bytes, for what no library writes."""

    def chunk(kind, data):
        crc = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + crc

    parts = [
        chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, colour_type, 0, 0, 0)),
        *(chunk(*pair) for pair in chunks),
        chunk(b'IDAT', zlib.compress(b''.join(b'\0' + row for row in rows))),
        chunk(b'IEND', b''),
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)
