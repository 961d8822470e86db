"""How gate and up of a feed-forward go together: nodes from a spec."""

from statistics import NormalDist

from glmc.frontends.resolver import Resolver
from glmc.frontends.spec import ClampedGluSpec
from glmc.ir import model as m


def clamped_glu(
    what: str, resolve: Resolver, spec: ClampedGluSpec | None
) -> m.ClampedGlu | None:
    """The clamps, where the layer has any; ``what`` is the spec's key, for messages."""
    if spec is None:
        return None
    limit = resolve.optional_number(f"{what}.limit", spec.limit)
    if limit is None:
        return None
    alpha = resolve.optional_number(f"{what}.alpha", spec.alpha)
    return m.ClampedGlu(alpha=alpha, limit=limit)


def cutoff(what: str, resolve: Resolver, given: object) -> float | None:
    """How many standard deviations above the mean a share of all numbers lies below."""
    share = resolve.optional_number(what, given)
    if share is None:
        return None
    if share >= 1:
        raise resolve.error(what, given, "must be below 1", share)
    return NormalDist().inv_cdf(share)
