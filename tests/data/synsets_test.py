"""Class names are ImageNet's, checked against the lists that TFDS carries."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from purify.core.errors import UserError
from purify.data.synsets import TABLE, caption_names, readable

ROOT = Path(__file__).parents[2]
IMAGENETTE = {
    'n01440764': 'tench',
    'n02102040': 'English springer',
    'n02979186': 'cassette player',
    'n03000684': 'chain saw',
    'n03028079': 'church',
    'n03394916': 'French horn',
    'n03417042': 'garbage truck',
    'n03425413': 'gas pump',
    'n03445777': 'golf ball',
    'n03888257': 'parachute',
}
# the first names another class too
SECOND_LEMMA = {'n02113186': 'Cardigan Welsh corgi', 'n03710721': 'tank suit'}


def tfds_file(path):
    """The text of a file of TFDS, without importing TFDS."""
    spec = importlib.util.find_spec('tensorflow_datasets')
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / path).read_text(encoding='utf-8')


def imagenet_ids():
    return tfds_file('datasets/imagenet2012/labels.txt').split()


def siscore_labels():
    """ImageNet's classes as TFDS's siscore lists them: all lemmas, in the order of the ids."""
    for node in ast.parse(tfds_file('datasets/siscore/labels.py')).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.List)
            and len(node.value.elts) == 1000
        ):
            return ast.literal_eval(node.value)
    raise AssertionError('siscore lists no 1,000 labels')


def test_the_table_holds_imagenets_ids_and_no_other():
    ids = [
        line.split('\t')[0]
        for line in TABLE.read_text(encoding='utf-8').splitlines()
        if not line.startswith('#')
    ]
    assert len(ids) == 1000
    assert ids == sorted(imagenet_ids())


def test_every_name_is_the_first_lemma_or_the_one_that_tells_it_apart():
    lemmas = dict(zip(sorted(imagenet_ids()), siscore_labels(), strict=True))
    for synset, words in lemmas.items():
        # siscore's cranes are 'crane (bird)' and 'crane (machine)'
        first, *others = words.split(', ')
        assert readable(synset) == SECOND_LEMMA.get(synset, first)
        assert readable(synset) in (first, *others)


def test_imagenettes_ten():
    assert set(tfds_file('image_classification/imagenette_labels.txt').split()) == set(IMAGENETTE)
    assert {synset: readable(synset) for synset in IMAGENETTE} == IMAGENETTE


def test_no_two_of_the_thousand_captions_are_equal():
    counts = Counter(readable(synset).lower() for synset in imagenet_ids())
    assert len(counts) == 1000
    assert len(set(caption_names(imagenet_ids()))) == 1000
    assert (readable('n02012849'), readable('n03126707')) == ('crane (bird)', 'crane (machine)')
    assert (readable('n02113186'), readable('n02963159')) == ('Cardigan Welsh corgi', 'cardigan')
    assert (readable('n03710637'), readable('n03710721')) == ('maillot', 'tank suit')


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('airplane', 'airplane'),
        ('012.binoculars', 'binoculars'),
        ('101 dalmatians', '101 dalmatians'),
        ('fire_truck', 'fire truck'),
        (' pickup_truck_ ', 'pickup truck'),
        ('Siamese cat', 'Siamese cat'),
        ('n01440764\n', 'tench'),
        ('n00000000', 'n00000000'),
        ('n014407641', 'n014407641'),
        ('N01440764', 'N01440764'),
        ('7', '7'),
        ('', ''),
    ],
)
def test_other_names_keep_their_words(name, words):
    assert readable(name) == words


@pytest.mark.parametrize(
    'names', [('fire_truck', 'ant', 'fire truck'), ('tench', 'n01440764'), ('012.bee', 'bee')]
)
def test_two_classes_with_one_caption_are_refused(names):
    said = r'^classes .* would have one caption, .*Rename all but one'
    with pytest.raises(UserError, match=said) as caught:
        caption_names(names)
    assert repr(names[0]) in str(caught.value)
    assert repr(names[-1]) in str(caught.value)


def test_names_fit_a_caption():
    for synset in imagenet_ids():
        assert re.fullmatch(
            r"[A-Za-z][A-Za-z' .-]*[A-Za-z]( \((bird|machine)\))?", readable(synset)
        ), synset


def test_the_table_carries_wordnets_notice():
    text = TABLE.read_text(encoding='utf-8')
    for part in (
        'WordNet 3.0 Copyright 2006 by Princeton',
        'Permission to use',
        'PROVIDED "AS IS"',
        'Title to copyright',
    ):
        assert part in text


def test_the_table_is_built_into_the_package(tmp_path):
    pytest.importorskip('setuptools')
    command = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert (tmp_path / 'purify' / 'data' / 'synsets.txt').read_bytes() == TABLE.read_bytes()
