"""The files of scores: `eval/STEP.json`, and query by query `eval/STEP.npz`.

STEP.json is {'protocol': {EVALUATOR: {...}}, 'results': {EVALUATOR: {LANGUAGE: {METRIC: value}}},
'intervals': {EVALUATOR: {LANGUAGE: {METRIC: [low, high]}}}, 'groups': {EVALUATOR: {GROUP:
[LANGUAGE]}}}; the mean over a group is a language `mean_GROUP`. A second evaluation adds to both
files.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mural_jax.evaluation.evaluators.base import (
    MEAN,
    EmbeddedGallery,
    Evaluation,
    Evaluator,
    Results,
    add_group_means,
)
from mural_jax.evaluation.metrics import bootstrap
from mural_jax.evaluation.metrics.bootstrap import QuerySamples
from mural_jax.evaluation.metrics.recall import add_mean_recall, chance_mean_recall
from mural_jax.evaluation.split_data import SplitData
from mural_jax.types import UserError
from mural_jax.workdir.files import write_atomic

Groups = Mapping[str, Sequence[str]]  # languages by the name of their group
SamplesByLanguage = Mapping[str, Sequence[QuerySamples]]
Intervals = dict[str, dict[str, list[float]]]  # language -> metric -> [low, high]
ALL = 'all'  # the group of all languages of an evaluator that has languages of its own


class CheckpointScores(NamedTuple):
    """All scores of a checkpoint, by evaluator, as STEP.json holds them."""

    protocol: dict[str, dict[str, Any]]
    results: dict[str, Results]
    intervals: dict[str, Intervals]
    groups: dict[str, dict[str, list[str]]]

    def headline(self, evaluator: str) -> str:
        """Returns the metric to show first for an evaluator, '' if it has no results."""
        rows = self.results.get(evaluator, {})
        first = next(iter(next(iter(rows.values()), {})), '')
        return self.protocol.get(evaluator, {}).get('headline', first)


def score(
    evaluators: Mapping[str, Evaluator],
    groups: Groups,
    data: SplitData,
    path: Path,
    log: Callable[[str], None] = lambda line: None,
    *,
    force: bool = False,
    write: bool = True,
) -> tuple[CheckpointScores, list[EmbeddedGallery]]:
    """Runs the evaluators that have no scores yet; returns all scores of the checkpoint.

    Args:
      evaluators: the evaluators to run, by name. One whose scores exist with the same protocol is
        skipped; only its group means are computed anew.
      groups: languages by group, over which means are taken. An evaluator without languages of its
        own scores all of them.
      data: the model and its data.
      path: STEP.json, written atomically after each evaluator.
      log: receives lines about skipped evaluators.
      force: runs evaluators even if their scores exist.
      write: whether to write the files; one process alone should.

    Returns:
      (all scores in `path` and new ones, galleries of the images that were embedded).
    """
    scores = read_file(path) if path.exists() else CheckpointScores({}, {}, {}, {})
    languages = list(dict.fromkeys(language for group in groups.values() for language in group))
    galleries = []
    for name, evaluator in evaluators.items():
        protocol = describe_protocol(evaluator, languages)
        # The file has more entries, such as the number of items, which are known after scoring.
        if not force and protocol.items() <= scores.protocol.get(name, {}).items():
            log(f'{name}: has scores with the same protocol, skipped; --force scores it again')
            own = choose_groups(evaluator, groups, _without_means(scores.results[name]))
            if _regroup(scores, name, own, path):
                log(f'{name}: its means are now over the groups of this config')
                if write:
                    _write(path, scores, {})
            continue
        evaluation = evaluator(data, languages)
        own = choose_groups(evaluator, groups, evaluation.results)
        scores.protocol[name] = protocol | {'items': evaluation.size} | _chance_entry(evaluation)
        scores.results[name] = add_group_means(evaluation.results, own)
        scores.groups[name] = _scored_members(own, evaluation.results)
        scores.intervals[name] = compute_intervals(evaluation.samples, evaluation.size, own)
        galleries += [evaluation.gallery] if evaluation.gallery else []
        if write:
            _write(path, scores, {name: evaluation})
    return scores, galleries


def describe_protocol(evaluator: Evaluator, languages: Sequence[str]) -> dict[str, Any]:
    """Returns an evaluator's protocol with its languages and headline, as JSON reads it back."""
    # Languages belong to the protocol: other languages are other scores.
    own = {'languages': list(evaluator.languages or languages), 'headline': evaluator.headline}
    # Through JSON and back, so that tuples compare equal to the lists in the file.
    return json.loads(json.dumps(evaluator.protocol() | own))


def choose_groups(evaluator: Evaluator, groups: Groups, results: Results) -> Groups:
    """Returns the groups to take means over.

    An evaluator with languages of its own also gets the group `all` of them, unless a group or a
    language is called that.
    """
    # An evaluator without languages has its only row under that name.
    taken = {ALL} & {*groups, *results}
    own = {ALL: list(results)} if evaluator.languages and not taken else {}
    return {**groups, **own}


