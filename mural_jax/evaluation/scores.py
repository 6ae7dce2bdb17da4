"""What evaluators found, as files: `eval/STEP.json`, and query by query `eval/STEP.npz`.

STEP.json is {'protocol': {EVALUATOR: {...}}, 'results': {EVALUATOR: {LANGUAGE: {METRIC: value}}},
'intervals': {EVALUATOR: {LANGUAGE: {METRIC: [low, high]}}}, 'groups': {EVALUATOR: {GROUP:
[LANGUAGE]}}}; the mean over a group is a language `mean_GROUP`. A second evaluation adds to both.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mural_jax.evaluation.evaluators.base import (
    MEAN,
    Evaluator,
    Gallery,
    Results,
    Scored,
    with_means,
)
from mural_jax.evaluation.metrics import bootstrap
from mural_jax.evaluation.metrics.bootstrap import Samples
from mural_jax.evaluation.metrics.recall import chance, combined
from mural_jax.evaluation.split_data import Sources
from mural_jax.types import UserError
from mural_jax.workdir.files import write_atomic

Evaluated = dict[str, Results]
Groups = Mapping[str, Sequence[str]]
ALL = 'all'  # the group of all languages that an evaluator with languages of its own has scored


class Found(NamedTuple):
    """What is known of a checkpoint: by evaluator, as in the files."""

    protocol: dict[str, dict[str, Any]]
    results: Evaluated
    intervals: dict[str, dict[str, dict[str, list[float]]]]
    groups: dict[str, dict[str, list[str]]]


def score(
    evaluators: Mapping[str, Evaluator], groups: Groups, sources: Sources, path: Path,
    say: Callable[[str], None] = lambda line: None, *, force: bool = False, write: bool = True,
) -> tuple[Found, list[Gallery]]:  # fmt: skip
    """Everything known after scoring the evaluators; with `write` it is in `path`, atomically.

    One that was scored before by the same protocol is skipped, but with `force`. groups: languages
    by name, of which means are taken; evaluators without languages of their own score them all.
    """
    found = read_file(path) if path.exists() else Found({}, {}, {}, {})
    languages = list(dict.fromkeys(language for group in groups.values() for language in group))
    galleries = []
    for name, evaluator in evaluators.items():
        wanted = protocol_of(evaluator, languages)
        if not force and wanted.items() <= found.protocol.get(name, {}).items():
            say(f'{name}: scored before by the same protocol, skipped; --force scores it again')
            if _regroup(found, name, groups_of(evaluator, groups, _singles(found, name)), path):
                say(f'{name}: the means are of the groups of languages that are asked for now')
                if write:
                    _write(path, found, {})
            continue
        scored = evaluator(sources, languages)
        own = groups_of(evaluator, groups, scored.results)
        found.protocol[name] = wanted | {'items': scored.size} | _chance(scored)
        found.results[name] = with_means(scored.results, own)
        found.groups[name] = _scored(own, scored.results)
        found.intervals[name] = intervals(scored.samples, scored.size, own)
        galleries += [scored.gallery] if scored.gallery else []
        if write:
            _write(path, found, {name: scored})
    return found, galleries


def _singles(found: Found, name: str) -> Results:
    """The results of an evaluator without means over groups."""
    return {x: row for x, row in found.results[name].items() if not x.startswith(MEAN)}


def _regroup(found: Found, name: str, groups: Groups, path: Path) -> bool:
    """Takes the means of what was scored before over these groups; whether they were others."""
    results = _singles(found, name)
    means, members = with_means(results, groups), _scored(groups, results)
    if means == found.results[name] and members == found.groups.get(name):
        return False
    found.results[name], found.groups[name] = means, members
    size, samples = read_samples(path.with_suffix('.npz')).get(name, (0, {}))
    found.intervals[name] = intervals(samples, size, groups)
    return True


def _scored(groups: Groups, results: Results) -> dict[str, list[str]]:
    """The languages of each group that have a score; groups with none are left out."""
    there = {name: [x for x in members if x in results] for name, members in groups.items()}
    return {name: members for name, members in there.items() if members}


def _chance(scored: Scored) -> dict[str, float]:
    """The mean recall of a random order of all items, where recall is what was scored."""
    recalls = any('mean_recall' in row for row in scored.results.values())
    return {'chance': chance(scored.size)} if recalls else {}


def protocol_of(evaluator: Evaluator, languages: Sequence[str]) -> dict[str, Any]:
    """How and of which languages an evaluator scores, as JSON gives it back."""
    words = evaluator.protocol() | {'languages': list(evaluator.languages or languages)}
    return json.loads(json.dumps(words))


def groups_of(evaluator: Evaluator, groups: Groups, results: Results) -> Groups:
    """The groups whose means are taken; of an evaluator's own languages, all of them too."""
    known = {ALL} & {*groups, *results}
    own = {ALL: list(results)} if evaluator.languages and not known else {}
    return {**groups, **own}


