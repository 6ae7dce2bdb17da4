"""Placement of published weights: every array is accounted for, misfits are refused."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from mural_jax.models import functional
from mural_jax.models.dual_encoder import DualEncoder, build_spaces
from mural_jax.models.layers import Layers
from mural_jax.models.spaces import Space
from mural_jax.models.text import Bert, Transformer
from mural_jax.models.vision import ViT
from mural_jax.pretrained.files import read_arrays
from mural_jax.pretrained.place import PlacementReport, place_arrays
from mural_jax.types import UserError

RNG = np.random.default_rng(0)
WIDTH, HEADS, HIDDEN, DEPTH, VOCABULARY, EMBEDDING = 8, 2, 32, 2, 20, 8
LAYERS = Layers(width=WIDTH, depth=DEPTH, num_heads=HEADS)


def draw(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def flatten_model(model: nnx.Module, root: str = '') -> dict:
    """Returns the arrays of a model by path, with the path `root` in front."""
    trees = functional.split(model)[1:]
    return {
        root + jax.tree_util.keystr(path, simple=True, separator='/'): value
        for tree in trees
        for path, value in jax.tree.leaves_with_path(tree)
    }


def build_bert(**more) -> dict:
    """Returns the arrays of our BERT as the text tower of a model."""
    settings = dict(vocab_size=VOCABULARY, layers=LAYERS, max_length=6) | more
    return flatten_model(Bert(rngs=nnx.Rngs(0), **settings), 'towers/text/')


def draw_bert_file(prefix: str = 'bert.', depth: int = DEPTH) -> dict[str, np.ndarray]:
    """Returns random arrays as Hugging Face writes a BertForMaskedLM, norms by their old names."""
    arrays = {
        'embeddings.word_embeddings.weight': draw(VOCABULARY, WIDTH),
        'embeddings.position_embeddings.weight': draw(12, WIDTH),
        'embeddings.token_type_embeddings.weight': draw(2, WIDTH),
        'embeddings.LayerNorm.gamma': draw(WIDTH),
        'embeddings.LayerNorm.beta': draw(WIDTH),
        'pooler.dense.weight': draw(WIDTH, WIDTH),
        'pooler.dense.bias': draw(WIDTH),
    }
    for layer in range(depth):
        at = f'encoder.layer.{layer}.'
        for name, outputs, inputs in (
            ('attention.self.query', WIDTH, WIDTH),
            ('attention.self.key', WIDTH, WIDTH),
            ('attention.self.value', WIDTH, WIDTH),
            ('attention.output.dense', WIDTH, WIDTH),
            ('intermediate.dense', HIDDEN, WIDTH),
            ('output.dense', WIDTH, HIDDEN),
        ):
            arrays[f'{at}{name}.weight'] = draw(outputs, inputs)
            arrays[f'{at}{name}.bias'] = draw(outputs)
        for name in ('attention.output.LayerNorm', 'output.LayerNorm'):
            arrays[f'{at}{name}.weight'] = draw(WIDTH)
            arrays[f'{at}{name}.bias'] = draw(WIDTH)
    arrays = {prefix + name: value for name, value in arrays.items()}
    return arrays | {'cls.predictions.bias': draw(VOCABULARY)}


@pytest.mark.parametrize('prefix', ['', 'bert.', 'roberta.'])
def test_every_array_is_placed_or_reported(prefix: str) -> None:
    source, ours = draw_bert_file(prefix), build_bert()
    filled, report = place_arrays(source, ours, 'text', 'x.npz')
    assert filled.keys() == ours.keys()
    assert set(report.unplaced) == {
        f'{prefix}pooler.dense.weight',
        f'{prefix}pooler.dense.bias',
        'cls.predictions.bias',
    }
    assert report.placed + len(report.unplaced) == len(source)


@pytest.mark.parametrize('prefix', ['', 'bert.', 'roberta.'])
def test_arrays_are_placed_through_prefixes_and_old_names(prefix: str) -> None:
    source = draw_bert_file(prefix)
    filled, _ = place_arrays(source, build_bert(), 'text', 'x.npz')
    key = source[f'{prefix}encoder.layer.1.attention.self.key.weight']
    np.testing.assert_array_equal(
        filled['towers/text/stack/blocks/attention/qkv/kernel'][1, :, 1], key.T
    )
    np.testing.assert_array_equal(
        filled['towers/text/embedding_norm/scale'], source[f'{prefix}embeddings.LayerNorm.gamma']
    )


def test_text_positions_are_cut_with_a_notice() -> None:
    _, report = place_arrays(draw_bert_file(), build_bert(), 'text', 'x.npz')
    assert 'first 6 of 12 positions' in ' '.join(report.lines())


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
def test_misfit_is_refused_with_both_shapes(ours: dict, words: list[str]) -> None:
    for word in words:
        with pytest.raises(UserError, match=word):
            place_arrays(draw_bert_file(), build_bert(**ours), 'text', 'x.npz')


def test_array_of_equal_size_and_another_shape_is_refused() -> None:
    """An array of 20 x 8 has as many numbers as one of 8 x 20."""
    source = draw_bert_file('')
    source['embeddings.word_embeddings.weight'] = draw(WIDTH, VOCABULARY)
    with pytest.raises(UserError, match='word_embeddings'):
        place_arrays(source, build_bert(), 'text', 'x.npz')


def test_file_of_another_architecture_is_refused() -> None:
    vit = ViT(rngs=nnx.Rngs(0), layers=LAYERS, image_size=8, patches=(4,))
    with pytest.raises(UserError, match='another architecture'):
        place_arrays(draw_bert_file(), flatten_model(vit, 'towers/text/'), 'text', 'x.npz')


def test_file_that_lacks_arrays_is_refused() -> None:
    source = {name: x for name, x in draw_bert_file().items() if 'output.dense' not in name}
    with pytest.raises(UserError, match='has nothing for'):
        place_arrays(source, build_bert(), 'text', 'x.npz')


def test_file_of_one_tower_is_refused_as_a_whole_model() -> None:
    with pytest.raises(UserError, match='one tower'):
        place_arrays(draw_bert_file(), build_bert(), 'model', 'x.npz')


def test_file_of_unknown_layout_is_refused() -> None:
    with pytest.raises(UserError, match='no known layout'):
        place_arrays({'weights': draw(2)}, build_bert(), 'text', 'x.npz')


def build_dual_encoder() -> dict:
    """Returns the arrays of our SigLIP, for images of 9 patches, with a space for translations."""
    head = {'kind': 'linear', 'bias': True}
    heads = {'image': {'kind': 'identity'}, 'text': head}
    spaces = {
        'image_text': Space(
            sides=('image', 'text'), embedding=EMBEDDING, heads=heads, temperature=0.1, bias=-10.0
        ),
        'text_text': Space(
            sides=('text',), embedding=EMBEDDING, heads={'text': head}, temperature=0.1
        ),
    }
    rngs = nnx.Rngs(0)
    image = ViT(rngs=rngs, layers=LAYERS, image_size=12, patches=(4,), pool='map')
    text = Transformer(rngs=rngs, vocab_size=VOCABULARY, layers=LAYERS, max_length=6, pool='last')
    widths = {'image': WIDTH, 'text': WIDTH}
    return flatten_model(
        DualEncoder(
            towers={'image': image, 'text': text}, spaces=build_spaces(spaces, widths, rngs)
        )
    )


def draw_big_vision_file(scanned: bool) -> dict[str, np.ndarray]:
    """Returns random arrays as big_vision writes SigLIP, for an image of 16 patches.

    Kernels are those of flax, with a dimension for the heads of attention.
    """
    arrays = {
        'img/embedding/kernel': draw(4, 4, 3, WIDTH),
        'img/embedding/bias': draw(WIDTH),
        'img/pos_embedding': draw(1, 16, WIDTH),
        'img/MAPHead_0/probe': draw(1, 1, WIDTH),
        'txt/Embed_0/embedding': draw(VOCABULARY, WIDTH),
        'txt/pos_embedding': draw(1, 6, WIDTH),
        'txt/head/kernel': draw(WIDTH, EMBEDDING),
        'txt/head/bias': draw(EMBEDDING),
        't': np.float32([np.log(10.0)]),
        'b': draw(1),
    }

    def dense(at: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        arrays[f'{at}/kernel'], arrays[f'{at}/bias'] = draw(*inputs, *outputs), draw(*outputs)

    def norm(at: str) -> None:
        arrays[f'{at}/scale'], arrays[f'{at}/bias'] = draw(WIDTH), draw(WIDTH)

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


class BigVision(NamedTuple):
    """A file of big_vision, and what it fills of our model."""

    source: dict[str, np.ndarray]
    scanned: bool
    ours: dict
    filled: dict
    report: PlacementReport


@pytest.fixture(scope='module', params=[False, True], ids=['unrolled', 'scanned'])
def big_vision(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> BigVision:
    source, ours = draw_big_vision_file(request.param), build_dual_encoder()
    path = tmp_path_factory.mktemp('big_vision') / 'siglip.npz'
    np.savez(path, **{f'params/{name}': array for name, array in source.items()})
    filled, report = place_arrays(
        read_arrays(path), ours, 'model', 'siglip.npz', paired=['image_text']
    )
    return BigVision(source, request.param, ours, filled, report)


def test_big_vision_places_every_array(big_vision: BigVision) -> None:
    assert big_vision.report.unplaced == []
    assert big_vision.report.placed == len(big_vision.source)


def test_temperature_goes_to_spaces_of_images_and_texts_alone(big_vision: BigVision) -> None:
    unfilled = big_vision.ours.keys() - big_vision.filled.keys()
    assert unfilled == {'spaces/text_text/log_temperature'}
    # They learn log(1 / temperature), of a temperature of 0.1.
    log_temperature = big_vision.filled['spaces/image_text/log_temperature']
    np.testing.assert_allclose(log_temperature, -np.log(10.0), rtol=1e-6)


@pytest.mark.parametrize('space', ['image_text', 'text_text'])
def test_head_of_a_model_goes_to_every_space(space: str, big_vision: BigVision) -> None:
    np.testing.assert_array_equal(
        big_vision.filled[f'spaces/{space}/heads/text/kernel'], big_vision.source['txt/head/kernel']
    )


def test_value_projection_lies_beside_query_and_key(big_vision: BigVision) -> None:
    layers = 'img/Transformer/encoderblock'
    name = 'MultiHeadDotProductAttention_0/value/kernel'
    value = (
        big_vision.source[f'{layers}/{name}'][1]
        if big_vision.scanned
        else big_vision.source[f'{layers}_1/{name}']
    )
    np.testing.assert_array_equal(
        big_vision.filled['towers/image/stack/blocks/attention/qkv/kernel'][1, :, 2],
        value.reshape(WIDTH, -1),
    )


def test_image_positions_are_interpolated_with_a_notice(big_vision: BigVision) -> None:
    assert '4x4 to 3x3' in ' '.join(big_vision.report.lines())


def test_patch_kernel_keeps_its_order(big_vision: BigVision) -> None:
    kernel = big_vision.filled['towers/image/patches/0/linear/kernel']
    np.testing.assert_array_equal(
        kernel.reshape(4, 4, 3, WIDTH), big_vision.source['img/embedding/kernel']
    )


def test_tower_of_a_whole_model_is_placed_alone() -> None:
    ours = build_dual_encoder()
    filled, report = place_arrays(draw_big_vision_file(scanned=False), ours, 'image', 'siglip.npz')
    assert all(path.startswith('towers/image/') for path in filled)
    assert 'txt/Embed_0/embedding' in report.unplaced


def test_class_token_without_a_position_gets_zero() -> None:
    """big_vision adds the positions before it puts the class token in front."""
    source = {
        name.removeprefix('img/'): array
        for name, array in draw_big_vision_file(scanned=False).items()
        if name.startswith('img/') and 'MAPHead' not in name
    }
    source['cls'] = draw(1, 1, WIDTH)
    tower = ViT(rngs=nnx.Rngs(0), layers=LAYERS, image_size=16, patches=(4,), pool='class')
    filled, _ = place_arrays(source, flatten_model(tower, 'towers/image/'), 'image', 'x.npz')
    position = filled['towers/image/position_LD']
    np.testing.assert_array_equal(position[0], 0)
    np.testing.assert_array_equal(position[1:], source['pos_embedding'][0])


def test_text_positions_grow_by_interpolation() -> None:
    source, ours = draw_bert_file(), build_bert(max_length=24)
    filled, report = place_arrays(source, ours, 'text', 'x.npz')
    assert '12 positions interpolated to 24' in ' '.join(report.lines())
    expected = source['bert.embeddings.position_embeddings.weight']
    position_LD = filled['towers/text/position_LD']
    np.testing.assert_allclose(position_LD[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(position_LD[1], 0.75 * expected[0] + 0.25 * expected[1], rtol=1e-5)
