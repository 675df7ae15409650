"""CLIP's tokenizer (Radford et al. 2021): byte-pair encoding of lower-cased text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from purify.core.errors import UserError
from purify.core.files import write_bytes, write_json
from purify.core.types import Settings
from purify.models.clip.tokenizer_files import (
    MAX_LENGTH,
    SPECIAL,
    WORD_END,
    Merges,
    added_token,
    read_tokenizer,
    token_flags,
)
from purify.models.diffusers.config_checks import COUNT, is_count

START, END = '<|startoftext|>', '<|endoftext|>'
# Written specials, English endings, letters, single digits, and runs of all else.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_SPECIAL = dict(zip(SPECIAL, (START, END, END, END), strict=True))


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
        special = _SPECIAL | dict(special or {})
        tokens = {role: added_token(token) for role, token in special.items()}
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
            model = BPE(self.vocab, self.merges, unk_token=unknown, end_of_word_suffix=WORD_END)
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                f'CLIPTokenizer: the merges do not fit the vocabulary ({error}). Take both from one'
                ' model.'
            ) from error
        tokenizer = Tokenizer(model)
        spaces = normalizers.Replace(Regex(r'\s+'), ' ')
        steps = [normalizers.NFC(), spaces, normalizers.Lowercase()]
        tokenizer.normalizer = normalizers.Sequence(steps)
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
        # encode_batch starts threads, which a fork does not survive
        ids = [self._tokenizer.encode(text).ids for text in texts]
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
        vocab, merges, settings, ids = read_tokenizer(folder := Path(folder))
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
        decoder = {str(index): token_flags(token) for index, token in sorted(added.items())}
        config: Settings = {
            'added_tokens_decoder': decoder,
            **self.special,
            'do_lower_case': True,
            'model_max_length': self.max_length,
            'tokenizer_class': 'CLIPTokenizer',
        }
        lines = ['#version: 0.2', *(' '.join(pair) for pair in self.merges)]
        vocab = json.dumps(self.vocab, ensure_ascii=False) + '\n'
        write_bytes(folder / 'vocab.json', vocab.encode())
        write_bytes(folder / 'merges.txt', ('\n'.join(lines) + '\n').encode())
        write_json(folder / 'special_tokens_map.json', self.special)
        write_json(folder / 'tokenizer_config.json', config)
