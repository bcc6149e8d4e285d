"""Which units a page holds ladders of: all that are among the first at some shares, found without trying all."""

from __future__ import annotations

import numpy as np
import pytest

from analyze.overviews import ladders
from analyze.overviews.ladders import Ladders, first_by_often


@pytest.mark.parametrize("limit", [1, 4, 100])
def test_a_majoritys_first_are_held_at_all_shares(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladders, "LISTED", limit)
    random = np.random.default_rng(limit)
    sequences, features, times, least = 5, 24, 3, 60
    feature, row = np.nonzero(random.random((features, sequences)) < 0.8)
    layers, positions = (
        np.sort(random.integers(20, 100, (feature.size, rungs)).astype(np.uint16), axis=1)[:, ::-1] for rungs in (6, 9)
    )
    wanted = set()
    for layer in range(6):
        for share in range(9):
            critical = {}
            for one in range(features):
                own = sorted(np.minimum(layers[feature == one, layer], positions[feature == one, share]), reverse=True)
                if len(own) >= times and own[times - 1] >= least:
                    critical[one] = own[times - 1]
            last = sorted(critical.values(), reverse=True)[:limit][-1:]
            wanted |= {one for one, value in critical.items() if value >= last[0]}
    found = first_by_often(Ladders(layers, positions), feature, row, times, least)
    assert set(feature[found].tolist()) >= wanted
    assert limit > features or set(feature[found].tolist()) == wanted
    assert np.array_equal(found, np.flatnonzero(np.isin(feature, feature[found])))
