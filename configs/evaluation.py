"""Suites of evaluators for any run: `mural evaluate --workdir=RUN --config=evaluation:SUITE`.

    evaluation:flickr8k         retrieval of photographs in eight languages, two protocols
    evaluation:babel_imagenet   zero-shot classification in every language of the data
    evaluation:probes           linear probe and nearest neighbours on frozen features
    evaluation:flores           FLORES-200: translations between English and 204 languages
    evaluation:tatoeba          Tatoeba: translations between English and up to 112 languages
    evaluation:crisscrossed     Crisscrossed Captions: STS, SIS and SITS

Commas join several suites. The data sets must be ingested, see docs/evaluation.md; name another
one with --config.evaluators.NAME.dataset=captions/NAME. `space` is the space whose embeddings are
compared: a run without one for pairs of texts has only `image_text`, set with
--config.evaluators.flores.space=image_text.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict
from mural_jax.configs.flickr8k import IMAGE_TEXT, TRANSLATION_ONLY

Suite = tuple[dict[str, Any], dict[str, Any]]  # evaluators, groups of languages

# The languages of the quickstart and of all configs here, as FLORES names them; a choice of this
# project. English is the pivot.
_FLORES_IMAGE_TEXT = (
    'deu_Latn fra_Latn spa_Latn ita_Latn por_Latn rus_Cyrl zho_Hans jpn_Jpan arb_Arab tur_Latn '
    'pol_Latn'
)
_FLORES_TRANSLATION_ONLY = (
    'bel_Cyrl gle_Latn uzn_Latn tgk_Cyrl mlt_Latn yor_Latn zul_Latn xho_Latn hau_Latn ibo_Latn '
    'som_Latn quy_Latn swh_Latn cym_Latn amh_Ethi sin_Sinh npi_Deva khm_Khmr hye_Armn kat_Geor'
)
FLORES = dict(
    image_text=tuple(_FLORES_IMAGE_TEXT.split()),
    translation_only=tuple(_FLORES_TRANSLATION_ONLY.split()),
)
# XTREME's 36 languages (github.com/google-research/xtreme, scripts/run_tatoeba.sh without the five
# that XTREME-R added), as LASER's files name them.
_XTREME36 = (
    'afr ara ben bul cmn deu ell est eus fin fra heb hin hun ind ita jav jpn kat kaz kor mal mar '
    'nld pes por rus spa swh tam tel tgl tha tur urd vie'
)
TATOEBA = dict(xtreme36=tuple(_XTREME36.split()))
# A few languages of each group (ours). The groups are those that Babel-ImageNet makes of the
# languages of XLM-R, by how many of ImageNet's 1,000 classes they name: over 666, over 333, fewer;
# English is in none (evaluation_scripts/results_analysis.ipynb in
# github.com/gregor-ge/Babel-ImageNet at 317c498).
CLASSES = dict(
    english=('en',),
    high=('de', 'es', 'fr', 'ja', 'ru', 'zh'),
    middle=('cs', 'ga', 'hi', 'id', 'tr', 'vi'),
    low=('bn', 'ky', 'sw', 'te', 'tg', 'uz'),
)
# For English (ours, not CLIP's).
TEMPLATES = (
    '{}',
    'a photo of a {}',
    'a photo of the {}',
    'a small picture of a {}',
    'a close view of a {}',
    'a {} seen from afar',
    'a {} and nothing else',
)
SPACE = 'image_text'


def flickr8k() -> Suite:
    """Retrieval with the first caption of each photograph, and with all of its captions."""
    photos = dict(
        kind='image_text',
        dataset='captions/flickr8k',
        split='dev',
        space=SPACE,
        text='caption',
        gallery=0,
        fold=0,
        prompt='{}',
        languages=IMAGE_TEXT + TRANSLATION_ONLY,
        every=0,
    )
    return {
        'flickr8k_first': dict(photos, captions='first'),
        'flickr8k_all': dict(photos, captions='all'),
    }, dict(image_text=IMAGE_TEXT, translation_only=TRANSLATION_ONLY)


def babel_imagenet() -> Suite:
    """Classification by the names alone in all languages, by an ensemble of prompts in English."""
    classes = dict(
        kind='classification',
        dataset='captions/tiny_imagenet',
        split='val',
        space=SPACE,
        text='name',
        templates_file='',
        names_file='',
        min_classes=10,
        every=0,
    )
    return {
        'babel_imagenet': dict(classes, languages=('*',), templates=('{}',)),
        'imagenet_english': dict(classes, languages=('en',), templates=TEMPLATES),
    }, CLASSES


def probes() -> Suite:
    """Classifiers of frozen features; needs scikit-learn, mural-jax[evaluation]."""
    images = dict(
        dataset='captions/tiny_imagenet',
        train_split='train',
        split='val',
        space=SPACE,
        languages=(),
        every=0,
    )
    return {
        'linear_probe': dict(images, kind='linear_probe'),
        'knn': dict(images, kind='knn', k=20, temperature=0.07),
    }, {}


def flores() -> Suite:
    """All languages of the data against English, with means over the groups above."""
    return dict(flores=_bitext('translations/flores200', 'dev', 'eng_Latn')), FLORES


def tatoeba() -> Suite:
    """All languages of the data against English, with the mean over XTREME's 36."""
    return dict(tatoeba=_bitext('translations/tatoeba', 'test', 'eng')), TATOEBA


def _bitext(dataset: str, split: str, pivot: str) -> dict[str, Any]:
    return dict(
        kind='bitext',
        dataset=dataset,
        split=split,
        space='text_text',
        text='sentence',
        pivots=(pivot,),
        languages=('*',),
        score='cosine',
        k=4,
        every=0,
    )


def crisscrossed() -> Suite:
    """The test split of Parekh et al. 2021, arXiv:2004.15020.

    sis_test.csv must lie in the current folder.
    """
    shared = dict(
        kind='similarity', split='test', space=SPACE, languages=('*',), score='agg_score', every=0
    )
    sts = dict(dataset='translations/cxc_sts', sides=('sentence1', 'sentence2'), ratings='')
    sis = dict(dataset='captions/coco', sides=('image', 'image'), ratings='sis_test.csv')
    sits = dict(dataset='captions/cxc_sits', sides=('image', 'caption'), ratings='')
    tests = dict(similarity_sts=sts, similarity_sis=sis, similarity_sits=sits)
    return {name: shared | own for name, own in tests.items()}, dict(english=('en',))


SUITES: dict[str, Callable[[], Suite]] = {
    'flickr8k': flickr8k,
    'babel_imagenet': babel_imagenet,
    'probes': probes,
    'flores': flores,
    'tatoeba': tatoeba,
    'crisscrossed': crisscrossed,
}


def get_config(arg: str = 'flickr8k') -> ConfigDict:
    """Returns the evaluators of some suites, joined by commas, and their groups of languages.

    Raises ValueError for an unknown suite.
    """
    config = ConfigDict(dict(evaluators={}, languages={}))
    for name in arg.split(','):
        if name not in SUITES:
            raise ValueError(f'evaluation:{name} is no suite; there are {", ".join(SUITES)}.')
        evaluators, languages = SUITES[name]()
        config.evaluators.update(evaluators)
        # Suites with a group of the same name keep the languages of each, in their own codes.
        for group, members in languages.items():
            present = config.languages.get(group, ())
            config.languages[group] = (*present, *(x for x in members if x not in present))
    return config
