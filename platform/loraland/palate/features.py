"""Where items stand among each other: text as TF-IDF, SVD and a unit length, with blocks beside it.

Learned from a catalogue, then applied to it, to new items and to a person's own words. Blocks
(text, aroma families, metadata) are scaled each by itself and weighted. Knows no clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from loraland.errors import DataRefused
from loraland.palate.catalogue import Catalogue, Floats
from loraland.palate.words import identity_words, lexicon, own_words, telling_words

Vectors = NDArray[np.float32]

MOST_TERMS = 30_000
MOST_DOCUMENT_FREQUENCY = 0.3  # a word of more items tells no palate
LEAST_DOCUMENTS = 20  # that a word must be in, where there are many items
ITEMS_PER_DOCUMENT = 500  # fewer than this many times LEAST_DOCUMENTS items: in proportion
METADATA = 2  # columns: log price, quality


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """What a place is made of."""

    dimensions: int = 64  # of the text after SVD
    text: float = 1.0  # weights of the blocks; 0 leaves one out
    lexicon: float = 0.5
    metadata: float = 0.0
    without_names: bool = True  # whether words of kinds, places and critics are left out


@dataclass(frozen=True)
class Features:
    """Learned from a catalogue; turns texts into places."""

    settings: FeatureSettings
    terms: tuple[str, ...]  # words and pairs of words
    idf: Floats  # (terms,)
    components: Vectors  # (dimensions, terms), of the SVD
    identity: frozenset[str]  # names, left out of all texts
    metadata_mean: Floats  # (2,) of log price and quality
    metadata_scale: Floats  # (2,)

    @classmethod
    def learn(cls, catalogue: Catalogue, settings: FeatureSettings, seed: int = 0) -> Features:
        """Raises DataRefused where the texts share no words."""
        identity = identity_words(catalogue) if settings.without_names else frozenset()
        documents = _documents(catalogue, identity, settings.without_names)
        least = int(np.clip(len(catalogue) // ITEMS_PER_DOCUMENT, 1, LEAST_DOCUMENTS))
        vectorizer = _vectorizer(min_df=least, max_df=MOST_DOCUMENT_FREQUENCY)
        try:
            weights = vectorizer.fit_transform(documents)
        except ValueError as error:
            raise DataRefused(
                f"the {len(catalogue)} texts share no telling words: {error}"
            ) from error
        most = min(settings.dimensions, weights.shape[1] - 1, weights.shape[0] - 1)
        if most < 2:
            raise DataRefused(f"the texts have only {weights.shape[1]} telling words")
        svd = TruncatedSVD(most, n_iter=4, random_state=seed).fit(weights)
        means, scales = _scales(metadata_of(catalogue))
        return cls(
            settings,
            tuple(vectorizer.get_feature_names_out().tolist()),
            np.asarray(vectorizer.idf_, dtype=np.float64),
            np.asarray(svd.components_, dtype=np.float32),
            identity,
            means,
            scales,
        )

    def weights(self, documents: Sequence[Sequence[str]]) -> Any:
        """(documents, terms) sparse TF-IDF of unit length; zero rows where no term is known."""
        return self._vectorizer.transform(documents)

    def documents(self, catalogue: Catalogue) -> list[list[str]]:
        """The telling words of items, as features see them."""
        return _documents(catalogue, self.identity, self.settings.without_names)

    def place(self, catalogue: Catalogue) -> Vectors:
        """(items, dimensions) of unit length, for any catalogue; zero where no word is known."""
        return self.place_documents(self.documents(catalogue), metadata_of(catalogue))

    def place_text(self, text: str) -> Vectors:
        """(dimensions,) of somebody's own words."""
        words = telling_words(text, self.identity)
        return np.asarray(self.place_documents([words], np.full((1, METADATA), np.nan))[0])

    def place_documents(self, documents: Sequence[Sequence[str]], metadata: Floats) -> Vectors:
        """(documents, dimensions) of words and (documents, 2) metadata; NaN is as the mean."""
        return self.place_weights(self.weights(documents), documents, metadata)

    def place_weights(
        self, weights: Any, documents: Sequence[Sequence[str]], metadata: Floats
    ) -> Vectors:
        """As `place_documents`, where the (documents, terms) `weights` are known already."""
        text = normalize(weights @ self.components.T)
        blocks = [self.settings.text * text]
        if self.settings.lexicon:
            blocks.append(self.settings.lexicon * normalize(_families(documents)))
        if self.settings.metadata:
            scaled = (metadata - self.metadata_mean) / self.metadata_scale
            blocks.append(self.settings.metadata * np.tanh(np.nan_to_num(scaled) / 2))
        return np.asarray(normalize(np.hstack(blocks)), dtype=np.float32)

    @cached_property
    def term_index(self) -> dict[str, int]:
        """Term -> its column."""
        return {term: place for place, term in enumerate(self.terms)}

    @cached_property
    def _vectorizer(self) -> TfidfVectorizer:
        vectorizer = _vectorizer(vocabulary=self.term_index)
        vectorizer.idf_ = self.idf
        return vectorizer


def family_names() -> tuple[str, ...]:
    """Columns of the lexicon block, in their order."""
    return tuple(dict.fromkeys(lexicon().values()))


def _families(documents: Sequence[Sequence[str]]) -> Vectors:
    """(documents, families) square roots of counts, so that repeated words count less."""
    columns = {family: place for place, family in enumerate(family_names())}
    known = {word: columns[family] for word, family in lexicon().items()}
    rows, places = [], []
    for row, words in enumerate(documents):
        for word in words:
            if (place := known.get(word)) is not None:
                rows.append(row)
                places.append(place)
    shape = (len(documents), len(columns))
    counts = sparse.coo_array((np.ones(len(rows), np.float32), (rows, places)), shape=shape)
    return np.asarray(np.sqrt(counts.toarray()), dtype=np.float32)


def metadata_of(catalogue: Catalogue) -> Floats:
    """(items, 2): log price, NaN where unknown, and quality."""
    with np.errstate(invalid="ignore"):
        return np.column_stack([np.log(catalogue.price), catalogue.quality])


def _scales(known: Floats) -> tuple[Floats, Floats]:
    """Means and deviations of the columns over what is known; 0 and 1 where nothing is."""
    columns = [column[np.isfinite(column)] for column in known.T]
    means = [float(column.mean()) if len(column) else 0.0 for column in columns]
    spreads = [float(column.std()) if len(column) else 1.0 for column in columns]
    return np.asarray(means), np.maximum(spreads, 1e-6)


def _documents(
    catalogue: Catalogue, identity: frozenset[str], without_own: bool
) -> list[list[str]]:
    nothing: frozenset[str] = frozenset()
    own = own_words(catalogue) if without_own else [nothing] * len(catalogue)
    return [
        telling_words(text, identity, names)
        for text, names in zip(catalogue.texts, own, strict=True)
    ]


def _with_pairs(words: Sequence[str]) -> list[str]:
    return [*words, *(f"{one} {other}" for one, other in pairwise(words))]


def _vectorizer(**options: Any) -> TfidfVectorizer:
    """TF-IDF over lists of words; 1 + log tf (sublinear), unit length."""
    return TfidfVectorizer(
        analyzer=_with_pairs,
        sublinear_tf=True,
        dtype=np.float32,
        max_features=None if "vocabulary" in options else MOST_TERMS,
        **options,
    )
