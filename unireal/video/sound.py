"""The sound of a video, copied packet by packet into another file, and which files can hold it."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import AudioStream, Packet
    from av.container import InputContainer, OutputContainer

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}  # suffix -> muxer
JUMP = 1  # seconds: a clock that goes back by more has been set anew


def open_media(path: Path) -> InputContainer:
    """Raises what PyAV raises for files that cannot be read."""
    import av

    # Names may hold colons, which are else taken for a protocol; titles come in any encoding.
    return av.open(f"file:{path}", metadata_errors="replace")


def set_anew(path: Path, last: Fraction) -> ValueError:
    """The error of a file whose time stamps jump back after `last` seconds."""
    told = f"the time stamps of {str(path)!r} jump back at {float(last):.2f} s, as where recordings were joined"
    return ValueError(f"{told}; write it with one clock first, as with ffmpeg -i {path.name} -c copy new.mkv")


class Sound:
    """The sound tracks of a file, on their way into another."""

    def __init__(self, path: Path, output: OutputContainer):
        self.path, self._input, self._output = path, open_media(path), output
        tracks: list[AudioStream] = list(self._input.streams.audio)
        self._targets = {track.index: output.add_stream_from_template(track) for track in tracks}
        for track in tracks:
            kept = [item for item in track.metadata.items() if item[0] in ("language", "title")]
            self._targets[track.index].metadata.update(kept)
        self._packets = (packet for packet in self._input.demux(tracks) if packet.dts is not None)
        self._next = next(self._packets, None)
        self._last: dict[int, int] = {}  # by track: when its last packet is decoded

    def copy(self, until: Fraction | None) -> None:
        """The packets before a time in seconds, or all that are left. Raises ValueError if their clock is set anew."""
        while self._next is not None and (until is None or _seconds(self._next) < until):
            packet, self._next = self._next, next(self._packets, None)
            self._rise(packet)
            packet.stream = self._targets[packet.stream.index]
            self._output.mux(packet)

    def _rise(self, packet: Packet) -> None:
        """Muxers need times that rise."""
        assert packet.dts is not None and packet.time_base is not None  # others are left out
        last = self._last.get(packet.stream.index)
        if last is not None and packet.dts <= last:
            if (last - packet.dts) * packet.time_base > JUMP:
                raise set_anew(self.path, last * packet.time_base)
            packet.dts = last + 1
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
        self._last[packet.stream.index] = packet.dts

    def copy_some(self) -> None:
        """The packets of a second."""
        self.copy(None if self._next is None else _seconds(self._next) + 1)

    def close(self) -> None:
        self._input.close()


def _seconds(packet: Packet) -> Fraction:
    """When a packet is decoded."""
    assert packet.dts is not None and packet.time_base is not None  # others are left out
    return packet.dts * packet.time_base


def holds_sound(suffix: str, path: Path) -> bool:
    """Whether files with that suffix can hold the sound of a video: muxers tell it when they write some of it."""
    import av

    try:
        with av.open(io.BytesIO(), "w", format=FORMATS[suffix]) as container:
            sound = Sound(path, container)
            try:
                sound.copy_some()
            finally:
                sound.close()
    except (av.FFmpegError, ValueError):
        return False
    return True
