"""The procedural world: rooms with coloured shapes, drawn with exact captions, masks, tracks and depth."""
