"""The files of a CLIP tokenizer, as transformers writes them, read and checked."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from purify.core.errors import UserError
from purify.core.types import Facts
from purify.models.files.folders import read_object

WORD_END = '</w>'  # marks the last symbol of a word
MAX_LENGTH = 77  # tokens: CLIP's table of positions
SPECIAL = ('bos_token', 'eos_token', 'unk_token', 'pad_token')
_FLAGS = ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')
_FILES = 'tokenizer.json, or vocab.json and merges.txt'
_FIXED = {  # of tokenizer_config.json; what is missing is so
    **dict.fromkeys(('padding_side', 'truncation_side'), ('right',)),
    'tokenizer_class': ('CLIPTokenizer', 'CLIPTokenizerFast'),
}
# of the model in tokenizer.json
_OFF = ('dropout', 'continuing_subword_prefix', 'fuse_unk', 'byte_fallback', 'ignore_merges')
Merges = Sequence[tuple[str, str]]


def added_token(token: str | Mapping[str, Any] | AddedToken) -> AddedToken:
    """A special token made from its name, or from what transformers writes for one."""
    if isinstance(token, AddedToken):
        return token
    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False)
    flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token}
    return AddedToken(token['content'], **({'special': True} | flags))


def token_flags(token: AddedToken) -> Facts:
    """What transformers writes for a token."""
    return {'content': token.content} | {flag: getattr(token, flag) for flag in _FLAGS}


def _read_object(file: Path) -> Facts:
    """A JSON object; an empty one where there is no file."""
    return read_object(file) if file.exists() else {}


def read_tokenizer(folder: Path) -> tuple[dict[str, int], Merges, Facts, dict[str, int]]:
    """Reads (vocab, merges, other arguments of `CLIPTokenizer`, ids given to added tokens).

    Raises `UserError` naming the file for what is missing, broken or another kind of tokenizer, and
    both files for what disagrees.
    """
    if not folder.is_dir():
        raise UserError(f'{folder}: no such folder. Give a folder that holds {_FILES}.')
    try:
        return _read(folder)
    # JSON of another shape
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f'{folder}: not the files of a CLIP tokenizer ({error!r:.200}). Download them again.'
        ) from error


def _read(folder: Path) -> tuple[dict[str, int], Merges, Facts, dict[str, int]]:
    vocab, merges, added = _read_vocabulary(folder)
    config = _read_object(folder / 'tokenizer_config.json')
    if 'added_tokens_decoder' not in config:
        config |= _read_object(folder / 'special_tokens_map.json')
    for name, allowed in _FIXED.items():
        if (value := config.get(name)) is not None and value not in allowed:
            raise UserError(
                f'{folder}: {name} = {value!r} is not supported. Choose from: {allowed}.'
            )
    special = {role: added_token(config[role]) for role in SPECIAL if config.get(role)}
    if 'added_tokens_decoder' in config:
        decoder = config['added_tokens_decoder']
        added = {int(index): added_token(token) for index, token in decoder.items()}
    else:
        names = {token.content for token in special.values()}
        plain = _read_object(folder / 'added_tokens.json')
        named = {index: AddedToken(token, special=token in names) for token, index in plain.items()}
        added = named | added
    by_name = {token.content: token for token in added.values()}
    extra = config.get('extra_special_tokens') or config.get('additional_special_tokens') or []
    extra = extra.values() if isinstance(extra, dict) else extra
    max_length = config.get('model_max_length', MAX_LENGTH)
    settings = {  # 1e30 is transformers' word for an unknown length
        'max_length': MAX_LENGTH if max_length > 1e20 else max_length,
        'special': {role: by_name.get(token.content, token) for role, token in special.items()},
        'added': [*(added[index] for index in sorted(added)), *map(added_token, extra)],
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
    if model.get('type', 'BPE') != 'BPE' or model.get('end_of_word_suffix') != WORD_END:
        raise UserError(
            f'{file}: not a tokenizer of CLIP (BPE with words ending in {WORD_END!r}). Give that of'
            ' a CLIP text encoder.'
        )
    if strange := {name: model[name] for name in _OFF if model.get(name)}:
        raise UserError(
            f'{file}: these settings of its model are not supported: {strange}. Give that of a CLIP'
            ' text encoder.'
        )
    merges = [
        merge.split(' ') if isinstance(merge, str) else merge for merge in model.get('merges', [])
    ]
    added = {token['id']: added_token(token) for token in whole.get('added_tokens', [])}
    return _vocab(model.get('vocab'), file), _pairs(merges, file), added


def _vocab(vocab: Any, file: Path) -> dict[str, int]:
    filled = isinstance(vocab, dict) and len(vocab) > 0
    if not filled or not all(isinstance(index, int) and index >= 0 for index in vocab.values()):
        raise UserError(
            f'{file}: needs a vocabulary, an object from symbols to ids. Download it again.'
        )
    return vocab


def _read_merges(file: Path) -> Merges:
    try:
        lines = file.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{file}: cannot be read ({error}). Download it again.') from error
    told = [line for line in lines if line.strip() and not line.startswith('#version')]
    return _pairs([line.split(' ') for line in told], file)


def _pairs(merges: Iterable[Any], file: Path) -> Merges:
    pairs = [tuple(merge) for merge in merges]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong:
        raise UserError(
            f'{file}: the merge {" ".join(map(str, wrong[0]))!r:.100} is not a pair of symbols.'
            ' Download it again.'
        )
    return pairs
