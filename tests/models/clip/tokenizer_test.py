"""CLIPTokenizer's ids are those of transformers; it reads what it writes; broken files are told."""

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from purify.core.errors import UserError
from purify.models.clip.tokenizer import CLIPTokenizer

MERGES = [
    *(
        ('p', 'h'),
        ('ph', 'o'),
        ('pho', 't'),
        ('phot', 'o</w>'),
        ('o', 'f</w>'),
        ('c', 'a'),
        ('ca', 't</w>'),
    ),
    *(('t', 'h'), ('th', 'e</w>'), ('!', '!</w>'), ('3', '2</w>')),
]
SYMBOLS = sorted(pre_tokenizers.ByteLevel.alphabet())
SYMBOLS += [f'{symbol}</w>' for symbol in SYMBOLS]
SYMBOLS += [first + second for first, second in MERGES] + ['<|startoftext|>', '<|endoftext|>']
VOCAB = {symbol: number for number, symbol in enumerate(SYMBOLS)}
START, END = VOCAB['<|startoftext|>'], VOCAB['<|endoftext|>']
LENGTH = 12
# Text: ids before padding. Made with transformers 5.23.0's CLIPTokenizer (padding='max_length',
# truncation=True) on this vocab.
IDS = {
    '': [START, END],
    'a  photo of\tthe CAT': [START, 320, 515, 516, 520, 518, END],
    ' cafe\u0301!! 32': [START, 517, 69, 127, 358, 521, 274, 273, END],
    "it's 日本": [START, 72, 339, 6, 338, 162, 245, 98, 162, 250, 361, END],
    'photo ' * 11 + 'the cat': [START, *[515] * 10, END],
    'hi! <|endoftext|> cat': [START, 71, 328, 256, END, 518, END],
    '<|EndOfText|>!!': [START, 27, 347, 68, 77, 67, 78, 69, 83, 68, 87, END],
}
# The same where '!' pads, as in Stable Diffusion 2: a '!' in the text is the padding token then.
IDS_PAD = {
    '': [START, END],
    ' cafe\u0301!! 32': [START, 517, 69, 127, 358, 0, 0, 274, 273, END],
    'hi! <|endoftext|> cat': [START, 71, 328, 0, END, 518, END],
}


def padded(ids, pad):
    return np.array([row + [pad] * (LENGTH - len(row)) for row in ids], np.int32)


def write(folder, **files):
    """A folder of transformers' files; `vocab` and `merges` are there unless given as None."""
    texts = {
        'vocab.json': json.dumps(VOCAB),
        'merges.txt': '\n'.join(['#version: 0.2', *map(' '.join, MERGES)]) + '\n',
        'tokenizer_config.json': json.dumps(
            {'model_max_length': LENGTH, 'pad_token': '<|endoftext|>'}
        ),
    }
    texts |= {
        name.replace('__', '.'): text if isinstance(text, str | None) else json.dumps(text)
        for name, text in files.items()
    }
    for name, text in texts.items():
        if text is not None:
            (folder / name).write_text(text, encoding='utf-8')
    return folder


def whole(merges, **model):
    """A tokenizer.json as the library writes it."""
    tokens = [{'id': VOCAB[token], 'content': token, 'special': True} for token in SYMBOLS[-2:]]
    return {
        'model': (
            {'type': 'BPE', 'end_of_word_suffix': '</w>', 'vocab': VOCAB, 'merges': merges} | model
        ),
        'added_tokens': tokens,
    }


def test_ids_of_transformers():
    ids = CLIPTokenizer(VOCAB, MERGES, max_length=LENGTH)(list(IDS))
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, padded(IDS.values(), END))


def test_ids_of_transformers_from_each_kind_of_file(tmp_path):
    found = CLIPTokenizer.from_folder(write(tmp_path))(list(IDS))
    np.testing.assert_array_equal(found, padded(IDS.values(), END))
    # new and old versions of the library
    for merges in (MERGES, [' '.join(pair) for pair in MERGES]):
        write(tmp_path, tokenizer__json=whole(merges))
        found = CLIPTokenizer.from_folder(tmp_path)(list(IDS))
        np.testing.assert_array_equal(found, padded(IDS.values(), END))
    (tmp_path / 'vocab.json').unlink()
    found = CLIPTokenizer.from_folder(tmp_path)(list(IDS))
    np.testing.assert_array_equal(found, padded(IDS.values(), END))