def compute_intervals(samples: SamplesByLanguage, size: int, groups: Groups) -> Intervals:
    """Returns 95% confidence intervals of every language and of the mean over every group.

    Percentile bootstrap: the `size` items of the split are drawn 1,000 times with replacement, the
    same ones in all languages.
    """
    # The mean over a group is drawn from its languages' draws, which share the items of each draw.
    draws = draw_metrics(samples, size)
    for group, members in groups.items():
        rows = [draws[language] for language in members if language in draws]
        if rows:
            draws[MEAN + group] = {
                metric: bootstrap.mean_over_draws([row[metric] for row in rows])
                for metric in rows[0]
            }
    return {
        language: {
            metric: list(bootstrap.percentile_interval(value_S)) for metric, value_S in row.items()
        }
        for language, row in draws.items()
    }


def draw_metrics(samples: SamplesByLanguage, size: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns {language: {metric: its value in each of the S draws of the items, [S]}}."""
    if not samples:
        return {}
    drawn_SI = bootstrap.draw_items(size)
    return {
        language: add_mean_recall(bootstrap.resample_means(own, drawn_SI))
        for language, own in samples.items()
    }


def read(workdir: Path, step: int) -> CheckpointScores:
    """Returns all scores of a checkpoint. Raises UserError if there are none."""
    path = workdir / 'eval' / f'{step}.json'
    if not path.exists():
        raise UserError(f'There are no scores {path}. Run `mural evaluate` for this step first.')
    return read_file(path)


def read_file(path: Path) -> CheckpointScores:
    """Returns the scores in a STEP.json. Raises UserError if it cannot be read."""
    try:
        node = json.loads(path.read_text(encoding='utf-8'))
        more = node.get('intervals', {}), node.get('groups', {})
        return CheckpointScores(node['protocol'], node['results'], *more)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f'{path} is not a file of scores ({error}). Move it away and run `mural evaluate` '
            'again.'
        ) from error


def read_samples(path: Path) -> dict[str, tuple[int, dict[str, list[QuerySamples]]]]:
    """Returns {evaluator: (number of items, {language: samples})} of a STEP.npz.

    Empty if there is no such file.
    """
    if not path.exists():
        return {}
    samples: dict[str, tuple[int, dict[str, list[QuerySamples]]]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for number, (name, size, language, metrics) in enumerate(json.loads(str(arrays['about']))):
            values = dict(zip(metrics, arrays[f'values_{number}']))
            _, languages = samples.setdefault(name, (size, {}))
            own = QuerySamples(arrays[f'items_{number}'], values)
            languages.setdefault(language, []).append(own)
    return samples


def _without_means(results: Results) -> Results:
    """Returns the results of languages, without the means over groups."""
    return {x: row for x, row in results.items() if not x.startswith(MEAN)}


def _regroup(scores: CheckpointScores, name: str, groups: Groups, path: Path) -> bool:
    """Replaces an evaluator's means by those over `groups`; returns whether anything changed."""
    results = _without_means(scores.results[name])
    with_means, members = add_group_means(results, groups), _scored_members(groups, results)
    if with_means == scores.results[name] and members == scores.groups.get(name):
        return False
    scores.results[name], scores.groups[name] = with_means, members
    # Intervals come from the stored samples; the model is not needed.
    size, samples = read_samples(path.with_suffix('.npz')).get(name, (0, {}))
    scores.intervals[name] = compute_intervals(samples, size, groups)
    return True


def _scored_members(groups: Groups, results: Results) -> dict[str, list[str]]:
    """Returns the languages of each group that have a score, without groups that have none."""
    scored = {name: [x for x in members if x in results] for name, members in groups.items()}
    return {name: members for name, members in scored.items() if members}


def _chance_entry(evaluation: Evaluation) -> dict[str, float]:
    """Returns the mean recall of a random order of all items, if recall was measured."""
    has_recall = any('mean_recall' in row for row in evaluation.results.values())
    return {'chance': chance_mean_recall(evaluation.size)} if has_recall else {}


def _write(path: Path, scores: CheckpointScores, new: Mapping[str, Evaluation]) -> None:
    """Writes both files, each atomically; samples of other evaluators stay."""
    samples = read_samples(path.with_suffix('.npz'))
    for name, evaluation in new.items():
        by_language = {language: list(parts) for language, parts in evaluation.samples.items()}
        samples[name] = evaluation.size, by_language
    # One flat list of arrays; 'about' says to which evaluator and language each belongs.
    about: list[Any] = []
    arrays: dict[str, np.ndarray] = {}
    for name, (size, languages) in samples.items():
        for language, parts in languages.items():
            for part in parts:
                arrays[f'items_{len(about)}'] = part.item_N
                arrays[f'values_{len(about)}'] = np.stack([*part.values.values()])
                about.append([name, size, language, list(part.values)])
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under another name first: a process that dies leaves the old file whole.
    part_path = path.with_name(f'{path.stem}.{os.getpid()}.part.npz')
    np.savez_compressed(part_path, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    part_path.replace(path.with_suffix('.npz'))
    # Last, since the JSON says which scores exist; samples without scores do no harm.
    write_atomic(path, json.dumps(scores._asdict(), indent=1, ensure_ascii=False))