def intervals(
    samples: Mapping[str, Sequence[Samples]], size: int, groups: Groups
) -> dict[str, dict[str, list[float]]]:
    """95% intervals by language and metric; of a group, of the mean over its languages.

    Items are drawn again, the same ones in all languages, 1,000 times (percentile bootstrap).
    """
    drawn = draws(samples, size)
    for group, members in groups.items():
        rows = [drawn[language] for language in members if language in drawn]
        if rows:
            drawn[MEAN + group] = {
                metric: bootstrap.mean_of([row[metric] for row in rows]) for metric in rows[0]
            }
    return {
        language: {metric: list(bootstrap.interval(value_S)) for metric, value_S in row.items()}
        for language, row in drawn.items()
    }


def draws(samples: Mapping[str, Sequence[Samples]], size: int) -> dict[str, dict[str, np.ndarray]]:
    """{language: {metric: its value in each draw of the items}}."""
    if not samples:
        return {}
    drawn_SI = bootstrap.draw(size)
    return {
        language: combined(bootstrap.resampled(own, drawn_SI)) for language, own in samples.items()
    }


def read(workdir: Path, step: int) -> Found:
    """What is known of a checkpoint. Raises UserError where nothing is."""
    path = workdir / 'eval' / f'{step}.json'
    if not path.exists():
        raise UserError(f'There are no scores {path}. Run `mural evaluate` for this step first.')
    return read_file(path)


def read_file(path: Path) -> Found:
    """Raises UserError where the file cannot be read."""
    try:
        words = json.loads(path.read_text(encoding='utf-8'))
        more = words.get('intervals', {}), words.get('groups', {})
        return Found(words['protocol'], words['results'], *more)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f'{path} is no file of scores ({error}). Move it away and run `mural evaluate` again.'
        ) from error


def read_samples(path: Path) -> dict[str, tuple[int, dict[str, list[Samples]]]]:
    """{evaluator: (number of items, {language: samples})} of an `.npz` beside scores; none where
    there is no such file."""
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        found: dict[str, tuple[int, dict[str, list[Samples]]]] = {}
        for number, (name, size, language, metrics) in enumerate(json.loads(str(arrays['about']))):
            values = dict(zip(metrics, arrays[f'values_{number}']))
            _, languages = found.setdefault(name, (size, {}))
            languages.setdefault(language, []).append(Samples(arrays[f'items_{number}'], values))
    return found


def _write(path: Path, found: Found, scored: Mapping[str, Scored]) -> None:
    """Both files; samples of other evaluators stay."""
    samples = read_samples(path.with_suffix('.npz'))
    for name, one in scored.items():
        by_language = {language: list(parts) for language, parts in one.samples.items()}
        samples[name] = one.size, by_language
    about: list[Any] = []
    arrays: dict[str, np.ndarray] = {}
    for name, (size, languages) in samples.items():
        for language, parts in languages.items():
            for part in parts:
                arrays[f'items_{len(about)}'] = part.item_N
                arrays[f'values_{len(about)}'] = np.stack([*part.values.values()])
                about.append([name, size, language, list(part.values)])
    path.parent.mkdir(parents=True, exist_ok=True)
    part_path = path.with_name(f'{path.stem}.{os.getpid()}.part.npz')
    np.savez_compressed(part_path, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    part_path.replace(path.with_suffix('.npz'))
    write_atomic(path, json.dumps(found._asdict(), indent=1, ensure_ascii=False))