def test_the_special_tokens_map_wins_over_an_old_config(tmp_path):
    write(
        tmp_path,
        special_tokens_map__json={
            'pad_token': '!',
            'eos_token': {'content': '<|endoftext|>', 'normalized': True},
        },
    )
    tokenizer = CLIPTokenizer.from_folder(tmp_path)
    np.testing.assert_array_equal(tokenizer(list(IDS_PAD)), padded(IDS_PAD.values(), 0))


def test_what_is_saved_is_read(tmp_path):
    write(
        tmp_path,
        special_tokens_map__json={'pad_token': '!'},
        added_tokens__json={'<cat-toy>': len(VOCAB)},
    )
    tokenizer = CLIPTokenizer.from_folder(tmp_path)
    texts = [*IDS, 'a <cat-toy>', 'A <CAT-TOY>']
    # a plain added token is found in the lower-cased text
    assert tokenizer(texts)[-2:, 2].tolist() == [len(VOCAB)] * 2
    tokenizer.save(tmp_path / 'again')
    again = CLIPTokenizer.from_folder(tmp_path / 'again')
    np.testing.assert_array_equal(again(texts), tokenizer(texts))
    assert again.size == tokenizer.size == len(VOCAB) + 1
    assert again.special == tokenizer.special | {'pad_token': '!'}


def test_unknown_length_is_that_of_clip(tmp_path):
    for config in ({}, {'model_max_length': 1000000000000000019884624838656}):
        assert CLIPTokenizer.from_folder(write(tmp_path, tokenizer_config__json=config))(
            ['a']
        ).shape == (1, 77)
    assert CLIPTokenizer.from_folder(tmp_path)([]).shape == (0, 77)


@pytest.mark.parametrize(
    ('files', 'words'),
    [
        ({'vocab__json': None}, 'holds no tokenizer'),
        ({'vocab__json': '{'}, 'not valid JSON'),
        ({'vocab__json': ['a']}, 'vocab.json'),
        ({'vocab__json': {'a': 'b'}}, 'symbols to ids'),
        ({'vocab__json': {'a': 0}}, 'lacks the unk_token'),
        ({'merges__txt': 'a b c\n'}, 'not a pair'),
        ({'merges__txt': 'zz yy\n'}, 'do not fit the vocabulary'),
        ({'tokenizer_config__json': {'padding_side': 'left'}}, 'padding_side'),
        ({'tokenizer_config__json': {'model_max_length': 1}}, 'max_length = 1 '),
        ({'tokenizer_config__json': {'model_max_length': 'x'}}, 'not the files'),
        ({'tokenizer_config__json': {'added_tokens_decoder': {'7': {}}}}, 'not the files'),
        ({'added_tokens__json': {'<cat-toy>': 9999}}, 'do not belong together'),
        ({'tokenizer__json': {'model': {'type': 'Unigram'}}}, 'not a tokenizer of CLIP'),
        ({'tokenizer__json': whole(MERGES, end_of_word_suffix=None)}, 'not a tokenizer of CLIP'),
        ({'tokenizer__json': whole(['a b c'])}, 'not a pair'),
        ({'tokenizer__json': whole(MERGES[1:])}, r'tokenizer.json: contradicts .*merges.txt'),
        (
            {'tokenizer__json': whole(MERGES, vocab=VOCAB | {'!': 1})},
            r'tokenizer.json: contradicts .*vocab.json',
        ),
        ({'tokenizer__json': whole(MERGES, dropout=0.1)}, "'dropout': 0.1"),
        (
            {'tokenizer_config__json': {'tokenizer_class': 'BertTokenizer'}},
            "tokenizer_class = 'BertTokenizer'",
        ),
        ({'tokenizer_config__json': {'model_max_length': 10**9}}, 'max_length = 1000000000 '),
        ({'tokenizer_config__json': '[' * 10**5}, 'nested deeper'),
    ],
)
def test_broken_folders_end_in_words(tmp_path, files, words):
    with pytest.raises(UserError, match=words):
        CLIPTokenizer.from_folder(write(tmp_path, **files))


def test_bad_input_ends_in_words(tmp_path):
    with pytest.raises(UserError, match='no such folder'):
        CLIPTokenizer.from_folder(tmp_path / 'nowhere')
    bad: Any = ('a photo', [1])
    for texts in bad:
        with pytest.raises(UserError, match='list of strings'):
            CLIPTokenizer(VOCAB, MERGES)(texts)
