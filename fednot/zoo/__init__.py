"""Models that run with fednot out of the box; each declares its `first_layers`.

They need nothing but torch. A user's own model needs to declare first layers only where the first
layer is a bare parameter, as a vision transformer's positional embedding is.
"""

from fednot.zoo.cnn import Cnn
from fednot.zoo.lstm import EmbeddingLstm
from fednot.zoo.mlp import Mlp
from fednot.zoo.resnet import ResNet18
from fednot.zoo.vit import VisionTransformer

__all__ = ["Cnn", "EmbeddingLstm", "Mlp", "ResNet18", "VisionTransformer"]
