"""Encoders of images: ``base``, ``efficientnet_lite``, and models of torchvision and of timm."""
