"""Tasks within groups of a batch: matching against the similar, and a teacher's joint passes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tasks.pair_batches import make_batch
from training.batches import VOCABULARY_SIZE

from mural_jax.config.load import load_config
from mural_jax.models.functional import merge
from mural_jax.runs.run import Run
from mural_jax.tasks.base import Pass
from mural_jax.types import UserError

SIMILAR = 'unicoder_vl:tiny,similar,retrieval'
DISTILLED = 'vldeformer:tiny,distilled,plain'
TEACHER = '--config.init_from.model=somewhere'


class Setting(NamedTuple):
    """A task of a run at its first weights, with a batch."""

    run: Run
    task: Any
    given: Pass


def set_up(config: str, task: str, *overrides: str, stream: str = 'pairs', **batch: Any) -> Setting:
    run = Run.of(load_config(config, list(overrides)))
    model = merge(*run.build_model(VOCABULARY_SIZE))
    fields = {key: jnp.asarray(value) for key, value in make_batch(run, stream).items()} | batch
    own = run.tasks[task]
    encodings = [model.encode(encoder, fields[field]) for field, encoder in own.encode[:2]]
    keys = jax.random.split(jax.random.key(0), len(fields['ids']))
    return Setting(run, own, Pass(model, fields, jnp.int32(0), encodings, keys))


@pytest.fixture(scope='module')
def distilled() -> Setting:
    return set_up(DISTILLED, 'joint', TEACHER)


@pytest.fixture(scope='module')
def draw_counts() -> np.ndarray:
    """How often each of 16 examples drew each other one, [16, 16], the fourth of a group being the
    most similar; examples 0 and 1 show one image."""
    setting = set_up(SIMILAR, 'match', '--config.tasks.match.among=4', stream='whole')
    logit_NGG = jnp.zeros((4, 4, 4)).at[:, :, 3].set(2.0)
    same_NGG = jnp.tile(jnp.eye(4, dtype=bool)[None], (4, 1, 1)).at[0, 0, 1].set(True)
    counts = np.zeros((16, 16))
    for seed in range(60):
        key_B = jax.random.split(jax.random.key(seed), 16)
        place_B, real_B = setting.task.draw_others(key_B, logit_NGG, same_NGG)
        assert real_B.all()
        counts[np.arange(16), place_B] += 1
    return counts


def test_own_example_and_same_image_are_never_drawn(draw_counts: np.ndarray) -> None:
    assert (np.diag(draw_counts) == 0).all() and draw_counts[0, 1] == 0


def test_other_groups_are_never_drawn(draw_counts: np.ndarray) -> None:
    groups = draw_counts.reshape(4, 4, 4, 4)
    assert all(groups[a, :, b].sum() == 0 for a in range(4) for b in range(4) if a != b)


def test_similar_example_is_drawn_more_often(draw_counts: np.ndarray) -> None:
    share = draw_counts[:3, 3].sum() / draw_counts[:3].sum()
    assert share > 0.6  # e^2 / (e^2 + 2) = 0.79 where two others are left


def test_group_of_one_image_has_nothing_to_draw() -> None:
    setting = set_up(SIMILAR, 'match', '--config.tasks.match.among=4', stream='whole')
    key_B = jax.random.split(jax.random.key(0), 16)
    same_NGG = jnp.ones((4, 4, 4), bool)
    assert not setting.task.draw_others(key_B, jnp.zeros((4, 4, 4)), same_NGG)[1].any()


def test_example_is_matched_with_its_own_and_two_others() -> None:
    setting = set_up(SIMILAR, 'match', stream='whole')
    predicted = setting.task.outputs(setting.given)
    np.testing.assert_array_equal(predicted.count_B, 3)
    loss, logs = setting.task.loss(setting.given, predicted)
    # At first a pair is as likely to match as not.
    assert abs(loss - np.log(2)) < 0.1 and 0 <= logs['accuracy'] <= 1


def test_examples_of_one_image_are_matched_with_their_own_alone() -> None:
    setting = set_up(SIMILAR, 'match', stream='whole', ids=jnp.zeros((16, 2), jnp.int32))
    np.testing.assert_array_equal(setting.task.outputs(setting.given).count_B, 1)


@pytest.mark.parametrize(('text', 'image'), [(0, 0), (3, 5), (9, 14), (15, 8)])
def test_teacher_scores_pairs_of_group_jointly(text: int, image: int, distilled: Setting) -> None:
    model, batch = distilled.given.model, distilled.given.batch
    teacher = model.companions['teacher']
    score_NGG = distilled.task.match_within_groups(teacher, batch['text'], batch['regions'])
    pair = (batch['text'][text, None], batch['regions'][image, None])
    alone = teacher.matches(teacher.encode('joint', pair))
    np.testing.assert_allclose(score_NGG[text // 8, text % 8, image % 8], alone[0], atol=1e-5)


def test_distillation_equals_divergence_of_both_directions(distilled: Setting) -> None:
    task, given = distilled.task, distilled.given
    batch, model = given.batch, given.model
    teacher_NGG = np.asarray(
        task.match_within_groups(model.companions['teacher'], batch['text'], batch['regions']),
        np.float64,
    )
    temperature = float(model.scalars('image_text')['temperature'])
    scores_NGG = np.asarray(task.group_scores(model, given.encodings), np.float64)
    total = 0.0
    for axis in (1, 2):
        p, q = (
            np.exp(x - x.max(axis, keepdims=True)) for x in (teacher_NGG, scores_NGG / temperature)
        )
        p, q = p / p.sum(axis, keepdims=True), q / q.sum(axis, keepdims=True)
        total += (p * np.log(p / q)).sum(axis).mean()
    loss, logs = task.loss(given, task.outputs(given))
    np.testing.assert_allclose(loss, total, rtol=1e-3)
    assert 0 <= logs['agreement'] <= 1


@pytest.fixture(scope='module')
def taught() -> tuple[Any, Any, list[float]]:
    """(the teacher before, and after; the losses) of twelve steps."""
    run = Run.of(load_config(DISTILLED, [TEACHER, '--config.optimizer.learning_rate=0.003']))
    graphdef, params, statistics = run.build_model(VOCABULARY_SIZE)
    trainer = run.build_trainer(graphdef, params)
    state = trainer.initial_state(params, statistics)
    before, losses = jax.device_get(state.params['companions']), []
    for _ in range(12):
        state, logs = trainer.step(state, {'pairs': make_batch(run)})
        losses.append(float(logs['joint/loss']))
    return before, jax.device_get(state.params['companions']), losses


def test_frozen_companion_keeps_its_weights(taught: tuple) -> None:
    jax.tree.map(np.testing.assert_array_equal, *taught[:2])


def test_student_comes_nearer_to_its_teacher(taught: tuple) -> None:
    assert taught[2][-1] < taught[2][0]


def test_companion_that_is_not_frozen_learns() -> None:
    run = Run.of(load_config(DISTILLED, [TEACHER, '--config.companions.teacher.frozen=False']))
    graphdef, params, _ = run.build_model(VOCABULARY_SIZE, abstract=True)
    frozen = run.build_trainer(graphdef, params).spec.frozen
    # The heads for hidden parts rest in this stage, those of the companion too.
    assert not any(path.startswith('companions/teacher/towers/') for path in frozen)


@pytest.mark.parametrize(
    ('config', 'overrides', 'message'),
    [
        (DISTILLED, [], 'init_from.model'),
        (DISTILLED, ['--config.tasks.joint.space=nothing'], 'space'),
        (DISTILLED, [TEACHER, '--config.tasks.joint.teacher=nobody'], 'nobody'),
        (SIMILAR, ['--config.tasks.match.among=3'], 'must divide the batch'),
        (SIMILAR, ['--config.tasks.match.among=1'], 'among=1'),
    ],
)
def test_grouped_task_that_does_not_fit_is_refused(
    config: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Run.of(load_config(config, overrides))
