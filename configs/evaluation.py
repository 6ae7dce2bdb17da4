"""Suites of evaluation for a trained model: `mural evaluate --config=evaluation:SUITE`.

    evaluation:flores    FLORES-200: translations between English and 204 languages
    evaluation:tatoeba   Tatoeba: translations between English and up to 112 languages

The model is the run's; of a suite only `evaluators` and `languages` are taken. docs/evaluation.md
says how each is measured and how its data is ingested. `task` is the head in whose space is
compared: a run without one for texts has only `image_text`, which is set by
--config.evaluators.flores.task=image_text.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

# The languages of the quickstart and of all configs here, as FLORES names them; a choice of this
# project. English is the pivot.
FLORES = dict(
    image_text=(
        'deu_Latn', 'fra_Latn', 'spa_Latn', 'ita_Latn', 'por_Latn', 'rus_Cyrl', 'zho_Hans',
        'jpn_Jpan', 'arb_Arab', 'tur_Latn', 'pol_Latn',
    ),
    translation_only=(
        'bel_Cyrl', 'gle_Latn', 'uzn_Latn', 'tgk_Cyrl', 'mlt_Latn', 'yor_Latn', 'zul_Latn',
        'xho_Latn', 'hau_Latn', 'ibo_Latn', 'som_Latn', 'quy_Latn', 'swh_Latn', 'cym_Latn',
        'amh_Ethi', 'sin_Sinh', 'npi_Deva', 'khm_Khmr', 'hye_Armn', 'kat_Geor',
    ),
)  # fmt: skip
# XTREME's 36 languages (github.com/google-research/xtreme, scripts/run_tatoeba.sh without the five
# that XTREME-R added), as LASER's files name them.
TATOEBA = dict(
    xtreme36=(
        'afr', 'ara', 'ben', 'bul', 'cmn', 'deu', 'ell', 'est', 'eus', 'fin', 'fra', 'heb', 'hin',
        'hun', 'ind', 'ita', 'jav', 'jpn', 'kat', 'kaz', 'kor', 'mal', 'mar', 'nld', 'pes', 'por',
        'rus', 'spa', 'swh', 'tam', 'tel', 'tgl', 'tha', 'tur', 'urd', 'vie',
    ),
)  # fmt: skip


def get_config(arg: str = '') -> ConfigDict:
    """Evaluators and languages of one suite. Raises ValueError for one that is not there."""
    if arg not in SUITES:
        raise ValueError(f'evaluation:{arg} is not a suite; there are {", ".join(SUITES)}.')
    evaluators, languages = SUITES[arg]()
    return ConfigDict(dict(evaluators=evaluators, languages=languages))


def flores() -> tuple[dict[str, Any], dict[str, Any]]:
    """All languages of the data against English, the buckets above."""
    return dict(flores=_bitext('translations/flores200', 'dev', 'eng_Latn')), FLORES


def tatoeba() -> tuple[dict[str, Any], dict[str, Any]]:
    """All languages of the data against English, and XTREME's 36."""
    return dict(tatoeba=_bitext('translations/tatoeba', 'test', 'eng')), TATOEBA


def _bitext(dataset: str, split: str, pivot: str) -> dict[str, Any]:
    return dict(
        kind='bitext', dataset=dataset, split=split, task='text_text', text='sentence',
        pivots=(pivot,), languages=('*',), score='cosine', k=4, every=0,
    )  # fmt: skip


SUITES: dict[str, Callable[[], tuple[dict[str, Any], dict[str, Any]]]] = {
    'flores': flores,
    'tatoeba': tatoeba,
}
