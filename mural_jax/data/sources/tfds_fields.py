"""The fields of TFDS's features and records: paths to them, their values, their texts."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

Keys = tuple[str, ...]  # The way down to a field.


def parts(feature: Any) -> dict[str, Any]:
    """The named features inside of a feature, or inside of what it is a sequence of."""
    import tensorflow_datasets as tfds

    while isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return dict(feature.items()) if isinstance(feature, tfds.features.FeaturesDict) else {}


def way(feature: Any, field: str) -> Keys | None:
    """The way to a field, whose names may have a / in them; '*' is the whole record."""
    if field in ('', '*'):
        return ()
    for name, part in parts(feature).items():
        if field == name or field.startswith(f'{name}/'):
            rest = way(part, field[len(name) + 1 :])
            if rest is not None:
                return (name, *rest)
    return None


def at(feature: Any, keys: Keys) -> Any:
    return functools.reduce(lambda inner, key: parts(inner)[key], keys, feature)


def fields(feature: Any, prefix: str = '') -> list[str]:
    """The paths of all fields that have no fields themselves."""
    return [
        path
        for name, part in parts(feature).items()
        for path in fields(part, f'{prefix}{name}/') or [f'{prefix}{name}']
    ]


def is_translation(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    features = tfds.features
    return isinstance(feature, features.Translation | features.TranslationVariableLanguages)


def languages(feature: Any) -> list[str] | None:
    """The languages that every record of a translation has; None where they vary."""
    import tensorflow_datasets as tfds

    return list(feature) if isinstance(feature, tfds.features.Translation) else None


def translations(feature: Any, prefix: str = '') -> list[str]:
    """The paths of all fields with translations; '*' where the record itself is one."""
    if is_translation(feature):
        return [prefix.removesuffix('/') or '*']
    return [
        path
        for name, part in parts(feature).items()
        for path in translations(part, f'{prefix}{name}/')
    ]


def translated(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(language, text) of a translation, or of one with variable languages."""
    variable = set(value) == {'language', 'translation'}
    for language, text in (
        zip(value['language'], value['translation']) if variable else value.items()
    ):
        yield word(None, language), word(None, text)


def inside(record: Any, keys: Keys) -> Any:
    return functools.reduce(lambda inner, key: inner[key], keys, record)


def leaves(record: Any, keys: Keys) -> Iterator[Any]:
    """The values of a field of a record, those of nested sequences one after the other."""
    value = inside(record, keys)
    for convert in ('to_list', 'tolist'):  # Of ragged tensors, of arrays.
        value = getattr(value, convert)() if hasattr(value, convert) else value
    if not isinstance(value, list | tuple):
        yield value
        return
    for item in value:
        yield from leaves(item, ())


def word(feature: Any, leaf: Any) -> str:
    """A value as text: a class by its name, bytes that are no UTF-8 as surrogates."""
    if isinstance(leaf, bytes):
        return leaf.decode(errors='surrogateescape')
    if isinstance(leaf, int) and hasattr(feature, 'int2str'):
        return feature.int2str(leaf) if 0 <= leaf < feature.num_classes else ''
    return str(leaf)
