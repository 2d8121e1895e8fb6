"""Clicks of users of Taobao by category of item, in the order of time."""

from __future__ import annotations

import zipfile

import numpy as np

from streams.core.errors import StreamError
from streams.core.hashing import U64, mix
from streams.core.stream_config import SequenceConfig
from streams.integrations.sequences.stream import (
    EventTable,
    SequenceStream,
    SequenceStreamConfig,
)
from streams.scenarios.downloads import find

FILE = "tpp_taobao.npz"
CITATION = (
    "S. Xue, X. Shi, J. Zhang and H. Mei, HYPRO: A Hybridly Normalized Probabilistic Model for "
    "Long-Horizon Prediction of Event Sequences, NeurIPS 2022; clicks of the Tianchi challenge of "
    "Alibaba, 2018"
)
_SECONDS = 1e4  # of a unit of time in the file
_SPLITS = ("train", "dev", "test")
_TEST_SHARE = 0.2  # of the users


class TaobaoConfig(SequenceStreamConfig):
    """Settings of the stream of Taobao."""

    sequence: SequenceConfig | None = SequenceConfig(by="user", keys=16_384, resolution=1.0)


class TaobaoStream(SequenceStream):
    """What category does a user click next, and when? 2,000 users and 115,397 events of 17
    categories, nearly all within nine days.

    The clicks of all users are merged by time, but for those of a fifth of the users, who are for
    testing: they are chosen once and for all by a hash, as the published test users are of the
    first days only.
    """

    kind = "taobao"
    Config = TaobaoConfig

    def _load(self) -> None:
        file = find("taobao", "", FILE)
        try:
            with np.load(file) as data:
                lengths, time, kind = (
                    np.concatenate([data[f"{split}_{name}"] for split in _SPLITS])
                    for name in ("len", "t", "k")
                )
            time, kind = time.astype(np.float64), kind.astype(np.int64)
            user = np.repeat(np.arange(len(lengths)), lengths)
            tests = mix(np.arange(len(lengths)), 0) < U64(_TEST_SHARE * 2**64)
            self.events, self.test = (
                EventTable.sorted_by_time(_SECONDS * time[rows], user[rows], kind[rows])
                for rows in (~tests[user], tests[user])
            )
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise StreamError(f"{file} is broken: {type(error).__name__}: {error}") from None
        kinds = 1 + max(int(self.events.kind.max()), int(self.test.kind.max()))
        self.types = tuple(map(str, range(kinds)))
