"""The spec language: the sections of an architecture's YAML file.

Their attributes are literals or expressions; :mod:`glmc.frontends.build.builder`
evaluates them against a config.
"""

from glmc.frontends.spec.architecture import (
    AffineSpec,
    OpSpec,
    PerLayer,
    Spec,
    StepSpec,
    Variant,
)
from glmc.frontends.spec.attention import (
    AttentionSpec,
    BlockIndexerSpec,
    DifferenceSpec,
    DistancesSpec,
    GateSpec,
    HeadExpertsSpec,
    IndexerSpec,
    MlaSpec,
    QkNorm,
    QueryScaleSpec,
)
from glmc.frontends.spec.ends import (
    EmbedSpec,
    HeadSpec,
    PerLayerEmbedSpec,
    PrefixEncoderSpec,
    StreamsSpec,
    TokensSpec,
    TransformSpec,
)
from glmc.frontends.spec.feedforward import (
    BranchesSpec,
    BranchSpec,
    ClampedGluSpec,
    LowRankSpec,
    MlpSpec,
    MoeSpec,
    PerLayerInputSpec,
    SharedSpec,
)
from glmc.frontends.spec.matching import Check, Expectation, Match, Refusal
from glmc.frontends.spec.mixers import (
    DecaySpec,
    GatedConvSpec,
    MixerNormSpec,
    MixerSpec,
    ShortConvSpec,
)
from glmc.frontends.spec.norms import NormGateSpec, NormRef, NormSpec, NormUse
from glmc.frontends.spec.pooled import (
    HistorySpec,
    HyperSpec,
    IndexPoolSpec,
    PooledAttentionSpec,
    PoolIndexerSpec,
    PoolSpec,
)
from glmc.frontends.spec.positions import (
    AlibiSpec,
    LongRopeFactors,
    PositionsSpec,
    RopeSpec,
    SinusoidsSpec,
)
from glmc.frontends.spec.weights import (
    PublishedQuantization,
    Quantization,
    RowQuantization,
    WeightSpec,
    WeightUse,
)

__all__ = [
    "AffineSpec",
    "AlibiSpec",
    "AttentionSpec",
    "BlockIndexerSpec",
    "BranchSpec",
    "BranchesSpec",
    "Check",
    "ClampedGluSpec",
    "DecaySpec",
    "DifferenceSpec",
    "DistancesSpec",
    "EmbedSpec",
    "Expectation",
    "GateSpec",
    "GatedConvSpec",
    "HeadExpertsSpec",
    "HeadSpec",
    "HistorySpec",
    "HyperSpec",
    "IndexPoolSpec",
    "IndexerSpec",
    "LongRopeFactors",
    "LowRankSpec",
    "Match",
    "MixerNormSpec",
    "MixerSpec",
    "MlaSpec",
    "MlpSpec",
    "MoeSpec",
    "NormGateSpec",
    "NormRef",
    "NormSpec",
    "NormUse",
    "OpSpec",
    "PerLayer",
    "PerLayerEmbedSpec",
    "PerLayerInputSpec",
    "PoolIndexerSpec",
    "PoolSpec",
    "PooledAttentionSpec",
    "PositionsSpec",
    "PrefixEncoderSpec",
    "PublishedQuantization",
    "QkNorm",
    "Quantization",
    "QueryScaleSpec",
    "Refusal",
    "RopeSpec",
    "RowQuantization",
    "SharedSpec",
    "ShortConvSpec",
    "SinusoidsSpec",
    "Spec",
    "StepSpec",
    "StreamsSpec",
    "TokensSpec",
    "TransformSpec",
    "Variant",
    "WeightSpec",
    "WeightUse",
]
