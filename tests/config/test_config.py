"""Configs: every file builds, every key is used, every mistake is explained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mural_jax.config.build import list_differences, make, nearest
from mural_jax.config.load import find_config_file, load_config
from mural_jax.models import functional
from mural_jax.runs.run import Run
from mural_jax.types import UserError

ARGUMENTS = ['mural', 'align', 'shuffled', 'tiny', 'align,tiny']

ONE_STREAM = [
    'unicoder_vl:base',
    'unicoder_vl:scenes',
    'unicoder_vl:base,retrieval',
    'unicoder_vl:scenes,retrieval',
    'vldeformer:base',
    'vldeformer:scenes',
    'vldeformer:base,plain',
    'mural:decomposed',
    'emoji:decomposed',
]


@pytest.mark.parametrize('arg', ARGUMENTS)
def test_emoji_arm_builds(arg: str) -> None:
    run = Run.of(load_config(f'emoji:{arg}', []))
    streams = run.streams
    assert set(run.tasks) <= {'image_text', 'text_text'}
    assert {task.stream for task in run.tasks.values()} <= set(streams)
    _, params, statistics = run.build_model(1000, abstract=True)
    assert set(params['spaces']) == set(run.tasks)
    assert statistics


# Each config file with all its sizes.
PAPERS = [
    'mural:base',
    'mural:large',
    'mural:tiny',
    'mural:base,xlm_r',
    'mural:large,xlm_r',
    'align:base',
    'align:l2',
    'align:tiny',
    'align:base,finetune',
    'align:l2,finetune',
    'clip:b32',
    'clip:b16',
    'clip:l14',
    'clip:tiny',
    'clip:b32,published',
    'clip:b16,lit',
    'siglip:b16',
    'siglip:tiny',
    'siglip:b16,published',
    'siglip:b16,lit',
    'flickr8k:mural',
    'flickr8k:align',
    'flickr8k:tiny',
    'flickr8k:align,tiny',
]


@pytest.mark.parametrize('name', PAPERS)
def test_paper_config_builds_from_shapes(name: str) -> None:
    """Towers, heads and their outputs, optimizer and streams, from shapes alone."""
    run = Run.of(load_config(name, []))
    graphdef, params, statistics = run.build_model(run.tokenizer.vocab_size, abstract=True)
    trainer = run.build_trainer(graphdef, params)
    jax.eval_shape(trainer.spec.optimizer.init, params)
    image = jax.ShapeDtypeStruct((2, run.image_size, run.image_size, 3), jnp.uint8)
    text = jax.ShapeDtypeStruct((2, run.text_length), jnp.int32)

    def encode(params: dict, statistics: dict, image: jax.Array, text: jax.Array) -> dict:
        model = functional.merge(graphdef, params, statistics)
        inputs = {'image': image, 'text': text}
        return {
            (name, side): model.represent(name, side, model.encode(side, inputs[side]))
            for name, space in run.spaces.items()
            for side in space.sides
        }

    represented = jax.eval_shape(encode, params, statistics, image, text)
    for (space, _), vectors in represented.items():
        assert vectors.shape == (2, run.spaces[space].embedding)
        assert vectors.dtype == jnp.float32
    assert trainer.spec.locked == ({'image'} if 'lit' in name else set())


@pytest.mark.parametrize('name', ONE_STREAM)
def test_one_stream_config_lowers_a_step(name: str) -> None:
    """A whole step, from shapes alone."""
    loaded = load_config(name, [])
    for stream in loaded['streams'].values():
        stream['batch_size'] = 8
    run = Run.of(loaded)
    _, params, statistics = run.build_model(run.tokenizer.vocab_size, abstract=True)
    trainer = run.build_trainer(*run.build_model(run.tokenizer.vocab_size, abstract=True)[:2])
    state = trainer.abstract_state(params, statistics)
    trainer.lower(state, run.batch_shapes())


def test_every_config_file_is_tested() -> None:
    files = {path.stem for path in find_config_file('emoji').parent.glob('[a-z]*.py')}
    runs = {name.split(':')[0] for name in (*PAPERS, *ONE_STREAM)} | {'emoji'}
    assert files == runs | {'evaluation'}  # What to measure alone: tests/evaluation/test_suites.py.


def test_configs_have_the_constants_of_their_papers() -> None:
    """Constants that a slip would spoil silently."""
    mural, align, l2, clip, siglip = (
        load_config(name, [])
        for name in ('mural:large', 'align:base', 'align:l2', 'clip:l14', 'siglip:b16')
    )
    image_text = [config['spaces']['image_text'] for config in (mural, align, l2, siglip)]
    assert [space['embedding'] for space in image_text] == [640, 640, 1376, 768]
    assert mural['tasks']['text_text']['objective']['margin'] == 0.3
    assert align['optimizer']['kind'] == 'lamb'
    assert align['optimizer']['weight_decay'][0][1] == 1e-5
    schedule = Run.of(align).optimizer.schedule(1_200_000)
    np.testing.assert_allclose([schedule(s) for s in (5000, 10000, 605000)], [5e-4, 1e-3, 5e-4])
    tuned = load_config('align:base,finetune', [])
    assert tuned['streams']['captions']['batch_size'] == 2048
    np.testing.assert_allclose(Run.of(tuned).optimizer.schedule(3000)(1500), 5e-6, rtol=1e-5)
    assert clip['optimizer']['b2'] == 0.98
    assert (image_text[3]['temperature'], image_text[3]['bias']) == (0.1, -10.0)


def test_emoji_arms_differ_in_nothing_else() -> None:
    mural, align, shuffled = (load_config(f'emoji:{arg}', []) for arg in ARGUMENTS[:3])
    assert all('text_text' in line for line in list_differences(mural, align))
    assert list_differences(mural, shuffled) == [
        'streams.translations.shuffle_pairs: False != True'
    ]


def test_override_sets_its_field() -> None:
    loaded = load_config(
        'configs/emoji.py:tiny',
        ['--config.tasks.text_text.weight=0.5', '--config.schedule.num_steps=7'],
    )
    assert loaded['tasks']['text_text']['weight'] == 0.5
    assert loaded['schedule']['num_steps'] == 7


@pytest.mark.parametrize(
    ('argument', 'override', 'word'),
    [
        ('nowhere.py', None, 'emoji'),
        ('emoji:murall', None, 'mural'),
        ('mural:big', None, 'large'),
        ('clip:b32,l14', None, 'several sizes'),
        ('emoji', '--config.optimizer.learning_rat=1', 'optimizer.learning_rate'),
        ('emoji', '--config.optimizer.learning_rate=fast', 'learning_rate'),
        ('emoji', '--config.schedule.num_steps=1.5', 'num_steps'),
        ('emoji', '--config.seed', 'VALUE'),
    ],
)
def test_mistake_on_the_command_line_is_explained(
    argument: str, override: str | None, word: str
) -> None:
    with pytest.raises(UserError, match=word) as caught:
        load_config(argument, [override] if override else [])
    assert 'Traceback' not in str(caught.value)


@pytest.mark.parametrize(
    ('path', 'value', 'word'),
    [
        ('tasks.image_text.wieght', 1.0, "'weight'"),
        ('tasks.image_text.stream', 'caption', "'captions'"),
        ('tasks.image_text.objective.kind', 'softmx', "'softmax'"),
        ('model.towers.image.kind', 'vitt', "'vit'"),
        ('optimizer.kind', 'adam', 'adamw'),
        ('schedule.checkpoint_minutes', -1.0, 'not be negative'),
        ('streams.captions.max_length', 77, 'more than what the tower'),
        ('schedul', {}, "'schedule'"),
        ('spaces.image_text.bias', -10.0, 'never learned'),
        ('spaces.image_text.temperature', None, 'learns a temperature'),
        ('spaces.image_text.similarity', {'kind': 'cosin'}, "'cosine'"),
        ('spaces.other', {'sides': ('text',), 'embedding': 8}, 'No task trains'),
        ('spaces.image_text.sides', ('text', 'image'), 'in the same order'),
        ('model.towers.image.layers.num_heads', 3, 'must divide'),
        ('model.towers.image.layers.widht', 3, "'width'"),
        ('spaces.image_text.heads', {'imag': {'kind': 'linear'}}, "'image'"),
        ('model.dtype', 'float16', 'bfloat16'),
        ('model.attention', 'cudnn', 'NVIDIA'),
        ('init_from', {'imag': 'x.npz'}, "'image'"),
        ('tokenizer', {'vocab_size': 9, 'kind': 'bpe'}, 'sentencepiece'),
    ],
)
def test_mistake_in_a_config_is_explained(path: str, value: object, word: str) -> None:
    loaded = load_config('emoji:tiny', [])
    *parents, last = path.split('.')
    node = loaded
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(UserError, match=word):
        run = Run.of(loaded)
        run.build_model(1000, abstract=True)


def call(number: int, share: float = 0.5) -> tuple:
    return number, share


def test_make_turns_an_integer_into_a_float() -> None:
    assert make(call, {'number': 1, 'share': 1}, 'x') == (1, 1.0)


@pytest.mark.parametrize(
    ('node', 'words'), [({'number': True}, 'must be int'), ({}, "lacks the key 'number'")]
)
def test_make_refuses_wrong_types_and_missing_keys(node: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(call, node, 'x')


def test_nearest_suggests_a_similar_name_or_lists_all() -> None:
    assert nearest('wieght', ['weight', 'stream']) == " Did you mean 'weight'?"
    assert nearest('zzz', ['weight', 'stream']) == ' There are: stream, weight.'
