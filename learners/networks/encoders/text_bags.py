"""Texts as hashed counts of words and of character n-grams."""

from __future__ import annotations

import math
import unicodedata
from functools import cache

import numpy as np

from streams.core.batch import Array, Ints, Ragged

_U64 = np.uint64
_PRIME = _U64(0x9E3779B97F4A7C15)
_TABLE = 0x10000
"""Code points with an entry in the table of characters. Those above are signs of words."""
_UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ")
"""How the names of letters begin whose scripts put no spaces between words."""


def bag(column: Ragged, places: int = 1024) -> Array:
    """Count the words and the character n-grams of texts in hashed places.

    The first half of the places is for words, the second for n-grams (Weinberger et al. 2009,
    "Feature Hashing for Large Scale Multitask Learning"; Bojanowski et al. 2017, "Enriching Word
    Vectors with Subword Information"). A word is a run of letters, digits and signs, in lower case;
    spaces and punctuation separate words. N-grams are those of characters, not of bytes: of 3 and 4
    within a word and its edges, and, where a script has no spaces, of 2 and 3.

    Args:
        column: n texts in UTF-8.
        places: an even number.

    Returns:
        (n, places) uint8 counts, of at most 255.
    """
    n, half = len(column), places // 2
    codes, rows = _characters(column)
    flat = [
        _place(hashed, half) + row * places + offset
        for offset, (hashed, row) in ((0, _words(codes, rows)), (half, _ngrams(codes, rows)))
    ]
    counts = np.bincount(np.concatenate(flat), minlength=n * places)
    return np.minimum(counts, 255).astype(np.uint8).reshape(n, places)


def scaled(counts: Array) -> Array:
    """Return counts (n, places) as float32, each half of a row of the length sqrt(places / 2).

    Then a place is 1 by its root mean square, as a number that is scaled. Of length 1, texts would
    move a network so little that it learns several times as slowly.
    """
    n, places = counts.shape
    parts = counts.reshape(n, 2, places // 2).astype(np.float32)
    length = np.sqrt(np.einsum("ijk,ijk->ij", parts, parts))[:, :, None]
    parts *= np.float32(math.sqrt(places // 2)) / np.maximum(length, np.float32(1e-12))
    return parts.reshape(n, places)


def _characters(column: Ragged) -> tuple[Array, Ints]:
    """Return the characters of all texts, in lower case, with one 0 around each word.

    Returns:
        (m,) uint32 code points, and (m,) the row of each.
    """
    start, stop = int(column.bounds[0]), int(column.bounds[-1])
    raw = column.values[start:stop]
    first = (raw & 0xC0) != 0x80  # the first byte of a character
    begins = np.flatnonzero(first)
    edges = np.concatenate([[0], np.cumsum(first)])[column.bounds - start]
    points = _code_points(raw, begins)
    row = np.repeat(np.arange(len(column)), np.diff(edges))
    lower = _lower()
    points = np.where(points < _TABLE, lower[np.minimum(points, _TABLE - 1)], points)
    codes = np.zeros(len(points) + len(column) + 1, np.uint32)
    rows = np.zeros(len(codes), np.int64)
    place = np.arange(len(points)) + row + 1  # a 0 before each row
    codes[place] = points
    rows[place] = row
    inside = codes != 0
    kept = inside.copy()
    kept[1:] |= inside[:-1]
    kept[0] = True
    return codes[kept], rows[kept]


def _code_points(raw: Array, begins: Ints) -> Array:
    """Return the (m,) uint32 code points of the characters that begin at these bytes."""
    lead = raw[begins].astype(np.uint32)
    if len(begins) == len(raw):  # ASCII
        return lead
    more = (lead >= 0xC0).astype(np.uint8) + (lead >= 0xE0) + (lead >= 0xF0)  # bytes that follow
    points = lead & np.array([0x7F, 0x1F, 0x0F, 0x07], np.uint32)[more]
    padded = np.concatenate([raw, np.zeros(3, np.uint8)])
    for k in (1, 2, 3):
        follows = more >= k
        byte = padded[begins + k] & np.uint32(0x3F)
        points = np.where(follows, points << np.uint32(6) | byte, points)
    return points


def _words(codes: Array, rows: Ints) -> tuple[Array, Ints]:
    """Return the hash of each word, and its row."""
    inside = codes != 0
    begins = np.flatnonzero(inside[1:] & ~inside[:-1]) + 1
    if not len(begins):
        return np.zeros(0, _U64), begins
    ends = np.flatnonzero(inside[:-1] & ~inside[1:]) + 1
    lengths = np.diff(np.append(begins, len(codes)))
    within = np.arange(begins[0], len(codes)) - np.repeat(begins, lengths)
    powers = np.cumprod(np.full(int((ends - begins).max()) + 2, _PRIME))
    terms = codes[begins[0] :].astype(_U64) * powers[np.minimum(within, len(powers) - 1)]
    return np.add.reduceat(terms, begins - begins[0]), rows[begins]


def _ngrams(codes: Array, rows: Ints) -> tuple[Array, Ints]:
    """Return the hash of each n-gram, and its row.

    An n-gram may begin or end at the edge of a word, and has no edge inside. All of its letters are
    of scripts without spaces, or none is; those of a script without spaces have no edge.
    """
    inside, unspaced = codes != 0, _is_unspaced(codes)
    spaced = ~unspaced  # with the edges of words
    wide = codes.astype(_U64) + _U64(1)
    pairs = wide[:-1] * _PRIME + wide[1:]
    triples = pairs[:-1] * _PRIME + wide[2:]
    fours = triples[:-1] * _PRIME + wide[3:]
    of_spaced = spaced[:-2] & spaced[1:-1] & spaced[2:] & inside[1:-1]
    two, three = unspaced[:-1] & unspaced[1:], of_spaced
    four = of_spaced[:-1] & of_spaced[1:]
    if unspaced.any():
        three = three | (two[:-1] & two[1:])
    found, where = [], []
    for hashed, good in ((pairs, two), (triples, three), (fours, four)):
        at = np.flatnonzero(good)
        found.append(hashed[at])
        where.append(rows[at + 1])
    return np.concatenate(found), np.concatenate(where)


def _place(hashed: Array, places: int) -> Ints:
    """Return a place of each hash, by its upper bits."""
    mixed = (hashed ^ (hashed >> _U64(29))) * _PRIME >> _U64(32)
    return np.asarray(mixed * _U64(places) >> _U64(32)).astype(np.int64)


@cache
def _lower() -> Array:
    """Return the lower case of each character of the table, 0 for what separates words."""
    table = np.zeros(_TABLE, np.uint32)
    for point in range(_TABLE):
        character = chr(point)
        kind = unicodedata.category(character)
        if point < 128:
            table[point] = ord(character.lower()) if character.isalnum() else 0
        elif kind[0] not in "PZC":
            lower = character.lower()
            table[point] = ord(lower) if len(lower) == 1 else point
    return table


@cache
def _unspaced_table() -> Array:
    table = np.zeros(_TABLE, np.bool_)
    for point in range(0x0E00, _TABLE):
        table[point] = unicodedata.name(chr(point), "").startswith(_UNSPACED)
    return table


def _is_unspaced(codes: Array) -> Array:
    if not len(codes) or codes.max() < 0x0E00:
        return np.zeros(len(codes), np.bool_)
    rare = codes >= 0x20000  # the later planes of ideographs
    table = _unspaced_table()
    return np.where(codes < _TABLE, table[np.minimum(codes, _TABLE - 1)], rare)
