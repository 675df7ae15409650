import base64
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image
from report.browser_test import WIDTHS, chromium, look  # noqa: F401

from purify.core.errors import UserError
from purify.report import gallery
from purify.report.gallery import Entry, draw_difference, measure, write_gallery

EVIL = '<script>alert(1)</script>"><img src=x onerror=y>'


def draw(n=3, side=16, channels=3, seed=0):
    return np.random.default_rng(seed).integers(20, 230, (n, side, side, channels), np.uint8)


def mark(images, by, rows=slice(0, 4)):
    """All values of the top rows changed by `by`."""
    out = images.astype(int)
    out[:, rows] += by
    return out.astype(np.uint8)


@pytest.fixture
def entries():
    clean = draw()
    full = Entry(
        'warp_full',
        {'scheme': 'clean_label', 'target': 2, 'grid': {'k': 4}, 'path': ''},
        clean,
        mark(clean, 8),
        mark(clean, 4),
        mark(clean, -2),
        fit_seconds=252,
        note='Fitted on the training set.',
    )
    return [Entry('corner', {'scheme': 'all_to_one', 'target': 0}, clean, mark(clean, 20)), full]


@pytest.fixture
def write(tmp_path, entries, environment):
    def write():
        return write_gallery(tmp_path / 'gallery', entries, environment).read_text('utf-8')

    return write


