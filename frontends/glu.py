"""How gate and up of a feed-forward go together: a node from a spec."""

from glmc.frontends.resolver import Resolver
from glmc.frontends.spec import ClampedGluSpec
from glmc.ir import model as m


def clamped_glu(
    what: str, resolve: Resolver, spec: ClampedGluSpec | None
) -> m.ClampedGlu | None:
    """The clamps, where the layer has any; ``what`` is the spec's key, for messages."""
    limit = spec and resolve.optional_number(f"{what}.limit", spec.limit)
    if spec is None or limit is None:
        return None
    return m.ClampedGlu(
        alpha=resolve.optional_number(f"{what}.alpha", spec.alpha), limit=limit
    )
