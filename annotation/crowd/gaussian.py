"""Expectation propagation over candidates that share comparisons (Minka 2001).

The qualities of a component's K candidates have a joint normal distribution: an independent prior of variance ½ each,
so that a difference has variance 1, times one normal *site* for each factor. A factor sees one direction, e_i − e_j for
a pair and √2·e_i for a single node, so its moments are matched on a one-dimensional grid, exactly.
"""

from dataclasses import dataclass

import numpy as np

from annotation.crowd.arrays import Array

PRIOR_VARIANCE = 0.5
SMALLEST = 1e-6


@dataclass(frozen=True)
class Components:
    """All components of K nodes each."""

    nodes: Array
    """[components, K]"""
    factors: Array
    """[n], the factors of these components"""
    owner: Array
    """[n], the component of each"""
    one: Array
    two: Array
    """[n], the place of its nodes in the component; −1 for the second where there is none."""


def components(first: Array, second: Array, nodes: int, apart: Array) -> tuple[Array, list[Components]]:
    """Which factors stand alone, bool [F], and the components of the others, grouped by size.

    A factor stands alone if no other factor touches its nodes, so that its posterior is one-dimensional; those of
    `apart`, bool [F], do in any case.
    """
    joined = np.flatnonzero(~apart)
    label = labels(first[joined], second[joined], nodes)
    home = label[first]
    alone = apart | (np.bincount(home[joined], minlength=nodes)[home] == 1)
    size = np.bincount(label, minlength=nodes)
    groups = []
    for k in np.unique(size[home[~alone]]).tolist():
        mine = np.flatnonzero(~alone & (size[home] == k))
        homes = np.unique(home[mine])
        members = np.flatnonzero(np.isin(label, homes))
        members = members[np.argsort(label[members], kind="stable")].reshape(-1, k)
        place = np.empty(nodes, np.int64)
        place[members] = np.arange(k)
        two = np.where(second[mine] >= 0, place[second[mine]], -1)
        groups.append(Components(members, mine, np.searchsorted(homes, home[mine]), place[first[mine]], two))
    return alone, groups


def labels(first: Array, second: Array, nodes: int) -> Array:
    """The least node that each node is connected with."""
    label = np.arange(nodes)
    pair = second >= 0
    a, b = first[pair], second[pair]
    while True:
        least = np.minimum(label[a], label[b])
        before = label.copy()
        np.minimum.at(label, a, least)
        np.minimum.at(label, b, least)
        label = label[label]
        if (label == before).all():
            return label


def sweep(
    group: Components, sites: Array, likelihood: Array, odds: Array, grid: Array, damping: float
) -> tuple[Array, Array]:
    """One parallel round: the tilted distributions [n, G + 1] of the group's factors, and new sites [n, 2].

    `sites` are precision and precision times mean; `likelihood` [n, G + 1] is the log likelihood on `grid` [G] and of
    no difference, which has the log odds `odds` [n] before anything is said.
    """
    mean, covariance = joint(group, sites)
    m, v = _marginal(group, mean, covariance)
    free = np.maximum(1 / v - sites[:, 0], SMALLEST)
    shift = m / v - sites[:, 1]
    step = grid[1] - grid[0]
    log = likelihood.copy()
    cavity = -0.5 * free[:, None] * (grid - (shift / free)[:, None]) ** 2
    log[:, :-1] += cavity + (0.5 * np.log(free / (2 * np.pi)) + np.log(step))[:, None]
    log[:, -1] += odds
    tilted = np.exp(log - log.max(1, keepdims=True))
    tilted /= tilted.sum(1, keepdims=True)
    at = tilted[:, :-1] @ grid
    spread = tilted[:, :-1] @ grid**2 - at**2 + step**2 / 12  # the nodes stand for intervals
    # Under the prior alone the grid's moments are not quite the normal's: the site takes the difference of the two.
    fresh = np.maximum(1 / spread - free, 0)
    new = np.stack([fresh, np.where(fresh > 0, at * (free + fresh) - shift, 0)], 1)
    return tilted, sites + damping * (new - sites)


def joint(group: Components, sites: Array) -> tuple[Array, Array]:
    """Mean [components, K] and covariance [components, K, K] of the qualities."""
    count, k = group.nodes.shape
    precision = np.zeros((count, k, k))
    precision[:] = np.eye(k) / PRIOR_VARIANCE
    weighted = np.zeros((count, k))
    pair = group.two >= 0
    c, i, j = group.owner, group.one, np.maximum(group.two, 0)
    scale = np.where(pair, 1.0, np.sqrt(2.0))
    flat, vector = precision.reshape(-1), weighted.reshape(-1)
    flat += np.bincount((c * k + i) * k + i, scale**2 * sites[:, 0], flat.size)
    vector += np.bincount(c * k + i, scale * sites[:, 1], vector.size)
    c, i, j, s = c[pair], i[pair], j[pair], sites[pair]
    flat += np.bincount((c * k + j) * k + j, s[:, 0], flat.size)
    flat -= np.bincount((c * k + i) * k + j, s[:, 0], flat.size)
    flat -= np.bincount((c * k + j) * k + i, s[:, 0], flat.size)
    vector -= np.bincount(c * k + j, s[:, 1], vector.size)
    covariance = np.linalg.inv(precision)
    return (covariance @ weighted[:, :, None])[:, :, 0], covariance


def _marginal(group: Components, mean: Array, covariance: Array) -> tuple[Array, Array]:
    """Mean and variance [n] along the direction of each factor."""
    c, i, j, pair = group.owner, group.one, np.maximum(group.two, 0), group.two >= 0
    m = np.where(pair, mean[c, i] - mean[c, j], np.sqrt(2.0) * mean[c, i])
    v = np.where(pair, covariance[c, i, i] + covariance[c, j, j] - 2 * covariance[c, i, j], 2 * covariance[c, i, i])
    return m, np.maximum(v, SMALLEST)
