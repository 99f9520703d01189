"""The readers by their names on the command line (python -m data_builders import --format NAME)."""

from __future__ import annotations

from data_builders.public_sets import edits, garments, mixed, refcoco
from data_builders.public_sets.items import Reader

_ALL = (
    Reader("instructpix2pix", "generated edits (arXiv 2211.09800)", edits.instructpix2pix),
    Reader("ultraedit", "generated edits, with regions (arXiv 2407.05282)", edits.ultraedit),
    Reader("magicbrush", "edits made by people, with regions (arXiv 2306.10012)", edits.magicbrush),
    Reader("refcoco", "masks for expressions: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO", refcoco.refcoco),
    Reader("viton-hd", "persons and garments (arXiv 2103.16874)", garments.viton_hd),
    Reader("x2i2", "edits, subjects and text to image of OmniGen2 (arXiv 2506.18871)", mixed.x2i2),
    Reader("ditto-1m", "edited videos (arXiv 2510.15742)", mixed.ditto),
)
READERS: dict[str, Reader] = {reader.name: reader for reader in _ALL}
