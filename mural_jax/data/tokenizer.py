"""Vocabularies: a SentencePiece one of one's own, with byte fallback, or a published one.

Needs neither TensorFlow nor JAX: what is served uses it as it is.
"""

import dataclasses
import hashlib
import io
import os
import string
import unicodedata
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mural_jax.types import PAD, UserError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Which vocabulary a run reads texts with.

    kind: 'sentencepiece'; or, of published weights, 'xlm_r' and 'siglip' (their SentencePiece
    models) and 'tokenizers' (a `tokenizer.json` of Hugging Face: BERT, CLIP and most others).
    vocab_size: ids of the text tower; of a vocabulary that is trained, at most.
    path: the file of a published vocabulary; empty trains one on the texts of the streams.
    character_coverage: of a trained one, the share of characters with a piece of their own, in
    (0, 1]. byte_fallback: other characters are spelled in bytes, not unknown.
    sample: at most so many texts are read to train one, 0 for all; sample_alpha: n texts of a
    language are taken as n^sample_alpha (XLM-R's 0.3, arXiv:1911.02116, section 3.1).
    bos, eos: of kind 'sentencepiece', whether texts begin and end with a mark.
    """

    vocab_size: int
    kind: str = 'sentencepiece'
    path: str = ''
    character_coverage: float = 0.9995
    byte_fallback: bool = True
    sample: int = 10_000_000
    sample_alpha: float = 0.3
    bos: bool = False
    eos: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f'No vocabulary {self.kind!r}; there are {sorted(KINDS)}.')
        if self.kind != 'sentencepiece' and (self.bos or self.eos):
            raise UserError(f'config.tokenizer: a vocabulary of kind {self.kind!r} has its marks.')


class Tokenizer:
    """Text -> token ids, by a vocabulary whose hash names it."""

    vocab_size: int
    pad_id: int = PAD
    eos_id: int = -1
    special_ids: tuple[int, ...] = ()  # tokens that are no words, besides padding

    def __init__(self, model: bytes):
        self.model = model
        self.hash = hashlib.sha256(model).hexdigest()[:16]

    @staticmethod
    def load(path: Path, settings: Vocabulary) -> 'Tokenizer':
        """Raises UserError where there is no vocabulary at `path`, or not a readable one."""
        try:
            return KINDS[settings.kind](path.read_bytes(), settings)
        except FileNotFoundError as error:
            raise UserError(
                f'No vocabulary at {path}. Texts cannot be read without it: '
                'run `mural prepare` with the same --config and --data_dir first.'
            ) from error
        except UserError:
            raise
        except OSError as error:
            raise UserError(f'Cannot read the vocabulary {path} ({error.strerror}).') from error
        except (RuntimeError, UnicodeDecodeError, ValueError) as error:
            raise UserError(f'{path} is not a vocabulary of this kind ({error}).') from error

    def save(self, path: Path) -> None:
        """Writes the model, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'{path.name}.{os.getpid()}.part')
        part.write_bytes(self.model)
        part.rename(path)

    def __call__(self, texts: list[str], max_length: int) -> np.ndarray:
        """Token ids, int32 [len(texts), max_length], cut at the end and padded with `pad_id`."""
        text_BL = np.full((len(texts), max_length), self.pad_id, np.int32)
        for row, ids in zip(text_BL, self.encode(texts, max_length)):
            row[: len(ids)] = ids
        return text_BL

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """The ids of each text with its marks, at most `max_length`."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text that tokens stand for, without padding and marks."""
        raise NotImplementedError

    def is_unknown(self, token: int) -> bool:
        """Whether a token stands for what the vocabulary has no piece for."""
        return False


