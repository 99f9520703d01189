"""The builders that make samples of clips, by name. To add one, write its module and add its value here."""

from __future__ import annotations

from data_builders.builders.base import VideoBuilder
from data_builders.builders.damaged import INPAINT, OUTPAINT, RESTORE
from data_builders.builders.frame2frame import FRAME2FRAME
from data_builders.builders.maps import CONTROL
from data_builders.builders.object_sets import INSERTION, MULTI_OBJECT, OBJECT_ADD, SEGMENTATION
from data_builders.builders.text_to_image import TEXT_TO_IMAGE
from data_builders.builders.video_edit import VIDEO_EDIT

_ALL = (
    *(FRAME2FRAME, MULTI_OBJECT, INSERTION, OBJECT_ADD, SEGMENTATION, CONTROL),
    *(INPAINT, OUTPAINT, RESTORE, TEXT_TO_IMAGE, VIDEO_EDIT),
)
VIDEO_BUILDERS: dict[str, VideoBuilder] = {builder.name: builder for builder in _ALL}
