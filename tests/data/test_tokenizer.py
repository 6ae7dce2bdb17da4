"""Vocabularies: a trained one with its special tokens, and those of published weights."""

import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from mural_jax.data.tokenizer import Tokenizer, Vocabulary, train_vocabulary
from mural_jax.types import UserError

TEXTS = ['a red fruit', 'ein roter Apfel', 'une pomme rouge', 'un fruto rojo', 'red apple'] * 9


@pytest.mark.parametrize(('bos', 'eos'), [(False, False), (True, True), (False, True)])
def test_special_tokens_are_added_and_survive_a_cut(bos: bool, eos: bool, tmp_path: Path) -> None:
    settings = Vocabulary(vocab_size=320, bos=bos, eos=eos)
    trained = train_vocabulary(TEXTS, settings)
    trained.save(tmp_path / 'v.model')
    loaded = Tokenizer.load(tmp_path / 'v.model', settings)
    short, cut = loaded(['red', 'a red fruit a red fruit a red fruit'], 6)
    assert loaded.hash == trained.hash
    assert (short[0] == 2) == (cut[0] == 2) == bos
    end = short[short != 0][-1]
    assert (end == trained.eos_id) == (cut[-1] == trained.eos_id) == eos
    assert trained.eos_id == (3 if bos else 2) if eos else trained.eos_id == -1


def publish_vocabulary(folder: Path, **ids: int) -> Path:
    """A SentencePiece model with these special ids, as others publish theirs."""
    prefix = folder / 'published'
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(prefix),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
        **ids,
    )
    return prefix.with_suffix('.model')


def test_xlm_r_ids_are_those_of_fairseq(tmp_path: Path) -> None:
    path = publish_vocabulary(tmp_path, unk_id=0, bos_id=1, eos_id=2)
    tokenizer = Tokenizer.load(path, Vocabulary(vocab_size=99, kind='xlm_r'))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ids = tokenizer(['red apple 漢'], 12)[0]
    expected = [i + 1 if i else 3 for i in pieces.encode('red apple 漢')]
    assert ids[0] == 0
    assert ids[1 : len(expected) + 1].tolist() == expected
    assert ids[len(expected) + 1 :].tolist() == [2] + [1] * (10 - len(expected))
    assert tokenizer.vocab_size == pieces.get_piece_size() + 2


def test_siglip_ignores_case_and_punctuation_and_pads_with_its_end(tmp_path: Path) -> None:
    path = publish_vocabulary(tmp_path, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = Tokenizer.load(path, Vocabulary(vocab_size=99, kind='siglip'))
    plain, loud = tokenizer(['red apple', ' RED,  apple!'], 12)
    np.testing.assert_array_equal(plain, loud)
    assert plain[-1] == 1


def test_tokenizer_json_adds_its_own_special_tokens(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip('tokenizers')
    published = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({'[PAD]': 0, '[SEP]': 1, 'red': 2, '[UNK]': 3}, '[UNK]')
    )
    published.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    published.post_processor = tokenizers.processors.TemplateProcessing(
        single='$A [SEP]', special_tokens=[('[SEP]', 1)]
    )
    published.save(str(tmp_path / 'tokenizer.json'))
    settings = Vocabulary(vocab_size=4, kind='tokenizers')
    loaded = Tokenizer.load(tmp_path / 'tokenizer.json', settings)
    assert loaded(['red apple', 'red red red red'], 4).tolist() == [[2, 3, 1, 0], [2, 2, 2, 1]]
    assert (loaded.eos_id, loaded.pad_id, loaded.vocab_size) == (1, 0, 4)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tokenizers', None)
    (tmp_path / 'tokenizer.json').write_text('{}')
    with pytest.raises(UserError, match='^config.tokenizer.kind.*needs the package'):
        Tokenizer.load(tmp_path / 'tokenizer.json', Vocabulary(vocab_size=4, kind='tokenizers'))


@pytest.mark.parametrize('kind', ['sentencepiece', 'xlm_r', 'tokenizers'])
def test_file_that_is_no_vocabulary_is_refused(kind: str, tmp_path: Path) -> None:
    if kind == 'tokenizers':
        pytest.importorskip('tokenizers')
    (tmp_path / 'v').write_bytes(b'nothing of the kind')
    with pytest.raises(UserError, match='not a vocabulary'):
        Tokenizer.load(tmp_path / 'v', Vocabulary(vocab_size=9, kind=kind))


def test_missing_vocabulary_points_to_prepare(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='prepare'):
        Tokenizer.load(tmp_path / 'none', Vocabulary(vocab_size=9))
