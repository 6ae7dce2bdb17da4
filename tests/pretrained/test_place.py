"""Placing weights: every array accounted for, what does not fit refused, nothing unpickled."""

import json
import pickle
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.flax
from flax import nnx
from safetensors.numpy import save_file

from mural_jax.models import functional
from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.models.heads import Identity, Linear
from mural_jax.models.layers import Layers
from mural_jax.models.text import Bert, Transformer
from mural_jax.models.vision import ViT
from mural_jax.pretrained.files import read
from mural_jax.pretrained.place import place
from mural_jax.types import UserError

RNG = np.random.default_rng(0)
WIDTH, HEADS, HIDDEN, DEPTH, VOCABULARY, EMBEDDING = 8, 2, 32, 2, 20, 8
LAYERS = Layers(width=WIDTH, depth=DEPTH, num_heads=HEADS)


def random(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def flat(model: nnx.Module, root: str = '') -> dict:
    trees = functional.split(model)[1:]
    return {
        root + jax.tree_util.keystr(path, simple=True, separator='/'): value
        for tree in trees
        for path, value in jax.tree.leaves_with_path(tree)
    }


def bert(**more) -> dict:
    settings = dict(vocab_size=VOCABULARY, layers=LAYERS, max_length=6) | more
    return flat(Bert(rngs=nnx.Rngs(0), **settings), 'towers/text/')


def bert_file(prefix: str = 'bert.', depth: int = DEPTH) -> dict[str, np.ndarray]:
    """As Hugging Face writes a BertForMaskedLM, norms by their old names."""
    arrays = {
        'embeddings.word_embeddings.weight': random(VOCABULARY, WIDTH),
        'embeddings.position_embeddings.weight': random(12, WIDTH),
        'embeddings.token_type_embeddings.weight': random(2, WIDTH),
        'embeddings.LayerNorm.gamma': random(WIDTH),
        'embeddings.LayerNorm.beta': random(WIDTH),
        'pooler.dense.weight': random(WIDTH, WIDTH),
        'pooler.dense.bias': random(WIDTH),
    }
    for layer in range(depth):
        at = f'encoder.layer.{layer}.'
        for name, outputs, inputs in (
            ('attention.self.query', WIDTH, WIDTH), ('attention.self.key', WIDTH, WIDTH),
            ('attention.self.value', WIDTH, WIDTH), ('attention.output.dense', WIDTH, WIDTH),
            ('intermediate.dense', HIDDEN, WIDTH), ('output.dense', WIDTH, HIDDEN),
        ):  # fmt: skip
            arrays[f'{at}{name}.weight'] = random(outputs, inputs)
            arrays[f'{at}{name}.bias'] = random(outputs)
        for name in ('attention.output.LayerNorm', 'output.LayerNorm'):
            arrays[f'{at}{name}.weight'] = random(WIDTH)
            arrays[f'{at}{name}.bias'] = random(WIDTH)
    arrays = {prefix + name: value for name, value in arrays.items()}
    return arrays | {'cls.predictions.bias': random(VOCABULARY)}


@pytest.mark.parametrize('prefix', ['', 'bert.', 'roberta.'])
def test_every_array_is_placed_or_named(prefix: str) -> None:
    source, ours = bert_file(prefix), bert()
    filled, report = place(source, ours, 'text', 'x.npz')
    assert filled.keys() == ours.keys()
    assert set(report.unplaced) == {
        f'{prefix}pooler.dense.weight', f'{prefix}pooler.dense.bias', 'cls.predictions.bias'
    }  # fmt: skip
    assert report.placed + len(report.unplaced) == len(source)
    assert 'first 6 of 12 positions' in ' '.join(report.lines())
    key = source[f'{prefix}encoder.layer.1.attention.self.key.weight']
    np.testing.assert_array_equal(
        filled['towers/text/stack/blocks/attention/qkv/kernel'][1, :, 1], key.T
    )
    np.testing.assert_array_equal(
        filled['towers/text/embedding_norm/scale'], source[f'{prefix}embeddings.LayerNorm.gamma']
    )


@pytest.mark.parametrize(
    ('ours', 'words'),
    [
        (dict(vocab_size=21), [r'\(20, 8\)', r'\(21, 8\)', 'word_embeddings']),
        (dict(layers=Layers(8, 3, 2)), ['2 layers', 'model 3']),
        (dict(layers=Layers(8, 1, 2)), ['2 layers', 'model 1']),
        (dict(layers=Layers(8, 2, 2, mlp_ratio=2.0)), [r'\(32, 8\)', r'\(16, 8\)']),
        (dict(num_segments=1), [r'\(2, 8\)', r'\(1, 8\)']),
    ],
)
def test_what_does_not_fit_is_refused_with_both_shapes(ours: dict, words: list[str]) -> None:
    for word in words:
        with pytest.raises(UserError, match=word):
            place(bert_file(), bert(**ours), 'text', 'x.npz')


def test_equal_sizes_in_another_shape_are_refused() -> None:
    """20 x 8 is as many numbers as 8 x 20, and something else."""
    source = bert_file('')
    source['embeddings.word_embeddings.weight'] = random(WIDTH, VOCABULARY)
    with pytest.raises(UserError, match='word_embeddings'):
        place(source, bert(), 'text', 'x.npz')


def test_another_architecture_is_refused() -> None:
    vit = flat(ViT(rngs=nnx.Rngs(0), layers=LAYERS, image_size=8, patches=(4,)), 'towers/text/')
    with pytest.raises(UserError, match='another architecture'):
        place(bert_file(), vit, 'text', 'x.npz')
    lacking = {name: value for name, value in bert_file().items() if 'output.dense' not in name}
    with pytest.raises(UserError, match='has nothing for'):
        place(lacking, bert(), 'text', 'x.npz')
    with pytest.raises(UserError, match='one tower'):
        place(bert_file(), bert(), 'model', 'x.npz')
    with pytest.raises(UserError, match='no layout that is known'):
        place({'weights': random(2)}, bert(), 'text', 'x.npz')


def dual_encoder(pool: str = 'map', tasks: tuple[str, ...] = ('image_text', 'text_text')) -> dict:
    rngs = nnx.Rngs(0)
    sizes: dict = dict(width=WIDTH, embedding=EMBEDDING, rngs=rngs)
    model = DualEncoder(
        towers={
            'image': ViT(rngs=rngs, layers=LAYERS, image_size=12, patches=(4,), pool=pool),
            'text': Transformer(
                rngs=rngs, vocab_size=VOCABULARY, layers=LAYERS, max_length=6, pool='last'
            ),
        },
        heads={
            task: {'text': Linear(**sizes, bias=True)}
            | ({'image': Identity(**sizes)} if task == 'image_text' else {})
            for task in tasks
        },
        temperature=dict.fromkeys(tasks, 0.1), bias={'image_text': -10.0},
    )  # fmt: skip
    return flat(model)


def big_vision(scanned: bool) -> dict[str, np.ndarray]:
    """As big_vision writes SigLIP: flax kernels, heads apart; the picture 16 patches."""
    arrays = {
        'img/embedding/kernel': random(4, 4, 3, WIDTH), 'img/embedding/bias': random(WIDTH),
        'img/pos_embedding': random(1, 16, WIDTH), 'img/MAPHead_0/probe': random(1, 1, WIDTH),
        'txt/Embed_0/embedding': random(VOCABULARY, WIDTH),
        'txt/pos_embedding': random(1, 6, WIDTH), 'txt/head/kernel': random(WIDTH, EMBEDDING),
        'txt/head/bias': random(EMBEDDING), 't': np.float32([np.log(10.0)]), 'b': random(1),
    }  # fmt: skip

    def dense(at: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        arrays[f'{at}/kernel'], arrays[f'{at}/bias'] = random(*inputs, *outputs), random(*outputs)

    def norm(at: str) -> None:
        arrays[f'{at}/scale'], arrays[f'{at}/bias'] = random(WIDTH), random(WIDTH)

    def attention(at: str) -> None:
        for name in ('query', 'key', 'value'):
            dense(f'{at}/MultiHeadDotProductAttention_0/{name}', (WIDTH,), (HEADS, WIDTH // HEADS))
        dense(f'{at}/MultiHeadDotProductAttention_0/out', (HEADS, WIDTH // HEADS), (WIDTH,))
        norm(f'{at}/LayerNorm_0')
        dense(f'{at}/MlpBlock_0/Dense_0', (WIDTH,), (HIDDEN,))
        dense(f'{at}/MlpBlock_0/Dense_1', (HIDDEN,), (WIDTH,))

    attention('img/MAPHead_0')
    for encoder in ('img/Transformer', 'txt/Encoder_0'):
        norm(f'{encoder}/encoder_norm')
        for layer in range(DEPTH):
            attention(f'{encoder}/encoderblock_{layer}')
            norm(f'{encoder}/encoderblock_{layer}/LayerNorm_1')
    if scanned:
        for name in [name for name in arrays if '/encoderblock_0/' in name]:
            layers = [arrays.pop(name.replace('block_0/', f'block_{i}/')) for i in range(DEPTH)]
            arrays[name.replace('encoderblock_0/', 'encoderblock/')] = np.stack(layers)
    return arrays


@pytest.mark.parametrize('scanned', [False, True])
def test_big_vision(scanned: bool, tmp_path: Path) -> None:
    source = big_vision(scanned)
    np.savez(tmp_path / 'siglip.npz', **{f'params/{k}': v for k, v in source.items()})
    ours = dual_encoder()
    read_back = read(tmp_path / 'siglip.npz')
    filled, report = place(read_back, ours, 'model', 'siglip.npz', paired=['image_text'])
    assert report.unplaced == []
    assert report.placed == len(source)
    # All but the temperature of the task without pictures.
    assert ours.keys() - filled.keys() == {'log_temperature/text_text'}
    np.testing.assert_allclose(filled['log_temperature/image_text'], -np.log(10.0), rtol=1e-6)
    for task in ('image_text', 'text_text'):
        np.testing.assert_array_equal(
            filled[f'heads/{task}/text/kernel'], source['txt/head/kernel']
        )
    at = 'img/Transformer/encoderblock'
    value = source[f'{at}/MultiHeadDotProductAttention_0/value/kernel'][1] if scanned else (
        source[f'{at}_1/MultiHeadDotProductAttention_0/value/kernel'])  # fmt: skip
    np.testing.assert_array_equal(
        filled['towers/image/stack/blocks/attention/qkv/kernel'][1, :, 2], value.reshape(WIDTH, -1)
    )
    assert '4x4 to 3x3' in ' '.join(report.lines())
    patch = filled['towers/image/patches/0/linear/kernel'].reshape(4, 4, 3, WIDTH)
    np.testing.assert_array_equal(patch, source['img/embedding/kernel'])


def test_one_tower_of_a_whole_model() -> None:
    ours = dual_encoder()
    filled, report = place(big_vision(False), ours, 'image', 'siglip.npz')
    assert all(path.startswith('towers/image/') for path in filled)
    assert 'txt/Embed_0/embedding' in report.unplaced


def test_a_class_token_without_a_position_gets_zero() -> None:
    """big_vision adds positions before the class token."""
    source = {k.removeprefix('img/'): v for k, v in big_vision(False).items() if 'img/' in k}
    source = {k: v for k, v in source.items() if 'MAPHead' not in k} | {'cls': random(1, 1, WIDTH)}
    tower = ViT(rngs=nnx.Rngs(0), layers=LAYERS, image_size=16, patches=(4,), pool='class')
    filled, _ = place(source, flat(tower, 'towers/image/'), 'image', 'x.npz')
    position = filled['towers/image/position_LD']
    np.testing.assert_array_equal(position[0], 0)
    np.testing.assert_array_equal(position[1:], source['pos_embedding'][0])


def test_text_positions_grow_by_interpolation() -> None:
    source, ours = bert_file(), bert(max_length=24)
    filled, report = place(source, ours, 'text', 'x.npz')
    assert '12 positions interpolated to 24' in ' '.join(report.lines())
    right = source['bert.embeddings.position_embeddings.weight']
    found = filled['towers/text/position_LD']
    np.testing.assert_allclose(found[0], right[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], 0.75 * right[0] + 0.25 * right[1], rtol=1e-5)


@pytest.mark.parametrize('suffix', ['.bin', '.pt', '.pth', '.ckpt'])
def test_a_pickle_is_refused_with_the_way_out(suffix: str, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / 'exploded',))

    path = tmp_path / f'pytorch_model{suffix}'
    path.write_bytes(pickle.dumps(Bomb()))
    for given in (path, tmp_path):
        with pytest.raises(UserError, match='weights_only=True'):
            read(given)
    np.savez(tmp_path / 'objects.npz', x=np.array([Bomb()], dtype=object))
    with pytest.raises(UserError, match='cannot be read'):
        read(tmp_path / 'objects.npz')
    assert not (tmp_path / 'exploded').exists()


def test_files_and_folders(tmp_path: Path) -> None:
    whole = {'a': random(2, 3), 'b': random(4)}
    save_file({'a': whole['a']}, tmp_path / 'model-1.safetensors')
    save_file({'b': whole['b']}, tmp_path / 'model-2.safetensors')
    with pytest.raises(UserError, match='several models'):
        read(tmp_path)
    index = {'weight_map': {'a': 'model-1.safetensors', 'b': 'model-2.safetensors'}}
    (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(index))
    found = read(tmp_path)
    assert found.keys() == whole.keys()
    np.testing.assert_array_equal(found['b'], whole['b'])
    for wrong, word in ((tmp_path / 'none.npz', 'is no file'), (tmp_path / 'a.txt', 'is no file')):
        with pytest.raises(UserError, match=word):
            read(wrong)
    (tmp_path / 'broken.safetensors').write_bytes(b'0' * 40)
    with pytest.raises(UserError, match='cannot be read'):
        read(tmp_path / 'broken.safetensors')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='no weights'):
        read(tmp_path / 'empty')


@pytest.mark.parametrize('dtype', [ml_dtypes.bfloat16, np.float16])
def test_half_precision_becomes_float32(dtype: type, tmp_path: Path) -> None:
    array = random(3, 3).astype(dtype)
    safetensors.flax.save_file({'a': jax.numpy.asarray(array)}, tmp_path / 'x.safetensors')
    np.savez(tmp_path / 'x.npz', a=array)
    for name in ('x.safetensors', 'x.npz'):
        found = read(tmp_path / name)['a']
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, array.astype(np.float32))
