"""CLIP's tokenizer (Radford et al. 2021): byte-pair encoding of lower-cased text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from purify.core.errors import UserError
from purify.core.files import write_bytes, write_json
from purify.core.types import Facts, Settings
from purify.models.diffusers.config_checks import COUNT, is_count
from purify.models.files.folders import read_object

START, END = '<|startoftext|>', '<|endoftext|>'
SUFFIX = '</w>'  # marks the last symbol of a word
MAX_LENGTH = 77  # tokens: CLIP's table of positions
# Written specials, English endings, letters, single digits, and runs of all else.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_SPECIAL = {'bos_token': START, 'eos_token': END, 'unk_token': END, 'pad_token': END}
_FLAGS = ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')
_FILES = 'tokenizer.json, or vocab.json and merges.txt'
_FIXED = {  # of tokenizer_config.json; what is missing is so
    **dict.fromkeys(('padding_side', 'truncation_side'), ('right',)),
    'tokenizer_class': ('CLIPTokenizer', 'CLIPTokenizerFast'),
}
_OFF = (
    'dropout',
    'continuing_subword_prefix',
    'fuse_unk',
    'byte_fallback',
    'ignore_merges',
)  # of the model in tokenizer.json
Merges = Sequence[tuple[str, str]]


class CLIPTokenizer:
    """Turns texts into token ids, as transformers' CLIPTokenizer does.

    Ids are start, byte pairs, end, and padding up to `max_length` tokens. `vocab` holds the id of
    every symbol, `merges` the pairs that are joined, most frequent first. Symbols are bytes in the
    printable alphabet of GPT-2 (Radford et al. 2019), so any text can be written; the last of a
    word ends in `</w>`. `special` names bos_token, eos_token, unk_token and pad_token where they
    are not CLIP's ('<|startoftext|>' and three times '<|endoftext|>'); Stable Diffusion 2 pads with
    '!'. `added` are whole tokens beyond the merges. Special and added tokens that `vocab` lacks get
    the ids after it. Raises `UserError` for a vocabulary without unk_token or symbols of the
    merges.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Merges,
        *,
        max_length: int = MAX_LENGTH,
        special: Mapping[str, str | AddedToken] | None = None,
        added: Iterable[AddedToken] = (),
    ):
        if not is_count(max_length) or max_length < 2:
            raise UserError(
                f'CLIPTokenizer: max_length = {max_length!r} must be {COUNT}, and 2 (start and end)'
                ' or more.'
            )
        self.vocab, self.merges, self.max_length = dict(vocab), list(merges), max_length
        tokens = {
            role: _added_token(token) for role, token in (_SPECIAL | dict(special or {})).items()
        }
        self.special = {role: token.content for role, token in tokens.items()}
        self._tokenizer = self._build([*added, *tokens.values()])

    def _build(self, tokens: list[AddedToken]) -> Tokenizer:
        unknown = self.special['unk_token']
        if unknown not in self.vocab:
            raise UserError(
                f'CLIPTokenizer: the vocabulary of {len(self.vocab)} symbols lacks the unk_token'
                f' {unknown!r}. Add it.'
            )
        try:
            model = BPE(self.vocab, self.merges, unk_token=unknown, end_of_word_suffix=SUFFIX)
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                f'CLIPTokenizer: the merges do not fit the vocabulary ({error}). Take both from one'
                ' model.'
            ) from error
        tokenizer = Tokenizer(model)
        spaces = normalizers.Replace(Regex(r'\s+'), ' ')
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), spaces, normalizers.Lowercase()]
        )
        words = pre_tokenizers.Split(Regex(_WORDS), behavior='removed', invert=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [words, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.add_tokens(tokens)
        ids = tokenizer.get_vocab()
        bos, eos, pad = (self.special[role] for role in ('bos_token', 'eos_token', 'pad_token'))
        tokenizer.post_processor = processors.RobertaProcessing(
            (eos, ids[eos]), (bos, ids[bos]), trim_offsets=False, add_prefix_space=False
        )
        tokenizer.enable_truncation(self.max_length)
        tokenizer.enable_padding(length=self.max_length, pad_token=pad, pad_id=ids[pad])
        return tokenizer

    @property
    def size(self) -> int:
        """The number of ids; a text encoder's `vocab_size` must not be less."""
        return self._tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids i32[b max_length] of texts, cut before the end token or padded.

        Raises `UserError` for anything but a list of strings.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UserError(f'CLIPTokenizer needs a list of strings, got {texts!r}.')
        ids = [
            self._tokenizer.encode(text).ids for text in texts
        ]  # encode_batch starts threads, which a fork does not survive
        return np.array(ids, np.int32).reshape(-1, self.max_length)

    @classmethod
    def from_folder(cls, folder: str | Path) -> 'CLIPTokenizer':
        """Reads the tokenizer of a model's `tokenizer` folder.

        The folder holds tokenizer.json, or vocab.json and merges.txt, or both where they agree.
        Special tokens and `model_max_length` (77 where it is missing) come from
        tokenizer_config.json and, unless that lists `added_tokens_decoder`, from
        special_tokens_map.json and added_tokens.json, as in transformers. Raises `UserError` naming
        the file for what is missing, broken or another kind of tokenizer, and both files for what
        disagrees.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f'{folder}: no such folder. Give a folder that holds {_FILES}.')
        try:
            vocab, merges, settings, ids = _read(folder)
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
        ) as error:  # JSON of another shape
            raise UserError(
                f'{folder}: not the files of a CLIP tokenizer ({error!r:.200}). Download them'
                ' again.'
            ) from error
        tokenizer = cls(vocab, merges, **settings)
        for token, index in ids.items():
            if (found := tokenizer._tokenizer.token_to_id(token)) != index:
                raise UserError(
                    f'{folder}: lists the token {token!r} with the id {index}, but after its'
                    f' vocabulary of {len(vocab)} symbols it gets {found}. Its files do not belong'
                    ' together: download them again.'
                )
        return tokenizer

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer as vocab.json, merges.txt and more, which transformers opens."""
        folder = Path(folder)
        added = self._tokenizer.get_added_tokens_decoder()
        config: Settings = {
            'added_tokens_decoder': {
                str(index): _flags(token) for index, token in sorted(added.items())
            },
            **self.special,
            'do_lower_case': True,
            'model_max_length': self.max_length,
            'tokenizer_class': 'CLIPTokenizer',
        }
        lines = ['#version: 0.2', *(' '.join(pair) for pair in self.merges)]
        write_bytes(
            folder / 'vocab.json', (json.dumps(self.vocab, ensure_ascii=False) + '\n').encode()
        )
        write_bytes(folder / 'merges.txt', ('\n'.join(lines) + '\n').encode())
        write_json(folder / 'special_tokens_map.json', self.special)
        write_json(folder / 'tokenizer_config.json', config)


# files ------------------------------------------------------------------------------------------------------------------


def _added_token(token: str | Mapping[str, Any] | AddedToken) -> AddedToken:
    """A special token from a name, or from what transformers writes for one."""
    if isinstance(token, AddedToken):
        return token
    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False)
    return AddedToken(
        token['content'],
        **({'special': True} | {flag: bool(token[flag]) for flag in _FLAGS if flag in token}),
    )


def _flags(token: AddedToken) -> Facts:
    return {'content': token.content} | {flag: getattr(token, flag) for flag in _FLAGS}


def _read_object(file: Path) -> Facts:
    """A JSON object; an empty one where there is no file."""
    return read_object(file) if file.exists() else {}


def _read(folder: Path) -> tuple[dict[str, int], Merges, Facts, dict[str, int]]:
    """(vocab, merges, other arguments of `CLIPTokenizer`, ids that files give to added tokens)."""
    vocab, merges, added = _read_vocabulary(folder)
    config = _read_object(folder / 'tokenizer_config.json')
    if 'added_tokens_decoder' not in config:
        config |= _read_object(folder / 'special_tokens_map.json')
    for name, allowed in _FIXED.items():
        if (value := config.get(name)) is not None and value not in allowed:
            raise UserError(
                f'{folder}: {name} = {value!r} is not supported. Choose from: {allowed}.'
            )
    special = {role: _added_token(config[role]) for role in _SPECIAL if config.get(role)}
    if 'added_tokens_decoder' in config:
        added = {
            int(index): _added_token(token)
            for index, token in config['added_tokens_decoder'].items()
        }
    else:
        names = {token.content for token in special.values()}
        plain = _read_object(folder / 'added_tokens.json')
        added = {
            index: AddedToken(token, special=token in names) for token, index in plain.items()
        } | added
    by_name = {token.content: token for token in added.values()}
    extra = config.get('extra_special_tokens') or config.get('additional_special_tokens') or []
    extra = [
        _added_token(token) for token in (extra.values() if isinstance(extra, dict) else extra)
    ]
    max_length = config.get('model_max_length', MAX_LENGTH)
    settings = {
        'max_length': (
            MAX_LENGTH if max_length > 1e20 else max_length
        ),  # 1e30 is transformers' word for unknown
        'special': {role: by_name.get(token.content, token) for role, token in special.items()},
        'added': [added[index] for index in sorted(added)] + extra,
    }
    return vocab, merges, settings, {token.content: index for index, token in added.items()}


def _read_vocabulary(folder: Path) -> tuple[dict[str, int], Merges, dict[int, AddedToken]]:
    """(ids of symbols, merges, added tokens by id); files side by side must not disagree."""
    file, words, pairs = (folder / name for name in ('tokenizer.json', 'vocab.json', 'merges.txt'))
    vocab = _vocab(_read_object(words), words) if words.exists() else None
    merges = _read_merges(pairs) if pairs.exists() else None
    if file.exists():
        whole = _read_whole(file)
        for other, own, same in ((words, whole[0], vocab), (pairs, whole[1], merges)):
            if same is not None and own != same:
                raise UserError(
                    f'{file}: contradicts {other}. Download both again, or delete the one that is'
                    ' not meant.'
                )
        return whole
    if vocab is None or merges is None:
        raise UserError(f'{folder}: holds no tokenizer. Put {_FILES} there.')
    return vocab, merges, {}


def _read_whole(file: Path) -> tuple[dict[str, int], Merges, dict[int, AddedToken]]:
    """(ids of symbols, merges, added tokens by id) of a tokenizer.json."""
    whole = read_object(file)
    model = whole.get('model', {})
    if model.get('type', 'BPE') != 'BPE' or model.get('end_of_word_suffix') != SUFFIX:
        raise UserError(
            f'{file}: not a tokenizer of CLIP (BPE with the end of word {SUFFIX!r}). Give that of a'
            ' CLIP text encoder.'
        )
    if strange := {name: model[name] for name in _OFF if model.get(name)}:
        raise UserError(
            f'{file}: these settings of its model are not supported: {strange}. Give that of a CLIP'
            ' text encoder.'
        )
    merges = [
        merge.split(' ') if isinstance(merge, str) else merge for merge in model.get('merges', [])
    ]
    added = {token['id']: _added_token(token) for token in whole.get('added_tokens', [])}
    return _vocab(model.get('vocab'), file), _pairs(merges, file), added


def _vocab(vocab: Any, file: Path) -> dict[str, int]:
    if (
        not isinstance(vocab, dict)
        or not vocab
        or not all(isinstance(index, int) and index >= 0 for index in vocab.values())
    ):
        raise UserError(
            f'{file}: needs a vocabulary, an object from symbols to ids. Download it again.'
        )
    return vocab


def _read_merges(file: Path) -> Merges:
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{file}: cannot be read ({error}). Download it again.') from error
    return _pairs(
        [line.split(' ') for line in lines if line.strip() and not line.startswith('#version')],
        file,
    )


def _pairs(merges: Iterable[Any], file: Path) -> Merges:
    pairs = [tuple(merge) for merge in merges]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong:
        raise UserError(
            f'{file}: the merge {" ".join(map(str, wrong[0]))!r:.100} is not a pair of symbols.'
            ' Download it again.'
        )
    return pairs
