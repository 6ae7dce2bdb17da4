"""A vocabulary as a `tokenizer.json`, which Hugging Face's libraries read."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from google.protobuf import empty_pb2
from google.protobuf.unknown_fields import UnknownFieldSet

from mural_jax.data.tokenizer import SentencePiece
from mural_jax.exports.trained import Subject
from mural_jax.types import UserError

PUNCTUATION = r'[!-/:-@\[-`{-~]'  # of ASCII
EXAMPLES = ['', ' ', 'A  cat ', 'ΟΔΟΣ straße ﬁ ½', 'कुत्ता 犬 🐕‍🦺', 'a\tb\nc', '…!?']


def write(subject: Subject, folder: Path) -> None:
    """The vocabulary and its settings. Raises UserError where it would read texts otherwise."""
    tokenizers = needed('tokenizers')
    about = subject.about
    if about.tokenizer.kind == 'tokenizers':
        made = tokenizers.Tokenizer.from_str(subject.vocabulary.decode())
    else:
        made = _of_pieces(tokenizers, subject)
    made.enable_truncation(about.text_length)
    made.enable_padding(length=about.text_length, pad_id=subject.pad_id,
                        pad_token=made.id_to_token(subject.pad_id))  # fmt: skip
    texts = [*EXAMPLES, *subject.examples.texts]
    wanted_NL = subject.tokenizer(texts, about.text_length)
    for text, wanted_L, found in zip(texts, wanted_NL, made.encode_batch(texts), strict=True):
        if found.ids != wanted_L.tolist():
            raise UserError(
                f'This vocabulary reads {text!r} otherwise as a tokenizer.json: the folder would '
                'give other embeddings. Use --format=safetensors.'
            )
    made.no_padding()
    made.no_truncation()
    made.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text(
        json.dumps(_settings(subject, made), indent=1, ensure_ascii=False) + '\n', encoding='utf-8'
    )


def _settings(subject: Subject, made: Any) -> dict[str, Any]:
    names = {'pad_token': made.id_to_token(subject.pad_id)}
    if subject.tokenizer.eos_id >= 0:
        names['eos_token'] = made.id_to_token(subject.tokenizer.eos_id)
    return {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'padding_side': 'right',
        'model_max_length': subject.about.text_length, 'clean_up_tokenization_spaces': False,
        **names,
    }  # fmt: skip


def _of_pieces(tokenizers: ModuleType, subject: Subject) -> Any:
    """A SentencePiece model of the kind unigram, its normalisation and its marks."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=subject.vocabulary)
    kind = subject.about.tokenizer.kind
    numbers = range(model.get_piece_size())
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in numbers]
    unknown = model.unk_id()
    if kind == 'xlm_r':
        own = [('<s>', 0.0), ('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0)]
        pieces, unknown = [*own, *pieces[3:], ('<mask>', 0.0)], 3
    spelled = any(model.is_byte(i) for i in numbers)
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unknown, spelled))
    made.normalizer = _normalizer(tokenizers, _charsmap(subject.vocabulary), kind)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    read = cast(SentencePiece, subject.tokenizer)
    marks = [(pieces[i][0], i) for i in (*read.before, *read.after)]
    before, after = ([pieces[i][0] for i in own] for own in (read.before, read.after))
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=[*before, '$A', *after], special_tokens=marks
    )
    return made


def _charsmap(model: bytes) -> bytes:
    """How characters are normalised: `normalizer_spec.precompiled_charsmap`, fields 3 and 2.

    By numbers: sentencepiece's own module of the message asks for a newer protobuf than TensorFlow.
    """
    for number in (3, 2):
        message = empty_pb2.Empty()
        message.ParseFromString(model)
        fields = UnknownFieldSet(message)
        model = next((field.data for field in fields if field.field_number == number), b'')
    return model


def _normalizer(tokenizers: ModuleType, charsmap: bytes, kind: str) -> Any:
    n = tokenizers.normalizers
    steps = []
    if kind == 'siglip':
        steps = [n.Replace(tokenizers.Regex(PUNCTUATION), ''), n.Lowercase()]
    if charsmap:
        steps.append(n.Precompiled(charsmap))
    return n.Sequence([*steps, n.Strip(), n.Replace(tokenizers.Regex(' {2,}'), ' ')])


def needed(name: str) -> ModuleType:
    """A package of the extra `parity`. Raises UserError where it is not installed."""
    try:
        return __import__(name)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"This format needs the package {name} ({error}): pip install 'mural-jax[parity]'."
        ) from error
