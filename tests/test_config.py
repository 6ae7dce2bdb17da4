"""Configs: every file builds, every key is used, every mistake gets the nearest right word."""

import pytest

from mural_jax import config
from mural_jax.config import differences, make, nearest
from mural_jax.run import Run
from mural_jax.types import UserError

ARGUMENTS = ['mural', 'align', 'shuffled', 'tiny', 'align,tiny']


@pytest.mark.parametrize('arg', ARGUMENTS)
def test_every_config_builds(arg: str) -> None:
    run = Run.of(config.load(f'emoji:{arg}', []))
    streams = run.build_streams()
    assert set(run.build_tasks()) <= {'image_text', 'text_text'}
    assert {task.stream for task in run.build_tasks().values()} <= set(streams)
    _, params, statistics = run.build_model(1000, abstract=True)
    assert set(params['heads']) == set(run.build_tasks())
    assert statistics


def test_arms_differ_in_what_they_are_named_for() -> None:
    mural, align, shuffled = (config.load(f'emoji:{arg}', []) for arg in ARGUMENTS[:3])
    assert all('text_text' in line for line in differences(mural, align))
    assert differences(mural, shuffled) == ['streams.translations.shuffle_pairs: False != True']


def test_overrides_reach_their_field() -> None:
    loaded = config.load('configs/emoji.py:tiny', ['--config.tasks.text_text.weight=0.5',
                                                   '--config.schedule.num_steps=7'])  # fmt: skip
    assert loaded['tasks']['text_text']['weight'] == 0.5
    assert loaded['schedule']['num_steps'] == 7


@pytest.mark.parametrize(
    ('argument', 'override', 'word'),
    [
        ('nowhere.py', None, 'emoji'),
        ('emoji:murall', None, 'mural'),
        ('emoji', '--config.optimizer.learning_rat=1', 'optimizer.learning_rate'),
        ('emoji', '--config.optimizer.learning_rate=fast', 'learning_rate'),
        ('emoji', '--config.schedule.num_steps=1.5', 'num_steps'),
        ('emoji', '--config.seed', 'VALUE'),
    ],
)
def test_mistakes_on_the_command_line(argument: str, override: str | None, word: str) -> None:
    with pytest.raises(UserError, match=word):
        config.load(argument, [override] if override else [])


@pytest.mark.parametrize(
    ('path', 'value', 'word'),
    [
        ('tasks.image_text.wieght', 1.0, "'weight'"),
        ('tasks.image_text.stream', 'caption', "'captions'"),
        ('tasks.image_text.objective.kind', 'softmx', "'softmax'"),
        ('model.towers.image.kind', 'vitt', "'vit'"),
        ('optimizer.kind', 'adam', 'adamw'),
        ('schedule.checkpoint_every', 3, 'multiple of'),
        ('streams.captions.max_length', 77, 'more than what the tower'),
        ('schedul', {}, "'schedule'"),
    ],
)
def test_mistakes_in_a_file(path: str, value: object, word: str) -> None:
    loaded = config.load('emoji:tiny', [])
    *parents, last = path.split('.')
    node = loaded
    for parent in parents:
        node = node[parent]
    node[last] = value
    with pytest.raises(UserError, match=word):
        run = Run.of(loaded)
        run.build_model(1000, abstract=True)


def test_types_are_checked() -> None:
    def call(number: int, share: float = 0.5) -> tuple:
        return number, share

    assert make(call, {'number': 1, 'share': 1}, 'x') == (1, 1.0)
    with pytest.raises(UserError, match='must be int'):
        make(call, {'number': True}, 'x')
    with pytest.raises(UserError, match="lacks the key 'number'"):
        make(call, {}, 'x')


def test_the_nearest_word() -> None:
    assert nearest('wieght', ['weight', 'stream']) == " Did you mean 'weight'?"
    assert nearest('zzz', ['weight', 'stream']) == ' There are: stream, weight.'
