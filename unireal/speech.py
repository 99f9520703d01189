"""A spoken prompt to text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SPEECH_MODEL = "openai/whisper-tiny"
_RATE = 16_000  # Hz
MAX_SPEECH = 30.0  # seconds: what Whisper hears at once


def transcribe(path: str | Path, model: str) -> str:
    """What is said in an audio file, by a speech recognition model of transformers (folder or hub id, safetensors).

    Raises ValueError if the file or the model cannot be read, the speech is too long, or nothing was understood.
    """
    speech = read_speech(path, _RATE)
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        recognizer = pipeline("automatic-speech-recognition", model=model, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--speech-model {model!r} cannot be loaded ({reason}); give a folder or a hub id") from error
    rate = recognizer.feature_extractor.sampling_rate
    if rate != _RATE:
        speech = read_speech(path, rate)
    text = " ".join(recognizer({"raw": speech, "sampling_rate": rate})["text"].split())
    if not text:
        raise ValueError(f"nothing was understood in {str(path)!r}; speak up, or type the --prompt")
    return text


def read_speech(path: str | Path, rate: int) -> np.ndarray:
    """An audio file, or the first audio track of a video, as mono float32 (N,) in -1..1 at `rate` Hz.

    Raises ValueError if it is missing, not audio, empty, or longer than MAX_SPEECH.
    """
    import av

    if not Path(path).is_file():
        raise ValueError(f"audio {str(path)!r} is not a file; give the path of a WAV, FLAC, MP3 or other recording")
    parts: list[np.ndarray] = []
    try:
        # Names may hold colons, which are else taken for a protocol; titles come in any encoding.
        with av.open(f"file:{path}", metadata_errors="replace") as file:
            if not file.streams.audio:
                raise ValueError(f"audio {str(path)!r} has no audio track; give a recording")
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            for frame in file.decode(audio=0):
                parts += [part.to_ndarray().ravel() for part in resampler.resample(frame)]
                if sum(map(len, parts)) > MAX_SPEECH * rate:
                    raise ValueError(f"audio {str(path)!r} is longer than {MAX_SPEECH:.0f} s; cut it")
            parts += [part.to_ndarray().ravel() for part in resampler.resample(None)]
    except av.FFmpegError as error:
        raise ValueError(f"audio {str(path)!r} cannot be read ({error.strerror}); give an intact recording") from error
    if not sum(map(len, parts)):
        raise ValueError(f"audio {str(path)!r} is empty; give a recording of a spoken prompt")
    return np.concatenate(parts).astype(np.float32)
