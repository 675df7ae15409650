import errno
import hashlib
import os
from pathlib import Path
from typing import NotRequired, TypedDict

import pytest

from purify.core import files
from purify.core.errors import UserError

ROOT = Path(__file__).parents[2]


def failing(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_bytes_are_written_whole_with_their_digest(tmp_path):
    path = tmp_path / 'a' / 'b' / 'x.bin'
    assert files.write_bytes(path, b'hello') == hashlib.sha256(b'hello').hexdigest()
    assert path.read_bytes() == b'hello'
    assert os.listdir(path.parent) == ['x.bin']


@pytest.mark.parametrize('broken', ['replace', 'fsync'])
def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, broken):
    path = tmp_path / 'x.bin'
    files.write_bytes(path, b'old')
    monkeypatch.setattr(os, broken, failing(errno.ENOSPC))
    said = r'x\.bin: the disk is full \(\d+ MiB free\).*free some space.*--workdir'
    with pytest.raises(UserError, match=said):
        files.write_bytes(path, b'new')
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['x.bin']


@pytest.mark.parametrize('number', [errno.EACCES, errno.EPERM, errno.EROFS])
def test_an_unwritable_folder_is_named(tmp_path, monkeypatch, number):
    monkeypatch.setattr(files, 'open', failing(number), raising=False)
    with pytest.raises(UserError, match=r'x\.bin: cannot write here .*Choose a --workdir you own'):
        files.write_bytes(tmp_path / 'x.bin', b'new')
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / 'run').write_text('not a folder')
    for path in (tmp_path / 'run' / 'x.json', tmp_path / 'run' / 'deep' / 'x.json'):
        with pytest.raises(UserError, match=r'run.*x\.json: cannot be made.*in the way.*--workdir'):
            files.write_bytes(path, b'')


def test_other_errors_pass_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'replace', failing(errno.EIO))
    with pytest.raises(OSError, match='Input/output') as caught:
        files.write_bytes(tmp_path / 'x', b'')
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (RuntimeError('write() failed: No space left on device; writing x'), 'the disk is full'),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code=28]'
            ),
            'the disk is full',
        ),
        (RuntimeError('open() failed: Permission denied; opening x'), 'cannot write here'),
    ],
)
def test_errors_of_native_writers_are_understood_by_their_words(tmp_path, error, expected):
    with pytest.raises(UserError, match=expected), files.explain_os_errors(tmp_path):
        raise error


def test_errors_about_something_else_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(ValueError, match='shape'), files.explain_os_errors(tmp_path):
        raise ValueError('shape mismatch')


def test_json_with_nan_is_refused_and_nothing_is_overwritten(tmp_path):
    path = tmp_path / 'x.json'
    files.write_json(path, {'a': [1, 2.5, None]})
    with pytest.raises(ValueError, match='not JSON compliant'):
        files.write_json(path, {'a': float('nan')})
    assert files.read_json(path) == {'a': [1, 2.5, None]}


def test_unreadable_json_is_named_with_the_next_step(tmp_path):
    (tmp_path / 'cut.json').write_text('{"a": 1')
    (tmp_path / 'binary.json').write_bytes(b'\xff\xfe\x00')
    (tmp_path / 'folder.json').mkdir()
    for name, expected in {
        'cut.json': 'not valid JSON .*Delete its stage folder and run again',
        'binary.json': 'not valid JSON',
        'folder.json': 'cannot be read .*Delete its stage folder and run again',
        'none.json': 'no such file. Is .* the right folder',
        'cut.json/none.json': 'cannot be read .*Give a folder that holds none.json',
    }.items():
        with pytest.raises(UserError, match=f'{name}: {expected}'):
            files.read_json(tmp_path / name)


class Form(TypedDict):
    name: str
    sizes: list[int]
    rate: NotRequired[float]


def test_json_of_the_right_form_comes_back_whole(tmp_path):
    for value in (
        {'name': 'x', 'sizes': [1, 2]},
        {'name': 'x', 'sizes': [], 'rate': 3, 'unnamed': {'deep': [None]}},
    ):
        files.write_json(tmp_path / 'x.json', value)
        assert files.read_json(tmp_path / 'x.json', Form) == value


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('[]', 'Expected `object`, got `array`'),
        ('{"name": "x"}', 'missing required field `sizes`'),
        ('{"name": 3, "sizes": []}', r'Expected `str`, got `int` - at `\$\.name`'),
        ('{"name": "x", "sizes": ["one"]}', r'Expected `int`, got `str` - at `\$\.sizes\[0\]`'),
        ('{"name": "x", "sizes": [], "rate": "half"}', r'at `\$\.rate`'),
        ('[' * 5000, 'nested deeper|not valid JSON'),
        ('9' * 5000, 'not valid JSON'),
    ],
)
def test_json_of_another_form_is_named_with_the_place(tmp_path, text, told):
    (tmp_path / 'x.json').write_text(text)
    with pytest.raises(UserError, match=rf'x\.json: .*({told})'):
        files.read_json(tmp_path / 'x.json', Form)


def test_digest_of_a_file_of_many_blocks(tmp_path):
    data = os.urandom(3_000_001)
    (tmp_path / 'big').write_bytes(data)
    assert files.sha256_of(tmp_path / 'big') == hashlib.sha256(data).hexdigest()


def test_fingerprint_is_the_digest_of_canonical_json():
    expected = hashlib.sha256(b'{"a":[1,2.5,true,null],"b":{"c":"x"}}').hexdigest()[:12]
    assert files.fingerprint({'b': {'c': 'x'}, 'a': (1, 2.5, True, None)}) == expected


@pytest.mark.parametrize(
    'other',
    [{'a': 2}, {'a': 1.0}, {'a': True}, {'a': '1'}, {'b': 1}, {'a': 1, 'b': None}, {'a': [1]}],
)
def test_fingerprint_changes_with_anything(other):
    assert files.fingerprint(other) != files.fingerprint({'a': 1})


def test_fingerprint_refuses_what_json_cannot_hold():
    with pytest.raises(ValueError, match='not JSON compliant'):
        files.fingerprint({'a': float('inf')})


def test_paths_that_a_person_writes(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert files.user_path('~/a/b') == tmp_path / 'a' / 'b'
    assert files.user_path(Path('a')) == Path('a')
    (tmp_path / 'file').write_text('')
    (tmp_path / 'loop').symlink_to('loop')
    assert files.user_path(tmp_path / 'file' / 'x') == tmp_path / 'file' / 'x'
    for wrong, reason in {
        '~nobody-of-this-name/x': 'Could not determine home directory',
        'x' * 300: 'File name too long',
        'a\x00b': '(stat: )?embedded null (byte|character)',
        str(tmp_path / 'loop'): 'Too many levels of symbolic links',
    }.items():
        with pytest.raises(UserError, match=rf'not a usable path \({reason}'):
            files.user_path(wrong)


def test_json_keeps_the_keys_that_its_type_does_not_name(tmp_path):
    class Named(TypedDict):
        name: str

    files.write_json(tmp_path / 'a.json', {'name': 'x', 'more': {'a': [1]}})
    assert files.read_json(tmp_path / 'a.json', Named) == {'name': 'x', 'more': {'a': [1]}}
