"""Codes of 4 and 8 bits that the runtime packs, for targets that read them so.

At load time ``pack_codes`` of the runtime puts the codes of a row into words; what it
cannot pack is made floats of.
"""

import math

WORD, RUN = 32, 16
"""Bits of the words that codes are packed in, and the columns of a row that lie in the
same bits of neighbouring words."""


def unfit(bits: int, width: int, group: int) -> str | None:
    """Say why rows of ``width`` codes cannot be packed in words, or None.

    Args:
        bits: of a code, 4 or 8.
        width: columns of a row.
        group: neighbouring columns that share a scale; it divides ``width``.
    """
    run = math.gcd(width * bits // WORD, RUN)
    tile = run * WORD // bits
    if width * bits % WORD:
        return f"rows of {width} codes do not fill words of {WORD} bits"
    if group % run or (tile % group and group % tile):
        return (
            f"groups of {group} do not fit the tiles of {tile} codes that kernels read"
        )
    return None
