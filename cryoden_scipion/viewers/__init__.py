"""Viewers: one for each protocol, drawn with matplotlib."""

from .viewer_evaluate import CryodenChooseViewer as CryodenChooseViewer
from .viewer_evaluate import CryodenEvaluateViewer as CryodenEvaluateViewer
from .viewer_images import CryodenDenoiseViewer as CryodenDenoiseViewer
from .viewer_images import CryodenHalvesViewer as CryodenHalvesViewer
from .viewer_train import CryodenTrainViewer as CryodenTrainViewer
