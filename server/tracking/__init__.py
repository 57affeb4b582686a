"""Trackers: what every release says of itself, told to TensorBoard, MLflow or Weights & Biases too. They change nothing."""
