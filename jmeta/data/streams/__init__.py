"""Streams drawn on the device: delayed labels, one class after another, MNIST's tasks, OSAKA."""
