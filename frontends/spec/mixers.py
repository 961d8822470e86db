"""Mixers: a state of fixed size from token to token."""

from glmc.frontends.language.derived import Makes, Slot
from glmc.frontends.language.kinds import Number
from glmc.frontends.language.sections import Section
from glmc.ir import model as m

_CONV = Makes(m.ShortConv, {"q": "conv_q", "k": "conv_k", "v": "conv_v"})


class ShortConvSpec(Section, makes=_CONV):
    """A causal convolution of each channel: slots ``conv_q``, ``conv_k``, ``conv_v``,
    of which those that are there are convolved."""


_DECAY = Makes(
    m.Decay,
    slots={
        "down": Slot("mix_decay_down", unless_null="rank"),
        "project": "mix_decay",
        "bias": "dt_bias",
    },
)


class DecaySpec(Section, makes=_DECAY):
    """The decay of a state: slots ``mix_decay``, ``dt_bias`` and ``a_log``, and with a
    ``rank`` ``mix_decay_down``, which ``mix_decay`` reads."""


class SteadyDecaySpec(Section, makes=Makes(m.SteadyDecay)):
    """A decay that no token changes, faster from head to head."""

    scale: Number = 1.0


_MEMORY = Makes(m.Memory, {"input": "mix_input", "forget": "mix_forget"})


class MemorySpec(Section, makes=_MEMORY):
    """Gates that are exponential: slots ``mix_input`` and ``mix_forget``."""


_NORM = Makes(
    m.MixerNorm,
    slots={
        "weight": Slot("mix_norm", unless_null="eps"),
        "down": Slot("mix_gate_down", unless_null="rank"),
        "gate": "mix_gate",
    },
)


class MixerNormSpec(Section, makes=_NORM):
    """The gated norm of a scan's result: slots ``mix_norm`` and ``mix_gate``, and with
    a ``rank`` ``mix_gate_down``, which ``mix_gate`` reads."""


_MIXER = Makes(
    m.Mixer,
    slots={
        "q": "mix_q",
        "k": "mix_k",
        "v": "mix_v",
        "beta": "mix_beta",
        "skip": "mix_skip",
        "o": "mix_o",
    },
)


class MixerSpec(Section, makes=_MIXER):
    """A scan: the delta rule where there is a slot ``mix_beta``, and else a sum that
    decays."""

    steady: SteadyDecaySpec | None = None


_SELECTIVE = Makes(
    m.Selective,
    slots={
        "v": "mix_v",
        "step_down": "mix_decay_down",
        "step": "mix_decay",
        "k": "mix_k",
        "q": "mix_q",
        "skip": "mix_skip",
        "gate": "mix_gate",
        "o": "mix_o",
    },
)


class SelectiveSpec(Section, makes=_SELECTIVE):
    """A scan of channels (Mamba-1): slots ``mix_v``, ``conv_v``, ``mix_decay_down``,
    ``mix_decay``, ``mix_k``, ``mix_q``, ``a_log``, ``mix_skip``, ``mix_gate``,
    ``mix_o``."""


_GATED = Makes(m.GatedConv, {"q": "mix_q", "k": "mix_k", "v": "mix_v", "o": "mix_o"})


class GatedConvSpec(Section, makes=_GATED):
    """A short convolution between two gates: mix_o(mix_q · conv(mix_k · mix_v)), with
    slot ``conv_v``."""


_LRU = Makes(
    m.Lru,
    slots={
        "v": "mix_v",
        "input": "mix_input",
        "recurrence": "mix_decay",
        "rate": "mix_rate",
        "gate": "mix_gate",
        "o": "mix_o",
    },
)


class LruSpec(Section, makes=_LRU):
    """A gated linear recurrent unit (RG-LRU): slots ``mix_v``, ``conv_v``,
    ``mix_input``, ``mix_decay``, ``mix_rate``, ``mix_gate``, ``mix_o``."""


_TIME_MIX = Makes(
    m.TimeMix,
    slots={
        "k_blend": "blend_k",
        "v_blend": "blend_v",
        "gate_blend": "blend_gate",
        "k": "mix_k",
        "v": "mix_v",
        "gate": "mix_gate",
        "rate": "mix_rate",
        "first": "mix_first",
        "o": "mix_o",
    },
)


class TimeMixSpec(Section, makes=_TIME_MIX):
    """A mean of values that favours near tokens (RWKV-4): slots ``mix_k``, ``mix_v``,
    ``mix_gate``, each with its weights of a token and the one before, ``blend_k``,
    ``blend_v``, ``blend_gate``; ``mix_rate``, ``mix_first``, ``mix_o``."""


_CHANNEL_MIX = Makes(
    m.ChannelMix,
    slots={"up_blend": "ff_blend_up", "gate_blend": "ff_blend_gate"},
)


class ChannelMixSpec(Section, makes=_CHANNEL_MIX):
    """A feed-forward of blended tokens behind a gate (RWKV-4): slots ``up``, ``gate``
    and ``down``, and the weights ``ff_blend_up`` and ``ff_blend_gate``."""