def decode(page):
    """The pictures of a page, in order."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def test_the_numbers(tmp_path, write, environment):
    write()
    numbers = json.loads((tmp_path / 'gallery' / 'gallery.json').read_text('utf-8'))
    corner, full = numbers['attacks']
    assert (corner['name'], corner['settings']) == ('corner', {'scheme': 'all_to_one', 'target': 0})
    # a quarter of the values is off by 20: 10 log10(255^2 / 100)
    assert corner['test']['psnr'] == pytest.approx(10 * math.log10(255**2 / 100))
    found = (corner['test']['max_difference'], corner['test']['changed'], corner['test']['count'])
    assert found == (20, 3, 3)
    wanted = (None, None, None, '')
    assert (corner['training'], corner['cover'], corner['fit_seconds'], corner['note']) == wanted
    assert [full[mode]['max_difference'] for mode in ('test', 'training', 'cover')] == [8, 4, 2]
    assert [full[mode]['psnr'] for mode in ('test', 'training', 'cover')] == pytest.approx(
        [10 * math.log10(255**2 / (change**2 / 4)) for change in (8, 4, 2)]
    )
    likeness = [full[mode]['ssim'] for mode in ('test', 'training', 'cover')]
    assert likeness == sorted(likeness)
    assert 0.9 < likeness[0] < likeness[2] < 1
    wanted = (252, {'k': 4}, [16, 16, 3])
    assert (full['fit_seconds'], full['settings']['grid'], full['image_shape']) == wanted
    assert numbers['environment'] == environment


def test_unchanged_images_do_not_make_the_mean_infinite(tmp_path, entries, write):
    clean = draw()
    half = clean.copy()
    half[0] = mark(clean, 10)[0]
    found = measure(clean, half)
    assert found.psnr == pytest.approx(10 * math.log10(255**2 / 25))
    assert (found.max_difference, found.changed, found.count) == (pytest.approx(10 / 3), 1, 3)
    entries[:] = [Entry('half', {}, clean, half), Entry('none', {}, clean, clean)]
    page = write()
    assert 'Stamped: 2 of 3 images did not change; PSNR is of the others.' in page
    assert 'Stamped: no image changed.' in page
    none = json.loads((tmp_path / 'gallery' / 'gallery.json').read_text('utf-8'))['attacks'][1][
        'test'
    ]
    assert none == {'psnr': None, 'ssim': 1, 'max_difference': 0, 'changed': 0, 'count': 3}
    assert '<td>∞</td><td>1</td><td>0</td>' in page


def test_a_difference_shows_its_sign():
    clean = np.array([[[100, 100, 100], [250, 5, 100]]], np.uint8)
    stamped = np.array([[[103, 98, 100], [0, 255, 113]]], np.uint8)
    assert draw_difference(clean, stamped).tolist() == [[[158, 108, 128], [0, 255, 255]]]


def test_the_pictures(write, entries):
    pictures = decode(write())
    clean = entries[0].clean
    assert len(pictures) == 3 * 3 + 7 * 3
    assert np.array_equal(pictures[:3], clean)
    assert np.array_equal(pictures[3:6], entries[0].test)
    rows = {14: 208, 20: 168, 26: 108}  # 128 + 10 times 8, 4, -2
    for start, level in rows.items():
        expected = np.full_like(clean, 128)
        expected[:, :4] = level
        assert np.array_equal(pictures[start + 1 : start + 4], expected)
    assert np.array_equal(pictures[18:21], entries[1].training)
    assert np.array_equal(pictures[24:27], entries[1].cover)


def test_the_page(write):
    page = write()
    wanted = ['attacks', 'attack-1', 'attack-2', 'provenance']
    assert re.findall(r'<h2 id="([\w-]+)"', page) == wanted
    assert page.count('<h1>') == 1
    assert page.count('href="#attack-1"') == page.count('href="#attack-2"') == 1
    names = [re.sub('<.*?>', '', name) for name in re.findall(r'<a href.*?</a>', page)]
    assert names == re.findall(r'<h2 id="attack-\d">(.*?)</h2>', page) == ['corner', 'warp_full']
    expected = ['clean', 'stamped', 'difference ×\xa010', 'clean', 'stamped', 'difference ×\xa010']
    expected += ['in training', 'difference ×\xa010', 'as cover', 'difference ×\xa010']
    assert re.findall(r'<tr class="images"><th scope="row">(.*?)</th>', page) == expected
    assert page.count('alt="') == page.count('<img ') == 30
    for text in (
        '3 colour images of 16 × 16 pixels',
        '28.1\xa0dB',
        '4 min 12 s',
        'Fitted on the training set.',
        'grid.k <b>4</b>',
    ):
        assert text in page
    assert 'path <b>' not in page  # nothing to say


def test_the_page_stands_alone_and_is_the_same_each_time(write):
    page = write()
    assert '<script' not in page
    assert not re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)', page)
    assert not re.findall(r'@import|url\(', page)
    assert write() == page


def test_names_from_strangers_are_escaped(write, entries, environment):
    clean = draw()
    entries[:] = [Entry(EVIL, {EVIL: EVIL, 'scheme': EVIL}, clean, clean, note=EVIL)]
    environment |= {EVIL: EVIL, 'command': EVIL}
    page = write()
    assert '<script' not in page
    assert '<img src=x' not in page
    assert page.count('&lt;script&gt;alert(1)') >= 8


def test_equal_names_keep_their_own_sections(write, entries):
    entries[:] = [entries[0], entries[0]]
    assert re.findall(r'<h2 id="(attack-\d)">corner', write()) == ['attack-1', 'attack-2']


@pytest.mark.parametrize(('side', 'channels'), [(8, 1), (16, 1), (32, 3), (224, 3)])
def test_sizes_and_channels(tmp_path, side, channels):
    clean = draw(12, side, channels)
    page = write_gallery(tmp_path, [Entry('a', {}, clean, mark(clean, 5))], {}).read_text('utf-8')
    pictures = decode(page)
    assert len(pictures) == 3 * 8
    assert {picture.shape[:2] for picture in pictures} == {(min(side, 96),) * 2}
    assert '4 more images were measured and are not shown.' in page
    assert 'Provenance' not in page


def test_sizes_may_differ_between_attacks(write, entries):
    grey = draw(1, 32, 1)
    entries.append(Entry('other', {}, grey, grey))
    page = write()
    assert 'What 3 attacks do to images.' in page
    assert 'other<small>1 grey image of 32 × 32 pixels</small>' in page
    assert '<small>3 colour images of 16 × 16 pixels</small>' in page


def test_many_large_images_keep_the_page_small(tmp_path, monkeypatch):
    # three columns of two attacks with three rows
    monkeypatch.setattr(gallery, 'MAX_PIXELS', 3 * 2 * 3 * 96**2 + 1)
    clean = draw(8, 192)
    page = write_gallery(tmp_path, [Entry('a', {}, clean, mark(clean, 5))] * 2, {}).read_text(
        'utf-8'
    )
    assert len(decode(page)) == 2 * 3 * 3
    assert '5 more images were measured and are not shown.' in page
    monkeypatch.setattr(gallery, 'MAX_PIXELS', 1)
    assert (
        len(decode(write_gallery(tmp_path, [Entry('a', {}, clean, clean)], {}).read_text('utf-8')))
        == 3
    )


@pytest.mark.parametrize(
    ('value', 'text'), [(1.0, '1'), (0.99996, '>0.9999'), (0.99994, '0.9999'), (-0.25, '-0.2500')]
)
def test_ssim_is_never_rounded_to_one(value, text):
    numbers = gallery.Closeness(30.0, value, 4.0, 2, 2)
    assert gallery.say_closeness(numbers) == ('30.0\xa0dB', text, '4')


def test_nothing_is_written_where_entries_are_refused(tmp_path):
    clean = draw()
    bad = [
        ([], 'no attacks'),
        ([Entry('a', {}, clean[:0], clean[:0])], 'no images'),
        ([Entry('a', {}, clean, clean[:2])], r'\[3, 16, 16, 3\] and \[2, 16, 16, 3\]'),
        ([Entry('a', {}, clean / 255, clean)], 'float64'),
        ([Entry('a', {}, clean[..., :2], clean[..., :2])], 'a report shows images'),
    ]
    for entries, words in bad:
        with pytest.raises(UserError, match=words):
            write_gallery(tmp_path / 'gallery', entries, {})
    assert not (tmp_path / 'gallery').exists()


@pytest.mark.parametrize('dark', [False, True])
def test_gallery_in_a_browser(chromium, tmp_path, entries, environment, dark):  # noqa: F811
    word = 'wordwithoutanyspace' * 12
    entries.append(Entry(word, {word: word}, entries[0].clean, entries[0].test, note=word))
    page = write_gallery(tmp_path / 'gallery', entries, environment)
    views = look(chromium, tmp_path, page, dark=dark)
    assert [view['inner'] for view in views] == list(WIDTHS)
    for view in views:
        assert view['scroll'] <= view['inner']
        assert (view['images'], view['broken'], view['tall']) == (39, 0, 96)
        assert view['faint'] == []
        assert view['dark'] is dark
