"""Pages of made-up runs, and a check of their HTML."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

from evaluation.galleries import RandomIndex, TargetEmbedder

from mural_jax.evaluation.report import examples, language_map
from mural_jax.evaluation.report.page import ModelFindings, ReportedRun, render_page

EIGHT = {'few': ('ar', 'he', 'hi'), 'many': ('en', 'zh', 'ru', 'th', 'am')}
VOID = {'meta', 'link', 'img', 'br', 'path', 'use'}
OPTIONAL = {'tr', 'td', 'th', 'p', 'tbody'}  # HTML closes them by itself.


class TagChecker(HTMLParser):
    """Counts tags, and lists those that are closed in the wrong order."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.wrong: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID | OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID | OPTIONAL and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def make_findings(groups: dict[str, Sequence[str]], maps: int = 1) -> ModelFindings:
    """Queries, failures and maps of a random index."""
    languages = [x for group in groups.values() for x in group]
    index = RandomIndex(languages)
    embedder = TargetEmbedder(index)
    names = examples.embed_names(index, embedder, languages)
    placed = language_map.place_languages(names.vector_LND, names.languages)
    return ModelFindings(
        0,
        examples.query_examples(index, embedder, groups),
        examples.worst_failures(index, names, groups),
        [placed] * maps,
    )


def render_checked(*runs: ReportedRun, groups: dict[str, Sequence[str]] = EIGHT) -> str:
    """The page of some runs; its tags fit, and it has neither scripts nor outside links."""
    page = render_page(runs, make_findings(groups, len(runs)))
    tags = TagChecker(page)
    assert not tags.wrong and not tags.open
    assert 'script' not in tags.count
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    return page
