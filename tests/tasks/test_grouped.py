"""Tasks that pass pairs of a group jointly: against the similar, and taught by the joint model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.batches import VOCABULARY
from tasks.test_predict import batch

from mural_jax.config.load import load_config
from mural_jax.models.functional import merge
from mural_jax.runs.run import Run
from mural_jax.types import UserError

SIMILAR = 'unicoder_vl:tiny,similar,retrieval'
DISTILLED = 'vldeformer:tiny,distilled,plain'


def made(name: str, *overrides: str, stream: str = 'pairs') -> tuple:
    """(run, model, batch on the device, keys) of a config at its first weights."""
    run = Run.of(load_config(name, list(overrides)))
    model = merge(*run.build_model(VOCABULARY))
    one = {key: jnp.asarray(value) for key, value in batch(run, stream).items()}
    return run, model, one, jax.random.split(jax.random.key(0), len(one['ids']))


def outputs(run: Run, model, one: dict, keys, name: str):
    task = run.build_tasks()[name]
    encodings = [model.encode(tower, one[field]) for field, tower in task.encode[:2]]
    return task, encodings, task.outputs(name, model, encodings, one, keys)


def test_the_more_similar_is_drawn_more_often_and_never_the_own() -> None:
    run, model, one, keys = made(SIMILAR, '--config.tasks.match.among=4', stream='whole')
    one['ids'] = one['ids'].at[1].set(one['ids'][0])  # Of one picture: no mismatch.
    task = run.build_tasks()['match']
    logit_NGG = jnp.zeros((4, 4, 4)).at[:, :, 3].set(2.0)
    same_NGG = jnp.tile(jnp.eye(4, dtype=bool)[None], (4, 1, 1)).at[0, 0, 1].set(True)
    counts = np.zeros((16, 16))
    for seed in range(60):
        keys = jax.random.split(jax.random.key(seed), 16)
        place_B, real_B = task._drawn(keys, logit_NGG, same_NGG)
        assert real_B.all()
        counts[np.arange(16), place_B] += 1
    assert (np.diag(counts) == 0).all() and counts[0, 1] == 0
    groups = counts.reshape(4, 4, 4, 4)
    assert all(groups[a, :, b].sum() == 0 for a in range(4) for b in range(4) if a != b)
    share = counts[:3, 3].sum() / counts[:3].sum()
    assert share > 0.6  # e^2 / (e^2 + 2) = 0.79 where two others are left
    alone_B = task._drawn(keys, logit_NGG, jnp.ones((4, 4, 4), bool))[1]
    assert not alone_B.any()


def test_an_example_is_matched_with_its_own_and_two_others() -> None:
    run, model, one, keys = made(SIMILAR, stream='whole')
    task, _, found = outputs(run, model, one, keys, 'match')
    np.testing.assert_array_equal(found.count_B, 3)
    loss, logs = task.loss('match', model, found, one)
    # At first a pair is as likely to match as not.
    assert abs(loss - np.log(2)) < 0.1 and 0 <= logs['accuracy'] <= 1
    same = one | {'ids': jnp.tile(one['ids'][:1], (len(keys), 1))}
    np.testing.assert_array_equal(outputs(run, model, same, keys, 'match')[2].count_B, 1)


def test_the_teacher_is_the_joint_model_of_the_pairs_of_a_group() -> None:
    run, model, one, keys = made(DISTILLED, '--config.init_from.model=somewhere')
    task = run.build_tasks()['joint']
    assert task.among == 8
    taught_NGG = task._taught(model, one['text'], one['regions'])
    for text, picture in ((0, 0), (3, 5), (9, 14), (15, 8)):
        alone = model.taught(one['text'][text, None], one['regions'][picture, None])
        found = taught_NGG[text // 8, text % 8, picture % 8]
        np.testing.assert_allclose(found, alone[0], atol=1e-5)


def test_distillation_is_the_divergence_of_both_ways() -> None:
    run, model, one, keys = made(DISTILLED, '--config.init_from.model=somewhere')
    task, encodings, found = outputs(run, model, one, keys, 'joint')
    teacher_NGG = np.asarray(task._taught(model, one['text'], one['regions']), np.float64)
    temperature = float(model.scalars('image_text')['temperature'])
    student_NGG = np.asarray(task.similarity(model, encodings), np.float64) / temperature
    total = 0.0
    for axis in (1, 2):
        p, q = (np.exp(x - x.max(axis, keepdims=True)) for x in (teacher_NGG, student_NGG))
        p, q = p / p.sum(axis, keepdims=True), q / q.sum(axis, keepdims=True)
        total += (p * np.log(p / q)).sum(axis).mean()
    loss, logs = task.loss('joint', model, found, one)
    np.testing.assert_allclose(loss, total, rtol=1e-3)
    assert 0 <= logs['agreement'] <= 1


def test_the_teacher_rests_and_the_student_comes_nearer() -> None:
    more = ('--config.init_from.model=somewhere', '--config.optimizer.learning_rate=0.003')
    run, _, one, _ = made(DISTILLED, *more)
    graphdef, params, statistics = run.build_model(VOCABULARY)
    built = run.build_trainer(graphdef, params)
    state = built.place(params, statistics)
    before = jax.device_get(state.params['towers']['teacher'])
    logs = []
    for _ in range(12):
        state, log = built.step(state, {'pairs': batch(run)})
        logs.append(float(log['joint/loss']))
    after = jax.device_get(state.params['towers']['teacher'])
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert logs[-1] < logs[0]


@pytest.mark.parametrize(
    ('name', 'overrides', 'said'),
    [
        (DISTILLED, [], 'init_from.model'),
        (DISTILLED, ['--config.tasks.joint.space=nothing'], 'space'),
        (SIMILAR, ['--config.tasks.match.among=3'], 'must divide the batch'),
        (SIMILAR, ['--config.tasks.match.among=1'], 'among=1'),
        ('unicoder_vl:tiny,tags', ['--config.streams.pairs.tags='], 'do not go together'),
        ('unicoder_vl:photos', ['--config.model.num_classes=9'], 'must be config.model.num'),
        ('unicoder_vl:photos', ['--config.streams.pairs.regions.codebook=0'], 'have none'),
    ],
)
def test_what_cannot_be_is_refused(name: str, overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Run.of(load_config(name, overrides))