class SentencePiece(Tokenizer):
    """A SentencePiece model; what is cut off a long text is never its last mark."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __init__(self, model: bytes, settings: Vocabulary):
        super().__init__(model)
        import sentencepiece  # Only here: a step is planned and measured without.

        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.set_ids(settings)

    def set_ids(self, settings: Vocabulary) -> None:
        self.vocab_size = self._pieces.get_piece_size()
        marks = (settings.bos, self._pieces.bos_id()), (settings.eos, self._pieces.eos_id())
        if any(wanted and mark < 0 for wanted, mark in marks):
            raise ValueError('it has no marks of the start and the end of a text')
        self.before, self.after = (tuple([mark] if wanted else []) for wanted, mark in marks)
        self.special_ids = (*self.before, *self.after)
        self.eos_id = self._pieces.eos_id()

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        room = max_length - len(self.before) - len(self.after)
        pieces = self._pieces.encode([self.clean(text) for text in texts], num_threads=1)
        return [[*self.before, *map(self.id_of, ids[:room]), *self.after] for ids in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        marks = {self.pad_id, *self.special_ids}
        return self._pieces.decode([self.piece_of(int(i)) for i in ids if i not in marks])

    def is_unknown(self, token: int) -> bool:
        known = 0 <= token < self._pieces.get_piece_size()
        return known and (self._pieces.is_unknown(token) or self._pieces.is_byte(token))

    def clean(self, text: str) -> str:
        return text

    def id_of(self, piece: int) -> int:
        return piece

    def piece_of(self, token: int) -> int:
        return token


class XlmR(SentencePiece):
    """XLM-R's ids: those of its SentencePiece model plus one, behind <s> <pad> </s> <unk>."""

    before, after = (0,), (2,)
    pad_id, eos_id = 1, 2
    special_ids = (0, 2)

    def set_ids(self, settings: Vocabulary) -> None:
        self.vocab_size = self._pieces.get_piece_size() + 2  # <pad>, and <mask> at the end

    def id_of(self, piece: int) -> int:
        return piece + 1 if piece else 3

    def piece_of(self, token: int) -> int:
        return token - 1 if token > 3 else 0

    def is_unknown(self, token: int) -> bool:
        return token == 3


class Siglip(SentencePiece):
    """SigLIP's: lower case without punctuation; </s> ends a text and fills it up."""

    after = (1,)
    pad_id = eos_id = 1
    special_ids = (1,)

    def set_ids(self, settings: Vocabulary) -> None:
        self.vocab_size = self._pieces.get_piece_size()

    def clean(self, text: str) -> str:
        text = text.translate(_PUNCTUATION)
        return ' '.join(text.lower().split())


_PUNCTUATION = str.maketrans('', '', string.punctuation)


class HuggingFace(Tokenizer):
    """A `tokenizer.json`, with the marks that it says."""

    def __init__(self, model: bytes, settings: Vocabulary):
        super().__init__(model)
        try:
            import tokenizers
        except ImportError as error:
            raise UserError(
                "config.tokenizer.kind='tokenizers' needs the package tokenizers: "
                "pip install 'mural-jax[tokenizers]'."
            ) from error
        try:
            self._pieces = tokenizers.Tokenizer.from_str(model.decode())
        except Exception as error:  # The package raises bare exceptions.
            raise ValueError(str(error)) from error
        self._pieces.no_padding()
        self.vocab_size = self._pieces.get_vocab_size()
        ids = [self._pieces.token_to_id(name) for name in ('[PAD]', '<pad>')]
        self.pad_id = next((found for found in ids if found is not None), PAD)
        ids = [self._pieces.token_to_id(name) for name in ('<|endoftext|>', '[SEP]', '</s>')]
        self.eos_id = next((found for found in ids if found is not None), -1)
        self.special_ids = tuple(dict.fromkeys(self._pieces.encode('').ids))  # of an empty text

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        self._pieces.enable_truncation(max_length)
        return [encoding.ids for encoding in self._pieces.encode_batch(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        return self._pieces.decode([int(i) for i in ids if i != self.pad_id])


KINDS = {'sentencepiece': SentencePiece, 'xlm_r': XlmR, 'siglip': Siglip, 'tokenizers': HuggingFace}


def normalise(text: str) -> str:
    """What two texts share that count as one: NFKC, case folded, spaces collapsed."""
    return ' '.join(unicodedata.normalize('NFKC', text).casefold().split())


def text_ids(texts: list[str]) -> np.ndarray:
    """An id of each normalised text, int32 [len(texts)]; different texts meet once in 2^31."""
    return np.array([zlib.crc32(normalise(text).encode()) >> 1 for text in texts], np.int32)


def train(texts: Iterable[str], settings: Vocabulary) -> Tokenizer:
    """A vocabulary of at most `vocab_size` pieces, 256 of them bytes with `byte_fallback`.

    Texts are NFKC-normalised and
    case-folded. Raises UserError where `vocab_size` does not fit the texts.
    """
    model = io.BytesIO()
    # Padding, the unknown, then the marks that are asked for.
    bos_id = 2 if settings.bos else -1
    eos_id = (3 if settings.bos else 2) if settings.eos else -1
    import sentencepiece

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=settings.vocab_size,
            model_type='unigram',
            byte_fallback=settings.byte_fallback,
            character_coverage=settings.character_coverage,
            normalization_rule_name='nmt_nfkc_cf',
            hard_vocab_limit=False,
            pad_id=PAD,
            unk_id=1,
            bos_id=bos_id,
            eos_id=eos_id,
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f'No vocabulary of {settings.vocab_size} pieces can be trained on these texts '
            f'({error}). Change config.tokenizer.vocab_size.'
        ) from error
    return SentencePiece(model.getvalue(), settings)
